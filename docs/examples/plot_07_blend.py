"""
Several layers and sizes together
=================================

With few labels, it is not known which layer of a network is best, and how large the images should
be. ``TransferClassifier`` does not choose: it takes a weighted mean of the predictions of several
models, with weights from cross-validation.
"""

# %%
import numpy as np
from skimage import data


def patches(image, side=64):
    rows = range(0, image.shape[0], side)
    return [image[r : r + side, c : c + side] for r in rows for c in rows]


surfaces = {"brick": data.brick(), "grass": data.grass(), "gravel": data.gravel()}
X = [patch for image in surfaces.values() for patch in patches(image, 32)]
y = np.repeat(list(surfaces), len(X) // 3)
rng = np.random.default_rng(0)
order = rng.permutation(len(X))
train, test = order[:9], order[9:109]
X_train, X_test = [X[i] for i in train], [X[i] for i in test]

# %%
# Three lines, and no parameters:
from sktransfer import TransferClassifier

model = TransferClassifier(random_state=0).fit(X_train, y[train])
print(f"{len(X_train)} labels, accuracy {model.score(X_test, y[test]):.3f}")

# %%
# A linear classifier on the features of one layer at one size, for comparison:
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import PretrainedFeatureExtractor

one = make_pipeline(PretrainedFeatureExtractor(), LogisticRegression()).fit(X_train, y[train])
print(f"one layer, one size: accuracy {one.score(X_test, y[test]):.3f}")

# %%
# What the model consists of:
from matplotlib import pyplot as plt

from sktransfer import BlendDisplay

BlendDisplay.from_estimator(model)
plt.show()
