"""
The displays of scikit-learn
============================

The estimators follow the interface of scikit-learn, so that its displays, metrics and validation
work with them.
"""

# %%
# Small patches of three photographs. With ``memory=``, each is computed once for all training
# sizes, folds and models.
import tempfile

import numpy as np
from matplotlib import pyplot as plt
from skimage import data
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LearningCurveDisplay, train_test_split
from sklearn.pipeline import make_pipeline

from sktransfer import PretrainedFeatureExtractor


def patches(image, side=16):
    rows = range(0, image.shape[0], side)
    return [image[r : r + side, c : c + side] for r in rows for c in rows]


surfaces = {"brick": data.brick(), "grass": data.grass(), "gravel": data.gravel()}
X = [patch for image in surfaces.values() for patch in patches(image)[::13]]
y = np.repeat(list(surfaces), len(X) // 3)
extractor = PretrainedFeatureExtractor(image_size=64, memory=tempfile.mkdtemp())
model = make_pipeline(extractor, LogisticRegression(C=0.1, max_iter=1000))

# %%
# A learning curve:
LearningCurveDisplay.from_estimator(
    model, X, y, cv=3, train_sizes=[0.05, 0.1, 0.25, 0.5, 1.0], score_name="accuracy", shuffle=True,
    random_state=0,
)  # fmt: skip
plt.show()

# %%
# ROC curves of one class against the others, with features and with grey values:
from sklearn.metrics import RocCurveDisplay
from sklearn.preprocessing import FunctionTransformer

flat = FunctionTransformer(lambda images: [image.ravel() / 255 for image in images])
pixels = make_pipeline(flat, LogisticRegression(max_iter=1000))
X_train, X_test, y_train, y_test = train_test_split(X, y, train_size=60, random_state=0, stratify=y)
_, axis = plt.subplots(figsize=(5, 4.5), layout="constrained")
for name, estimator in {"features": model, "grey values": pixels}.items():
    estimator.fit(X_train, y_train == "gravel")
    RocCurveDisplay.from_estimator(estimator, X_test, y_test == "gravel", name=name, ax=axis)
axis.set(xlabel="false positive rate", ylabel="true positive rate", title="is it gravel?")
plt.show()

# %%
# Which errors occur:
from sklearn.metrics import ConfusionMatrixDisplay

model.fit(X_train, y_train)
ConfusionMatrixDisplay.from_estimator(model, X_test, y_test, colorbar=False)
plt.show()
