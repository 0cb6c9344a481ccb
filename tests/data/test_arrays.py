import numpy as np
import pytest
import torch
from torch import nn

from sktransfer import PretrainedFeatureExtractor

X = np.arange(10, dtype=np.float32).reshape(2, 5)


@pytest.fixture
def extractor():
    return PretrainedFeatureExtractor(nn.Linear(5, 3)).fit(X)


def test_masked_values_are_refused(extractor):
    masked = np.ma.array(X, mask=X > 7)
    for method in (extractor.fit, extractor.transform):
        with pytest.raises(ValueError, match="X has masked values: replace them"):
            method(masked)


def test_a_masked_array_without_masked_values_and_a_tensor_are_arrays(extractor):
    expected = extractor.transform(X)
    for given in (np.ma.array(X, mask=False), torch.from_numpy(X), X.astype(np.float64)):
        np.testing.assert_array_equal(extractor.transform(given), expected)
