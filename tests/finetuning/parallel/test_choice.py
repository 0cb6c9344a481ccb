"""Which devices ``devices`` means."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from sktransfer import FineTunedClassifier, FineTunedRegressor
from sktransfer.finetuning.parallel import choice, choose_devices, processes
from tests.finetuning.conftest import network

CPU = torch.device("cpu")


class Module:
    """Stands in for ``torch.cuda``."""

    @staticmethod
    def device_count():
        return 4


@pytest.fixture
def four_devices(monkeypatch):
    monkeypatch.setattr(torch, "get_device_module", lambda device: Module)
    monkeypatch.setattr(choice, "resolve_device", lambda name: torch.device(name))


def test_on_a_cpu():
    assert choose_devices(None, "cpu") == [CPU]
    assert choose_devices(1, "cpu") == [CPU]
    assert choose_devices("all", "cpu") == [CPU]  # the cores of a machine are one device
    assert choose_devices(np.int64(3), "cpu") == [CPU] * 3


def test_on_four_devices(four_devices):
    names = [f"cuda:{i}" for i in range(4)]
    assert list(map(str, choose_devices("all", "cuda"))) == names
    assert list(map(str, choose_devices(2, "cuda"))) == names[:2]
    assert choose_devices(1, "cuda:3") == [torch.device("cuda:3")]
    with pytest.raises(ValueError, match="devices=5: this machine has 4 of type 'cuda'"):
        choose_devices(5, "cuda")
    with pytest.raises(ValueError, match="devices=2 and device='cuda:1', which is one"):
        choose_devices(2, "cuda:1")


def test_with_a_launcher(four_devices, monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    assert choose_devices(None, "cuda") == [torch.device("cuda")]
    assert choose_devices("all", "cuda") == [torch.device("cuda:3")] * 4
    assert choose_devices(4, "cpu") == [CPU] * 4
    with pytest.raises(ValueError, match="devices=3: the launcher has started 4 processes"):
        choose_devices(3, "cuda")


@pytest.mark.parametrize("cls", [FineTunedClassifier, FineTunedRegressor])
@pytest.mark.parametrize("devices", [0, -1, "two", 1.5, True])
def test_wrong_values(cls, devices, data):
    with pytest.raises(ValueError, match="'devices' parameter"):
        cls(network(), devices=devices).fit(data[0], range(90))


def test_a_worker_of_joblib_is_not_of_the_launcher(data, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    worker = SimpleNamespace(name="LokyProcess-1")
    monkeypatch.setattr(choice.multiprocessing, "current_process", lambda: worker)
    with pytest.raises(ValueError, match=r"a worker of joblib .* n_jobs=1"):
        FineTunedClassifier(network(), devices="all", device="cpu").fit(*data)


def test_a_process_that_cannot_start_others_says_so(data, monkeypatch):
    model = FineTunedClassifier(network(), devices=2, device="cpu", max_epochs=1)
    daemon = SimpleNamespace(daemon=True)
    monkeypatch.setattr(processes.multiprocessing, "current_process", lambda: daemon)
    with pytest.raises(ValueError, match="devices=: a worker process"):
        model.fit(*data)
    monkeypatch.undo()
    monkeypatch.setattr(processes.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(choice.dist, "get_world_size", lambda: 1)
    with pytest.raises(ValueError, match=r"devices=: this process belongs to a group"):
        model.fit(*data)


def test_batch_norm_that_is_trained_needs_whole_batches(data):
    X, y = data
    with pytest.raises(ValueError, match="devices=2 divides each batch, and batch norm"):
        FineTunedClassifier(network(), devices=2, device="cpu", train_batch_norm=True).fit(X, y)

    def head(n_features, n_outputs):
        return nn.Sequential(nn.BatchNorm1d(n_features), nn.Linear(n_features, n_outputs))

    with pytest.raises(ValueError, match=r"devices=2 cannot be combined with net_params"):
        FineTunedClassifier(network(), devices=2, device="cpu", net_params={"compile": True}).fit(
            X, y
        )
    settings = {"devices": 2, "device": "cpu", "head": head, "head_init": "random"}
    with pytest.raises(ValueError, match=r"batch norm .*in the head"):
        FineTunedClassifier(network(), **settings).fit(X, y)
