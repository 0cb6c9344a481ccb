"""
Input sizes
===========

A network can be given images of another size than it was trained with. Larger ones show more
detail, and cost more. ``image_size`` also takes a list: the features of all sizes, side by side.
"""

# %%
import numpy as np
from skimage import data


def patches(image, side=64):
    rows = range(0, image.shape[0], side)
    return [image[r : r + side, c : c + side] for r in rows for c in rows]


from time import perf_counter

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import PretrainedFeatureExtractor

surfaces = {"brick": data.brick(), "grass": data.grass(), "gravel": data.gravel()}
X = [patch for image in surfaces.values() for patch in patches(image, 32)]
y = np.repeat(list(surfaces), len(X) // 3)
order = np.random.default_rng(0).permutation(len(X))
train, test = order[:30], order[30:180]

# %%
# Accuracy and time for each size:
X_train, X_test = [X[i] for i in train], [X[i] for i in test]
results = {}
for size in (32, 64, 128, 224, [64, 128]):
    model = make_pipeline(PretrainedFeatureExtractor(image_size=size), LogisticRegression())
    model.fit(X_train, y[train])
    start = perf_counter()
    score = model.score(X_test, y[test])
    results[str(size)] = score, (perf_counter() - start) / len(test) * 1000
    print(f"{size!s:10} {score:.3f}, {results[str(size)][1]:.1f} ms an image")

# %%
from matplotlib import pyplot as plt

figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
for name, (score, milliseconds) in results.items():
    axis.scatter(milliseconds, score)
    axis.annotate(name, (milliseconds, score), xytext=(5, -4), textcoords="offset points")
axis.set(xlabel="milliseconds an image", ylabel="accuracy")
plt.show()
