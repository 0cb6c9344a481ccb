"""
Fixed features in a pipeline
============================

A pretrained network turns each image into a vector. Any scikit-learn estimator can be trained on
these vectors. Here, patches of three surfaces are classified from five labelled patches of each.
"""

# %%
# The photographs of brick, grass and gravel ship with scikit-image. Each is cut into 64 patches.
# The training patches are those of the upper left corner, so that training and test patches do not
# overlap.
import numpy as np
from matplotlib import pyplot as plt
from skimage import data


def patches(image, side=64):
    rows = range(0, image.shape[0], side)
    return [image[r : r + side, c : c + side] for r in rows for c in rows]


surfaces = {"brick": data.brick(), "grass": data.grass(), "gravel": data.gravel()}
X = [patch for image in surfaces.values() for patch in patches(image)]
y = np.repeat(list(surfaces), 64)

train = np.arange(len(X)) % 64 < 5
X_train = [X[i] for i in np.flatnonzero(train)]
X_test = [X[i] for i in np.flatnonzero(~train)]
y_train, y_test = y[train], y[~train]

figure, axes = plt.subplots(1, 6, figsize=(8, 1.8), layout="constrained")
for axis, i in zip(axes, (0, 40, 64, 104, 128, 168), strict=True):
    axis.imshow(X[i], cmap="gray")
    axis.set_title(y[i], fontsize="medium")
    axis.axis("off")

# %%
# ``PretrainedFeatureExtractor`` is a transformer. Nothing is loaded before ``fit``.
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import PretrainedFeatureExtractor

model = make_pipeline(PretrainedFeatureExtractor(image_size=128), LogisticRegression())
model.fit(X_train, y_train)

# %%
# The same classifier on the grey values is not much better than chance.
pixels = make_pipeline(LogisticRegression(max_iter=1000))
pixels.fit([x.ravel() / 255 for x in X_train], y_train)

print(f"features: {model.score(X_test, y_test):.3f}")
print(f"pixels:   {pixels.score([x.ravel() / 255 for x in X_test], y_test):.3f}")

# %%
# Confusions on the test patches:
from sklearn.metrics import ConfusionMatrixDisplay

ConfusionMatrixDisplay.from_predictions(y_test, model.predict(X_test), colorbar=False)
plt.show()
