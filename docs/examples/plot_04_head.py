"""
A new head
==========

``FineTunedClassifier(trainable="head")`` replaces the last layer of the network by a new one and
trains it, while the rest of the network is fixed. The fixed part computes each sample once, before
the training begins.
"""

# %%
# Faces, and parts of photographs that are none: 200 images of 25 x 25 pixels.
import numpy as np
from matplotlib import pyplot as plt
from skimage import data

X = list(data.lfw_subset().astype("float32"))
y = np.repeat(["face", "other"], 100)

# %%
# The head starts from a regularised linear classifier (``head_init="probe"``). With
# ``validation_fraction``, some training samples are held out, and the epoch with the lowest loss on
# them is kept.
from sklearn.model_selection import train_test_split

from sktransfer import FineTunedClassifier

X_train, X_test, y_train, y_test = train_test_split(X, y, train_size=60, random_state=0, stratify=y)
model = FineTunedClassifier(
    trainable="head", image_size=96, validation_fraction=0.2, random_state=0
).fit(X_train, y_train)
print(f"accuracy: {model.score(X_test, y_test):.3f}, epoch {model.best_epoch_} was the best")

# %%
# Ten of the test images, from the least to the most probable face:
probability = model.predict_proba(X_test)[:, list(model.classes_).index("face")]
shown = np.argsort(probability)[np.linspace(0, len(X_test) - 1, 10).astype(int)]
figure, axes = plt.subplots(1, 10, figsize=(9, 1.3), layout="constrained")
for axis, i in zip(axes, shown, strict=True):
    axis.imshow(X_test[i], cmap="gray")
    axis.set_title(f"{probability[i]:.0%}", color="C2" if probability[i] > 0.5 else "C3")
    axis.axis("off")
figure.suptitle("probability of a face", fontsize="medium")
plt.show()

# %%
# ``history_`` has a row for each epoch, here the first and the last:
for row in (model.history_[0], model.history_[-1]):
    print({name: row[name] for name in ("epoch", "train_loss", "valid_loss")})
