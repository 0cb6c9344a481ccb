"""
A grid search that computes each image once
===========================================

A grid search fits a pipeline for each candidate and each fold. With ``memory=``, the features of
each image are computed once and kept in a folder, by the content of the image. Other searches,
sessions and processes use them again.
"""

# %%
import tempfile

from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from sktransfer import FeatureStore, PretrainedFeatureExtractor

digits = load_digits()
X, y = list(digits.images[:200] / 16), digits.target[:200]
folder = tempfile.mkdtemp()

# %%
# Two layers, four penalties and five folds: 40 fits and one at the end.
extractor = PretrainedFeatureExtractor(image_size=64, pooling="flatten", memory=folder)
model = Pipeline([("features", extractor), ("classifier", LogisticRegression(max_iter=1000))])
grid = {
    "features__layer": ["blocks.4", "blocks.9"],
    "classifier__C": [0.001, 0.01, 0.1, 1],
}
search = GridSearchCV(model, grid, cv=5)

from time import perf_counter

for run in ("first", "second"):
    start = perf_counter()
    search.fit(X, y)
    print(f"{run} search: {perf_counter() - start:.1f} s, {len(FeatureStore(folder))} entries")

# %%
# Accuracy in cross-validation:
import pandas as pd
from matplotlib import pyplot as plt

results = pd.DataFrame(search.cv_results_)
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
for layer, rows in results.groupby("param_features__layer"):
    axis.errorbar(
        rows["param_classifier__C"].astype(float),
        rows["mean_test_score"],
        rows["std_test_score"],
        label=layer,
        capsize=3,
    )
axis.set(xscale="log", xlabel="C", ylabel="accuracy")
axis.legend()
plt.show()
