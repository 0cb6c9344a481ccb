import numpy as np
import pytest
import torch

from sktransfer import FineTunedClassifier, load_backbone
from tests.finetuning.conftest import network


def test_a_label_that_a_fit_removes_is_new_if_it_comes_back(data):
    X, y = data
    model = FineTunedClassifier(
        load_backbone(network()), max_epochs=0, warm_start=True, random_state=0
    ).fit(X, y)
    kept = y != "wasp"
    model.fit(X[kept], y[kept])
    model.partial_fit(X[kept], y[kept], classes=["ant", "bee", "wasp"])
    assert set(model.to_backbone().label_rows) == {"ant", "bee"}
    # Its row is fitted when it has samples.
    model.partial_fit(X, y)
    assert set(model.to_backbone().label_rows) == {"ant", "bee", "wasp"}
    assert np.mean(model.predict(X[~kept]) == "wasp") > 0.5


@pytest.mark.parametrize("weight", [np.nan, np.inf, 1e308, "x", -1, None])
def test_class_weights_that_are_no_finite_numbers_are_refused_by_name(weight, data):
    model = FineTunedClassifier(load_backbone(network()), class_weight={"ant": weight, "bee": 1})
    with pytest.raises(ValueError, match=r"^class_weight"):
        model.fit(*data)


def test_a_warm_start_refuses_a_network_whose_weights_changed(data):
    module = network()
    model = FineTunedClassifier(module, warm_start=True, max_epochs=1, random_state=0).fit(*data)
    with torch.no_grad():
        module[0][0].weight.mul_(2)
    with pytest.raises(ValueError, match=r"backbone= has other weights.*warm_start=False"):
        model.fit(*data)
