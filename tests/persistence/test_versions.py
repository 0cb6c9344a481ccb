"""Pickles have the versions that wrote them, and later versions warn."""

import warnings

import joblib
import numpy as np
import pytest

from sktransfer import PretrainedFeatureExtractor
from sktransfer.data import package_versions, warn_later_versions
from tests.support import tiny_backbone


def test_pickles_hold_the_versions_and_warn_of_later_ones(tmp_path):
    model = PretrainedFeatureExtractor(tiny_backbone()).fit([np.zeros((16, 16, 3), np.uint8)])
    assert model.__getstate__()["_versions"] == package_versions()
    joblib.dump(model, tmp_path / "model.joblib")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        again = joblib.load(tmp_path / "model.joblib")
    assert not hasattr(again, "_versions")
    state = model.__getstate__() | {"_versions": {"torch": "99.0", "scikit-learn": "1.0"}}
    with pytest.warns(UserWarning, match=r"was saved with torch 99\.0 \(here: "):
        again.__setstate__(state)


@pytest.mark.parametrize("recorded", [{}, {"torch": ""}, {"torch": "x.y"}, {"other": "99.0"}])
def test_other_versions_are_no_warning(recorded):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warn_later_versions(recorded, "file")
