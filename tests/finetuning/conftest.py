"""A small network on vectors, and vectors with labels, for all tests of fine-tuning."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from torch import nn

from sktransfer import PretrainedFeatureExtractor
from sktransfer.features import compute_inputs

SGD = {
    "optimizer": torch.optim.SGD,
    "optimizer__momentum": 0.9,
    "optimizer__weight_decay": 1e-4,
}


def dropout_head(n_features, n_outputs):
    return nn.Sequential(nn.Dropout(0.5), nn.Linear(n_features, n_outputs))


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU())
        return nn.Sequential(first, nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))


def tuned_network(model):
    """The tuned network of a fitted estimator, from which files are made."""
    return model.to_backbone().network


def net_inputs(model, X):
    """What the frozen stages make of samples: the input of ``net_``."""
    if not model.frozen_layers_:
        return compute_inputs(X, model.backbone_)
    last = model.frozen_layers_[-1]
    return PretrainedFeatureExtractor(model.backbone_, layer=last).fit_transform(X)


def vectors():
    X, y = make_blobs(90, 6, centers=3, cluster_std=4.0, random_state=0)
    return X.astype(np.float32), np.array(["ant", "bee", "wasp"])[y]


@pytest.fixture
def data():
    return vectors()
