"""
A grid search that computes each image once
===========================================

A grid search fits a pipeline for each candidate and each fold. With ``memory=``, the features of
each image are computed once and kept in a folder, by the content of the image. Other searches,
sessions and processes use them again.
"""

# %%
# 192 patches of three photographs:
import tempfile

import numpy as np
from skimage import data
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from sktransfer import FeatureStore, PretrainedFeatureExtractor


def patches(image, side=64):
    rows = range(0, image.shape[0], side)
    return [image[r : r + side, c : c + side] for r in rows for c in rows]


surfaces = {"brick": data.brick(), "grass": data.grass(), "gravel": data.gravel()}
X = [patch for image in surfaces.values() for patch in patches(image)]
y = np.repeat(list(surfaces), 64)

# %%
# Six penalties and five folds are 30 fits and one at the end, each of which would pass its images
# through the network, and its held-out images again.
extractor = PretrainedFeatureExtractor(image_size=128, memory=tempfile.mkdtemp())
model = Pipeline([("features", extractor), ("classifier", LogisticRegression(max_iter=200))])
search = GridSearchCV(model, {"classifier__C": [1e-4, 1e-3, 0.01, 0.1, 1, 10]}, cv=5)

from time import perf_counter

seconds = {}
for run in ("first search", "second search"):
    start = perf_counter()
    search.fit(X, y)
    seconds[run] = perf_counter() - start
    print(f"{run}: {seconds[run]:.1f} s, {len(FeatureStore(extractor.memory))} images in the store")

start = perf_counter()
PretrainedFeatureExtractor(image_size=128).fit_transform(X)
seconds["one pass\nthrough the network"] = perf_counter() - start

# %%
# The first search takes as long as one pass through the network and a search on its features; the
# second one only reads.
from matplotlib import pyplot as plt

figure, axis = plt.subplots(figsize=(6, 2.2), layout="constrained")
bars = axis.barh(list(seconds), list(seconds.values()), color=["C0", "C0", "0.7"])
axis.bar_label(bars, fmt="%.1f s", padding=3)
axis.invert_yaxis()
axis.set(xlabel="seconds")
axis.spines[["top", "right"]].set_visible(False)
plt.show()
