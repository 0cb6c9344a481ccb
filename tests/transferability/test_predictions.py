import numpy as np
import pytest

from sktransfer.transferability.predictions import labels_given_classes

THETA = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
TARGET = np.eye(2)[[0, 0, 1]]


def test_labels_are_counted_for_each_class_of_the_network():
    found = labels_given_classes(THETA, TARGET, 0.0)
    # No sample resembles the last class, which has the frequencies of all labels.
    np.testing.assert_allclose(found, [[1, 0], [1 / 3, 2 / 3], [2 / 3, 1 / 3]])


def test_smoothing_adds_samples_that_are_distributed_as_the_labels_are():
    found = labels_given_classes(THETA, TARGET, 3.0)
    np.testing.assert_allclose(found, [[3.5 / 4.5, 1 / 4.5], [2.5 / 4.5, 2 / 4.5], [2 / 3, 1 / 3]])


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_weights_count_as_copies(smoothing):
    weight = np.array([1, 3, 2])
    copies = np.repeat(np.arange(3), weight)
    found = labels_given_classes(THETA, TARGET, smoothing, weight.astype(float))
    expected = labels_given_classes(THETA[copies], TARGET[copies], smoothing)
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(found.sum(1), 1)
