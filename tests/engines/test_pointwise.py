from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from sktransfer import load_backbone
from sktransfer.engines import pointwise
from sktransfer.engines import torch as torch_engine
from sktransfer.engines.fusion import prepare
from sktransfer.engines.pointwise import FusedConvolution, fuse_convolutions, is_supported
from tests.support import TINY_SIZE, make_engine

ACTIVATIONS = [
    nn.Identity(),
    nn.ReLU(),
    nn.ReLU6(),
    nn.Hardtanh(-0.5, 0.25),
    nn.SiLU(),
    nn.Hardswish(),
    nn.LeakyReLU(0.3),
    nn.GELU(),
]
CONVOLUTIONS = [
    {"kernel_size": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2, "bias": False},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
    {"kernel_size": (1, 5), "groups": 4},
    {"kernel_size": 3, "groups": 8},
]


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def fused(*modules):
    if not is_supported():
        pytest.skip("this torch or this processor does not have the operation")
    return fuse_convolutions(prepare(nn.Sequential(*modules), ()))


def run(module, x):
    with torch.inference_mode():
        return module(x.contiguous(memory_format=torch.channels_last))


def n_fused(module):
    return sum(isinstance(part, FusedConvolution) for part in module.modules())


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda module: type(module).__name__)
@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=str)
def test_values_are_those_of_the_modules(activation, settings):
    conv = nn.Conv2d(8, 16, **settings)
    made = fused(conv, activation)
    assert n_fused(made) == 1
    n_left = sum(type(part) is type(activation) for part in made.modules())
    assert n_left == int(isinstance(activation, nn.GELU | nn.Identity))
    for shape in ((2, 8, 9, 11), (1, 8, 20, 20), (5, 8, 9, 11)):  # the weights are laid out once
        x = noise(*shape)
        torch.testing.assert_close(run(made, x), activation(conv(x)), atol=1e-5, rtol=1e-4)


def test_an_output_that_is_used_twice_is_kept():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 4, 1), nn.ReLU()

        def forward(self, x):
            y = self.conv(x)
            return y + self.relu(y)

    module, x = Twice(), noise(2, 3, 5, 5)
    torch.testing.assert_close(run(fused(module), x), module(x))


class Shifted(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) + 1


def hooked():
    conv = nn.Conv2d(3, 4, 1)
    conv.register_forward_hook(lambda module, args, output: output + 1)
    return conv


@pytest.mark.parametrize(
    "make",
    [
        lambda: Shifted(3, 4, 1),
        hooked,
        lambda: nn.Conv2d(3, 4, 3, padding="same"),
        lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        lambda: nn.Conv2d(3, 4, 1, dtype=torch.float64),
    ],
)
def test_other_convolutions_run_as_they_are(make):
    conv = make()
    made = fused(conv, nn.ReLU())
    x = noise(2, 3, 6, 6).to(conv.weight.dtype)
    assert n_fused(made) == 0
    torch.testing.assert_close(run(made, x), conv(x).relu())


def test_the_users_weights_are_not_changed():
    conv = nn.Conv2d(3, 4, 1)
    before = conv.weight.detach().clone()
    run(fused(conv, nn.ReLU()), noise(1, 3, 5, 5))
    assert torch.equal(conv.weight, before)
    assert conv.weight.layout == torch.strided


@pytest.mark.parametrize("what", ["raises", "wrong"])
def test_without_the_operation_the_modules_run(what, monkeypatch):
    def broken(self, x):
        if what == "raises":
            raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute")
        return x

    monkeypatch.setattr(FusedConvolution, "forward", broken)
    supported = pointwise.is_supported.__wrapped__()
    assert not supported
    monkeypatch.setattr(torch_engine, "is_supported", lambda dtype: supported)
    backbone = load_backbone(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), preprocess=TINY_SIZE)
    made = make_engine(backbone, ("1",))
    x = noise(2, 3, 16, 16)
    torch.testing.assert_close(
        torch.from_numpy(made.run(x)["1"]), backbone.module(x).mean((2, 3)), rtol=1e-4, atol=1e-5
    )


def test_threads_lay_out_weights_once():
    conv = nn.Conv2d(8, 16, 3)
    made, x = fused(conv, nn.ReLU()), noise(2, 8, 12, 12)
    expected = conv(x).relu()
    with ThreadPoolExecutor(8) as threads:
        for found in threads.map(lambda _: run(made, x), range(40)):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("activation", ACTIVATIONS[:-1], ids=lambda module: type(module).__name__)
def test_bfloat16_weights_run_as_one_operation_too(activation):
    if not is_supported(torch.bfloat16):
        pytest.skip("this processor does not have the operation in bfloat16")
    conv, x = nn.Conv2d(8, 16, 3, padding=1), noise(2, 8, 9, 11)
    made = fuse_convolutions(
        prepare(nn.Sequential(conv, activation).bfloat16(), ()), torch.bfloat16
    )
    assert n_fused(made) == 1
    found = run(made, x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), activation(conv.float()(x)), atol=0.05, rtol=0.05)


def test_convolutions_of_another_type_than_asked_for_are_left():
    made = prepare(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), ())
    assert n_fused(fuse_convolutions(made, torch.bfloat16)) == 0
