"""
Prediction sets that hold what they promise
===========================================

A conformal classifier predicts a set of labels that contains the true one with a given
probability, say 95 %. `MAPIE <https://mapie.readthedocs.io>`_ takes any fitted scikit-learn
classifier, and so a pipeline with a pretrained network.
"""

# %%
# Patches of 16 x 16 pixels of three photographs, on which the network is sometimes wrong. A third
# of the samples is for training, a third for calibration, and a third for testing.
import numpy as np
from skimage import data
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from sktransfer import PretrainedFeatureExtractor


def patches(image, side=16):
    rows = range(0, image.shape[0], side)
    return [image[r : r + side, c : c + side] for r in rows for c in rows]


surfaces = {"brick": data.brick(), "grass": data.grass(), "gravel": data.gravel()}
X = np.stack([patch for image in surfaces.values() for patch in patches(image)[::7]])
y = np.repeat(list(surfaces), len(X) // 3)
X_train, X, y_train, y = train_test_split(X, y, train_size=1 / 3, random_state=0, stratify=y)
X_held, X_test, y_held, y_test = train_test_split(X, y, test_size=0.5, random_state=0, stratify=y)

model = make_pipeline(PretrainedFeatureExtractor(image_size=64), LogisticRegression(C=0.1))
model.fit(X_train, y_train)
print(f"accuracy: {model.score(X_test, y_test):.3f}")

# %%
# The held-out samples decide how probable a label must be to enter the set.
from mapie.classification import SplitConformalClassifier

settings = {"estimator": model, "confidence_level": 0.95, "prefit": True}
conformal = SplitConformalClassifier(**settings)
conformal.conformalize(X_held, y_held)
_, sets = conformal.predict_set(X_test)
sets = sets[:, :, 0]
contained = sets[np.arange(len(y_test)), np.searchsorted(model.classes_, y_test)]
print(f"sets that contain the label: {contained.mean():.3f}")
print(f"sets of one label: {(sets.sum(axis=1) == 1).mean():.3f}")

# %%
# Above, the sets; below, what the patches are. Where a patch could be grass or gravel, the set says
# so.
from matplotlib import pyplot as plt

doubtful = np.flatnonzero(sets.sum(axis=1) > 1)[:4]
certain = np.flatnonzero(sets.sum(axis=1) == 1)[:4]
figure, axes = plt.subplots(1, 8, figsize=(10, 2.2), layout="constrained")
for axis, i in zip(axes, [*certain, *doubtful], strict=True):
    axis.imshow(X_test[i], cmap="gray")
    axis.set_title("\n".join(model.classes_[sets[i]]), fontsize="medium", va="bottom")
    axis.set(xlabel=f"is {y_test[i]}", xticks=[], yticks=[])
    axis.xaxis.label.set_color("C2" if contained[i] else "C3")
plt.show()
