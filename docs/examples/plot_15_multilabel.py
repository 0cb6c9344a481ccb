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

# %%
# The head has one output for each label, with a probability of its own.
from sktransfer import FineTunedClassifier

model = FineTunedClassifier(trainable="head", image_size=96, random_state=0).fit(X[:80], Y[:80])
predicted = model.predict(X[80:])
print(f"share of labels that are right: {(predicted == Y[80:]).mean():.3f}")

# %%
# Test images of two materials, with the probability of each label:
both = 80 + np.flatnonzero(Y[80:].sum(axis=1) == 2)[:4]
shown = [X[i] for i in both]
probabilities = model.predict_proba(shown)
figure, axes = plt.subplots(2, 4, figsize=(9, 3), layout="constrained", height_ratios=(1, 1.2))
for (above, below), x, values in zip(axes.T, shown, probabilities, strict=True):
    above.imshow(x, cmap="gray")
    above.axis("off")
    below.barh(names[::-1], values[::-1], color=["C0" if v > 0.5 else "0.7" for v in values[::-1]])
    below.set(xlim=(0, 1), xticks=(0, 0.5, 1))
axes[1, 0].set_xlabel("probability")
plt.show()

# %%
from sklearn.metrics import classification_report

print(classification_report(Y[80:], predicted, target_names=names, zero_division=0))
