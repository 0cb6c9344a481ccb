"""
The displays of scikit-learn
============================

The estimators follow the interface of scikit-learn, so that its displays, metrics and validation
work with them.
"""

# %%
# A learning curve. With ``memory=``, each image is computed once for all training sizes and folds.
import tempfile

from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LearningCurveDisplay
from sklearn.pipeline import make_pipeline

from sktransfer import PretrainedFeatureExtractor

digits = load_digits()
X, y = list(digits.images[:300] / 16), digits.target[:300]
extractor = PretrainedFeatureExtractor(
    layer="blocks.9", pooling="flatten", image_size=64, memory=tempfile.mkdtemp()
)
model = make_pipeline(extractor, LogisticRegression(C=0.01, max_iter=1000))
LearningCurveDisplay.from_estimator(
    model, X, y, cv=3, train_sizes=[0.1, 0.25, 0.5, 1.0], score_name="accuracy"
)
plt.show()

# %%
# ROC curves of one class against the others:
from sklearn.metrics import RocCurveDisplay

model.fit(X[:100], y[:100] == 8)
RocCurveDisplay.from_estimator(model, X[100:], y[100:] == 8, name="is it an 8?")
plt.show()

# %%
# Which errors occur:
from sklearn.metrics import ConfusionMatrixDisplay

model.fit(X[:100], y[:100])
ConfusionMatrixDisplay.from_estimator(model, X[100:], y[100:], colorbar=False)
plt.show()
