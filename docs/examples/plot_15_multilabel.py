"""
Several labels for a sample
===========================

If a sample can have several labels, ``y`` is an indicator matrix, as in scikit-learn.
"""

# %%
# Each image consists of two patches, and its labels are the materials that are visible.
import numpy as np
from skimage import data


def patches(image, side=64):
    rows = range(0, image.shape[0], side)
    return [image[r : r + side, c : c + side] for r in rows for c in rows]


from matplotlib import pyplot as plt

rng = np.random.default_rng(0)
names = ["brick", "grass", "gravel"]
cut = [patches(image) for image in (data.brick(), data.grass(), data.gravel())]
pairs = rng.integers(0, 3, (160, 2))
X = [np.hstack([cut[a][rng.integers(64)], cut[b][rng.integers(64)]]) for a, b in pairs]
Y = np.zeros((160, 3), int)
for row, pair in zip(Y, pairs, strict=True):
    row[pair] = 1

figure, axes = plt.subplots(1, 4, figsize=(8, 1.5), layout="constrained")
for axis, x, row in zip(axes, X, Y, strict=False):
    axis.imshow(x, cmap="gray")
    axis.set_title(", ".join(name for name, there in zip(names, row, strict=True) if there))
    axis.axis("off")
plt.show()

# %%
# The head has one output for each label, with a probability of its own.
from sktransfer import FineTunedClassifier

model = FineTunedClassifier(trainable="head", image_size=96, random_state=0).fit(X[:80], Y[:80])
predicted = model.predict(X[80:])
print(f"share of labels that are right: {(predicted == Y[80:]).mean():.3f}")

# %%
from sklearn.metrics import classification_report

print(classification_report(Y[80:], predicted, target_names=names, zero_division=0))
