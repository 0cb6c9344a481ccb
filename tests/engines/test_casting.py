"""bfloat16 with cast weights: where it is used, how near it is, and what happens without it."""

import numpy as np
import pytest
import torch
from torch import nn

from sktransfer import FineTunedClassifier, PretrainedFeatureExtractor, list_layers, load_backbone
from sktransfer.backbones.layers import penultimate
from sktransfer.engines import torch as torch_engine
from sktransfer.engines.casting import cast
from tests.support import (
    TINY_SIZE,
    enliven,
    images,
    make_engine,
    random_backbone,
    tiny_backbone,
    tiny_vit,
)

CPU = torch.device("cpu")


@pytest.fixture(params=[True, False], ids=["fast", "slow"])
def fast(request, monkeypatch):
    """A processor that is fast at bfloat16, and one that is not."""
    monkeypatch.setattr(torch_engine, "has_bfloat16", lambda: request.param)
    return request.param


def engine_of(backbone, *layers, **settings):
    layers = layers or (penultimate(backbone),)
    return make_engine(backbone, layers, precision="bfloat16", **settings)


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def types(made):
    return {p.dtype for segment in made.prepared for p in segment.parameters()}


@pytest.mark.parametrize("build", [lambda: random_backbone("resnet18"), tiny_backbone, tiny_vit])
def test_features_are_near_and_float32(build, fast):
    backbone = build()
    if isinstance(backbone, nn.Module):
        backbone = load_backbone(backbone, preprocess=TINY_SIZE)
    enliven(backbone.module)
    backbone.prepared.pop("engines", None)
    x = noise(2, *backbone.input_shape)
    made = engine_of(backbone, *list_layers(backbone))
    rough, exact = made(x), made._run_exactly(x)
    assert made.casts == fast
    assert types(made) <= {torch.bfloat16 if fast else torch.float32}
    for layer, wanted in exact.items():
        assert rough[layer].dtype == torch.float32
        assert (rough[layer] - wanted).norm() / wanted.norm() < 0.05
    assert made.execution()["precision"] == "bfloat16"


def test_the_network_keeps_its_weights():
    backbone = tiny_backbone()
    before = {name: t.clone() for name, t in backbone.module.state_dict().items()}
    made = engine_of(backbone)
    made(noise(1, 3, 16, 16))
    for name, tensor in backbone.module.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


def test_tensors_that_are_shared_stay_shared_and_integers_stay_integers():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    module.register_buffer("count", torch.tensor(3))
    copied = cast(module, torch.bfloat16)
    assert copied[0].weight is copied[1].weight
    assert copied[0].weight.dtype == torch.bfloat16
    assert copied.count.dtype == torch.int64


class Constant(nn.Module):
    """Multiplies with a constant of float32 that no cast reaches."""

    def forward(self, x):
        return x.flatten(1) @ torch.eye(x[0].numel())[:, :5]


def refuse(module, dtype):
    raise RuntimeError("cannot be copied")


@pytest.mark.parametrize("how", [cast, refuse])
def test_what_does_not_run_with_cast_weights_uses_autocast(how, monkeypatch, recwarn):
    monkeypatch.setattr(torch_engine, "has_bfloat16", lambda: True)
    monkeypatch.setattr(torch_engine, "cast", how)
    backbone = load_backbone(nn.Sequential(nn.Conv2d(3, 4, 1), Constant()), preprocess=TINY_SIZE)
    made = engine_of(backbone, list_layers(backbone)[-1])
    x = noise(2, 3, 16, 16)
    (found,), (wanted,) = made(x).values(), made._run_exactly(x).values()
    assert not made.casts
    assert types(made) <= {torch.float32}
    assert 0 < (found - wanted).norm() / wanted.norm() < 0.05
    assert not recwarn.list


def test_features_that_are_too_far_off_are_computed_by_autocast(monkeypatch):
    monkeypatch.setattr(torch_engine, "has_bfloat16", lambda: True)
    monkeypatch.setattr(
        torch_engine,
        "cast",
        lambda module, dtype: nn.Sequential(cast(module, dtype), nn.Hardtanh()),
    )
    backbone = tiny_backbone()
    made, x = engine_of(backbone), 9 * noise(2, 3, 16, 16)
    with pytest.warns(UserWarning, match="does not give the same features"):
        (found,) = made(x).values()
    (wanted,) = made._run_exactly(x).values()
    assert (found - wanted).norm() / wanted.norm() < 0.05


def test_frozen_stages_of_fine_tuning_have_cast_weights_too(fast, monkeypatch):
    ran, forward = [], torch_engine.TorchEngine.forward
    monkeypatch.setattr(
        torch_engine.TorchEngine,
        "forward",
        lambda self, batch: ran.append((self.precision, self.casts)) or forward(self, batch),
    )
    X, y = images(8), list("abababab")
    model = FineTunedClassifier(tiny_backbone(), precision="bfloat16", max_epochs=1, random_state=0)
    model.fit(X, y).predict(X)
    assert ("bfloat16", fast) in ran
    assert ("bfloat16", not fast) not in ran


def test_both_forms_share_the_entries_of_the_store(tmp_path, monkeypatch):
    X = images(3)
    settings = {"precision": "bfloat16", "memory": tmp_path}
    monkeypatch.setattr(torch_engine, "has_bfloat16", lambda: False)
    expected = PretrainedFeatureExtractor(tiny_backbone(), **settings).fit(X).transform(X)
    monkeypatch.setattr(torch_engine, "has_bfloat16", lambda: True)
    found = PretrainedFeatureExtractor(tiny_backbone(), **settings).fit(X).transform(X)
    np.testing.assert_array_equal(found, expected)
