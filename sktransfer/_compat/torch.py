"""Names of torch that are private or newer than the oldest version that is supported.

Private names were last seen in 2.13.
"""

from __future__ import annotations

import linecache
import weakref
from typing import Any, TypeVar

import torch
from torch import fx, nn
from torch.fx import graph_module

__all__ = [
    "COMPILED",
    "BatchNormBase",
    "DropoutBase",
    "LossBase",
    "NormBase",
    "TracedModule",
    "buffers_of",
    "children_of",
    "has_hooks",
    "has_own_convolution",
    "is_exporting",
    "keep_versions",
    "lay_out_weight",
    "pointwise_convolution",
    "shallow_copy",
    "uncompiled",
    "version_of",
]

BatchNormBase = nn.modules.batchnorm._BatchNorm
NormBase = nn.modules.batchnorm._NormBase
DropoutBase = nn.modules.dropout._DropoutNd
LossBase = nn.modules.loss._Loss

# Before 2.7 there is one question for ``torch.export`` and ``torch.compile``.
is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)

# Before the names of the modules inside one that ``torch.compile`` has wrapped.
COMPILED = "_orig_mod."

_Module = TypeVar("_Module", bound=nn.Module)


class TracedModule(fx.GraphModule):
    """Module that was traced, whose generated source is kept no longer than the module.

    torch keeps the source of every ``GraphModule`` that was ever made, also of copies, for
    tracebacks: each training would need some kilobytes for good.
    """

    def recompile(self) -> Any:
        code = super().recompile()
        weakref.finalize(self, _forget, type(self).forward.__code__.co_filename).atexit = False
        return code


def _forget(filename: str) -> None:
    linecache.cache.pop(filename, None)
    loader = getattr(graph_module, "_loader", None)
    getattr(loader, "eval_cache", {}).pop(filename, None)


def shallow_copy(module: _Module, without: str | None = None, **parameters: Any) -> _Module:
    """Copy a module and share its tensors and children.

    It may be without a child, and have other own parameters.
    """
    twin = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    twin._parameters = module._parameters | parameters
    twin._buffers = dict(module._buffers)
    twin._modules = {name: child for name, child in module._modules.items() if name != without}
    return twin


def children_of(module: nn.Module) -> dict[str, nn.Module | None]:
    """Return the children of a module, also one that has two names, and those that are None."""
    return dict(module._modules)


def buffers_of(module: nn.Module) -> dict[str, torch.Tensor | None]:
    """Return the buffers of a module, also those that are None."""
    return dict(module._buffers)


def has_hooks(module: nn.Module) -> bool:
    """Tell whether something runs before or after the forward pass of a module."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def has_own_convolution(module: nn.Conv2d) -> bool:
    """Tell whether the class of a module changes the convolution itself."""
    return type(module)._conv_forward is not nn.Conv2d._conv_forward


def keep_versions(state: Any, other: Any) -> None:
    """Give a state dict the versions of the modules of another one, which some modules read."""
    state._metadata = getattr(other, "_metadata", None)


def uncompiled(module: Any) -> Any:
    """Return the module that ``torch.compile`` has wrapped, or the module itself."""
    return getattr(module, COMPILED[:-1], module)


def lay_out_weight(weight: Any, sizes: list[Any], shape: list[int]) -> torch.Tensor:
    """Bring the weight of a convolution into the order that is fastest for inputs of a shape.

    ``sizes`` are padding, stride, dilation and number of groups.
    """
    return torch.ops.mkldnn._reorder_convolution_weight(weight, *sizes, shape)


def pointwise_convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    sizes: list[Any],
    activation: str,
    scalars: list[float],
) -> torch.Tensor:
    """Run a convolution and an activation as one operation of oneDNN.

    The weight is that of :func:`lay_out_weight`, which has the same sizes. oneDNN names the
    activation; ``scalars`` are its parameters.
    """
    run = torch.ops.mkldnn._convolution_pointwise
    return run(x, weight, bias, *sizes, activation, scalars, "")


def version_of(tensor: torch.Tensor) -> int:
    """Return how often operations in place have changed a tensor."""
    return tensor._version
