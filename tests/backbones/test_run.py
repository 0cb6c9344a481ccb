"""Backbone.run: the stages in order, once, and what is read of them."""

import pytest
import torch
from torch import nn

from sktransfer import Backbone, load_backbone
from sktransfer.backbones import inspect_layers, pool, stages_of
from sktransfer.engines import TorchEngine
from tests.support import TINY_SIZE, TinyNet, tiny_backbone, tiny_swin, tiny_vit

NETWORKS = {"convolutions": TinyNet, "channels last": tiny_swin, "tokens": tiny_vit}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_a_plain_loop_over_the_stages(name):
    backbone = load_backbone(NETWORKS[name](), preprocess=TINY_SIZE)
    x = torch.randn(2, *backbone.input_shape, generator=torch.Generator().manual_seed(0))
    layers = list(inspect_layers(backbone, x))
    outputs = [(layer, how) for layer in reversed(layers) for how in ("avg", ("max", "flatten"))]
    with torch.inference_mode():
        found = backbone.run(x, outputs)
        activation, expected = x, {}
        where = {"sides": tuple(x.shape[2:]), "prefix_tokens": backbone.prefix_tokens}
        for layer, stage in stages_of(backbone).items():
            activation = stage(activation.clone())
            for how in ("avg", ("max", "flatten")):
                expected[layer, how] = pool(activation.clone(), how, **where)
    for output, table in zip(outputs, found, strict=True):
        torch.testing.assert_close(table, expected[output], rtol=1e-6, atol=1e-6)


def test_an_engine_gives_the_same_features():
    backbone = tiny_backbone()
    x = torch.randn(3, *backbone.input_shape, generator=torch.Generator().manual_seed(0))
    layers = list(stages_of(backbone))
    outputs = {layer: (layer, "avg") for layer in layers}
    engine = TorchEngine(stages_of(backbone), outputs, device=torch.device("cpu"))
    with torch.inference_mode():
        found = backbone.run(x, [(layer, "avg") for layer in layers])
    for layer, table in zip(layers, found, strict=True):
        torch.testing.assert_close(table, engine(x)[layer], rtol=1e-5, atol=1e-5)


class Counting(nn.Module):
    """Add one in place, and count the calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x.add_(1)


def counting_backbone(n_stages=3):
    stages = {f"s{i}": Counting() for i in range(n_stages)}
    return Backbone("own", nn.Sequential(*stages.values()), modality="array", stages=stages)


def test_each_stage_runs_once_and_none_behind_the_last_layer_that_is_read():
    backbone = counting_backbone()
    backbone.run(torch.zeros(1, 2), [("s1", "avg"), ("s0", "none"), ("s1", "max")])
    assert [stage.calls for stage in backbone.stages.values()] == [1, 1, 0]
    assert backbone.run(torch.zeros(1, 2), []) == []


def test_stages_that_work_in_place_change_neither_inputs_nor_outputs():
    x = torch.zeros(1, 2)
    found = counting_backbone().run(x, [("s0", "none"), ("s1", "avg"), ("s2", "flatten")])
    assert [table[0, 0].item() for table in found] == [1, 2, 3] and not x.any()


def test_run_goes_on_behind_a_layer():
    backbone = counting_backbone()
    x = torch.full((1, 2), 10.0)
    again, behind = backbone.run(x, [("s1", "none"), ("s2", "none")], after="s1")
    assert (again == 10).all() and (behind == 11).all()
    assert [stage.calls for stage in backbone.stages.values()] == [0, 0, 1]
    with pytest.raises(ValueError, match="no layer 's0' from 's1' on"):
        backbone.run(x, [("s0", "none")], after="s1")


def test_a_channels_last_map_is_pooled_behind_a_layer_as_from_the_inputs():
    backbone = load_backbone(tiny_swin(), preprocess=TINY_SIZE)
    x = torch.randn(2, *backbone.input_shape, generator=torch.Generator().manual_seed(0))
    before, last = list(inspect_layers(backbone, x))[1:3]
    with torch.inference_mode():
        start, whole = backbone.run(x, [(before, "none"), (last, "max")])
        (behind,) = backbone.run(start, [(last, "max")], after=before)
    torch.testing.assert_close(behind, whole, rtol=1e-6, atol=1e-6)


def test_an_unknown_layer_is_refused_by_name():
    with pytest.raises(ValueError, match="Backbone 'own' has no layer 'top'"):
        counting_backbone().run(torch.zeros(1, 2), [("top", "avg")])
    with pytest.raises(ValueError, match="Backbone 'own' has no layer 'top'"):
        counting_backbone().run(torch.zeros(1, 2), [("s0", "avg")], after="top")


def test_the_caller_decides_about_gradients():
    backbone = tiny_backbone()
    x = torch.randn(2, *backbone.input_shape, requires_grad=True)
    outputs = [(list(stages_of(backbone))[-1], "avg")]
    (table,) = backbone.run(x, outputs)
    table.sum().backward()
    assert x.grad.any()
    with torch.inference_mode():
        assert not backbone.run(x, outputs)[0].requires_grad


def test_given_stages_run_in_place_of_its_own():
    backbone = counting_backbone(2)
    doubled = {"s0": nn.Identity(), "s1": nn.Sequential(Counting(), Counting())}
    assert (backbone.run(torch.zeros(1, 2), [("s1", "none")], stages=doubled)[0] == 2).all()
    assert [stage.calls for stage in backbone.stages.values()] == [0, 0]


def test_run_can_be_exported():
    backbone = tiny_backbone()
    layers = list(stages_of(backbone))[:2]

    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = nn.ModuleList(stages_of(backbone).values())

        def forward(self, x):
            stages = dict(zip(stages_of(backbone), self.stages, strict=True))
            return backbone.run(x, [(layer, "avg") for layer in layers], stages=stages)

    x = torch.randn(2, *backbone.input_shape)
    with torch.no_grad():
        program = torch.export.export(Features().eval(), (x,)).module()
        for found, expected in zip(
            program(x), backbone.run(x, [(layer, "avg") for layer in layers]), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
