import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

from sktransfer import PretrainedFeatureExtractor, load_backbone
from sktransfer.engines import ENGINES, TorchEngine, engine_for
from tests.support import make_engine

CPU = torch.device("cpu")
STAGES = {str(i): nn.Linear(4, 4) for i in range(4)}


def read(name, pooling="avg"):
    """The output of one layer, by its name."""
    return {name: (name, pooling)}


def test_an_engine_is_prepared_once_and_shared_by_equal_calls():
    kept = {}
    first = engine_for(STAGES, read("2"), kept=kept, device=CPU)
    assert isinstance(first, TorchEngine)
    assert engine_for(STAGES, read("2"), kept=kept, device=CPU) is first
    assert engine_for(STAGES, read("2", "max"), kept=kept, device=CPU) is not first
    assert engine_for(STAGES, read("2"), kept={}, device=CPU) is not first


def test_a_pooling_without_a_hash_is_applied():
    class Last:
        __hash__ = None

        def __call__(self, activation):
            return activation[:, -1:]

    made = engine_for(STAGES, read("0", Last()), kept={}, device=CPU)
    assert made(torch.ones(2, 4))["0"].shape == (2, 1)


def test_fits_with_one_image_size_share_an_engine():
    def engine_of_a_fit():
        backbone = load_backbone("efficientnet_lite0", image_size=64)
        return make_engine(backbone, ("stem",))

    assert engine_of_a_fit() is engine_of_a_fit()


def test_only_the_engines_used_last_are_kept():
    kept = {}
    first, second, third = (engine_for(STAGES, read(n), kept=kept, device=CPU) for n in "123")
    assert engine_for(STAGES, read("3"), kept=kept, device=CPU) is third
    assert engine_for(STAGES, read("2"), kept=kept, device=CPU) is second
    assert engine_for(STAGES, read("1"), kept=kept, device=CPU) is not first
    assert len(kept) == 2


def test_another_runtime_is_one_entry(monkeypatch):
    class Reversed(TorchEngine):
        def forward(self, batch):
            return {layer: -x for layer, x in super().forward(batch).items()}

    monkeypatch.setitem(ENGINES, "reversed", Reversed)
    x, kept = torch.ones(2, 4), {}
    expected = engine_for(STAGES, read("0"), kept=kept, device=CPU)(x)["0"]
    found = engine_for(STAGES, read("0"), kept=kept, device=CPU, engine="reversed")
    assert torch.equal(found.forward(x)["0"], -expected)


def test_threads_share_an_engine():
    kept, found = {}, []

    def use():
        for i in range(50):
            found.append(engine_for(STAGES, read(str(i % 2)), kept=kept, device=CPU))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 200
    assert len(set(map(id, found))) == 2


def test_a_runtime_is_checked_again_after_a_fit(monkeypatch):
    X = np.ones((3, 4), np.float32)
    fitted = PretrainedFeatureExtractor(nn.Sequential(nn.Linear(4, 2), nn.ReLU())).fit(X)
    for package in ("onnxruntime", "onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(
        ImportError, match=r"needs onnxruntime, .*: pip install 'sktransfer\[onnx\]'"
    ):
        fitted.set_params(engine="onnxruntime").transform(X)
    with pytest.raises(ValueError, match=r"engine='unknown' is none of .*'openvino'"):
        fitted.set_params(engine="unknown").transform(X)
