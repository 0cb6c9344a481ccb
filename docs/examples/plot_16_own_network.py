"""
Your own network
================

Every ``torch.nn.Module`` can be a backbone. Its stages are found by tracing its ``forward`` with
torch.fx. This one is small, takes tables of numbers and has not been trained, which is enough to
show how it is used.
"""

# %%
import torch
from torch import nn

from sktransfer import PretrainedFeatureExtractor

torch.manual_seed(0)
network = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU())
network.append(nn.Linear(128, 10))

# %%
# Features of a layer of this network, in a pipeline:
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

X, y = load_digits(return_X_y=True)
model = Pipeline(
    [("features", PretrainedFeatureExtractor(network)), ("classifier", LogisticRegression())]
)
search = GridSearchCV(model, {"features__layer": ["0", "1", "3"]}, cv=3).fit(X[:300] / 16, y[:300])
for candidate, score in zip(
    search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
):
    print(candidate, f"{score:.3f}")

# %%
# The first layers keep more of the digits than the last one, which nobody has trained.
from matplotlib import pyplot as plt

wrong = 1 - search.cv_results_["mean_test_score"]
figure, axis = plt.subplots(figsize=(6, 2), layout="constrained")
bars = axis.barh(["0 (Linear)", "1 (ReLU)", "3 (ReLU)"], wrong, color=["C0", "C0", "0.7"])
axis.bar_label(bars, fmt="{:.1%}", padding=3)
axis.invert_yaxis()
axis.margins(x=0.1)
axis.set(xlabel="wrong in cross-validation", ylabel="layer", xticks=[])
axis.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# A name can be used by all estimators of a process. Files of fitted models contain it instead of
# the weights:
from sktransfer import register_backbone


@register_backbone("tiny")
def tiny():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


extractor = PretrainedFeatureExtractor("tiny").fit(X / 16)
extractor.layers_, extractor.transform(X[:5] / 16).shape
