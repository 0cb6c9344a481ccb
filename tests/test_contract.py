"""scikit-learn's own checks, over an own network on plain vectors: no failure is expected."""

import pytest
from conftest import Vectors
from sklearn.utils.estimator_checks import parametrize_with_checks

from sktransfer import PretrainedClassifier, PretrainedFeatureExtractor, load_backbone

ESTIMATORS = [
    PretrainedFeatureExtractor(load_backbone(Vectors())),
    PretrainedClassifier(load_backbone(Vectors()), class_map="learn"),
]


@pytest.mark.filterwarnings("ignore")  # the checks provoke them
@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_contract(estimator, check):
    check(estimator)
