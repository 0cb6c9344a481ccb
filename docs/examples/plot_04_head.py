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

figure, axes = plt.subplots(1, 8, figsize=(8, 1.2), layout="constrained")
for axis, i in zip(axes, (0, 1, 2, 3, 100, 101, 102, 103), strict=True):
    axis.imshow(X[i], cmap="gray")
    axis.axis("off")
plt.show()

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
# ``history_`` has a row for each epoch:
losses = {name: [row[name] for row in model.history_] for name in ("train_loss", "valid_loss")}
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
for name, values in losses.items():
    axis.plot(range(1, len(values) + 1), values, label=name)
axis.set(xlabel="epoch", ylabel="log loss")
axis.legend()
plt.show()
