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
print(f"accuracy: {model.score(X_test, y_test):.3f}")

# %%
# Accuracy with one to ten labelled patches of each surface, compared with the same classifier on
# the grey values, which is not much better than chance. The features are computed once.
features = model[0].transform(X)
pixels = np.stack([patch.ravel() / 255 for patch in X])
n_labels = [1, 2, 3, 5, 10]
place = np.arange(len(X)) % 64
test = place >= 10

# sphinx_gallery_thumbnail_number = 2
figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
for name, table in {"features of the network": features, "grey values": pixels}.items():
    scores = []
    for n in n_labels:
        classifier = LogisticRegression(max_iter=1000).fit(table[place < n], y[place < n])
        scores.append(classifier.score(table[test], y[test]))
    axis.plot(n_labels, scores, "o-", label=name)
    print(name, np.round(scores, 3))
axis.axhline(1 / 3, color="0.6", linestyle=":", label="chance")
axis.set(xlabel="labelled patches of each surface", ylabel="accuracy", ylim=(0, 1.05))
axis.legend()
plt.show()
