"""scikit-learn's own checks, over an own network on plain vectors: no failure is expected."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from sktransfer import (
    FineTunedClassifier,
    FineTunedRegressor,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    TransferClassifier,
    TransferRegressor,
    load_backbone,
)
from tests.finetuning.conftest import SGD
from tests.support import Vectors

ESTIMATORS = [
    PretrainedFeatureExtractor(load_backbone(Vectors())),
    PretrainedFeatureExtractor(load_backbone(Vectors()), layer="auto"),
    PretrainedClassifier(load_backbone(Vectors()), class_map="learn"),
    # One batch holds all rows: with smaller ones a weight of two is not a row twice.
    FineTunedClassifier(
        load_backbone(Vectors()), batch_size=256, max_epochs=1, net_params=SGD, lr=1e-5
    ),
    # Adam turns gradients that are zero but for rounding into whole steps, plain SGD does not; and
    # the checks compare to 1e-7, a single bit of float32, so that steps must be small.
    FineTunedRegressor(
        load_backbone(Vectors()), batch_size=256, max_epochs=1, net_params=SGD, lr=1e-5
    ),
]


@pytest.mark.filterwarnings("ignore")  # the checks provoke them
@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


# With classes of its own, a network has no linear probe among the candidates, which takes most of
# the time of a blend; what a probe does with classes, weights and types, its own tests tell.
CLASSES = [str(i) for i in range(32)]


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [
        TransferClassifier(load_backbone(Vectors(), classes=CLASSES)),
        TransferRegressor(load_backbone(Vectors())),
    ]
)
def test_scikit_learn_contract_of_a_blend(estimator, check):
    check(estimator)


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([TransferClassifier(load_backbone(Vectors()))])
def test_scikit_learn_contract_of_a_blend_with_a_linear_probe(estimator, check):
    check(estimator)
