"""Run a convolution and the activation after it as one operation of oneDNN."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from typing import Any

import torch
from torch import fx, nn

__all__ = ["FusedConvolution", "fuse_convolutions", "is_supported"]

_LAYING_OUT = threading.Lock()


class FusedConvolution(nn.Module):
    """Run a convolution on the CPU and an activation in one pass over memory.

    The operation belongs to the compiler of torch and is not part of its public interface. With
    images in channels-last format it is faster than ``torch.conv2d``, without an activation, too.

    Parameters
    ----------
    conv : torch.nn.Conv2d
    attr : str, default="none"
        The name of the activation for oneDNN.
    scalars : tuple of float, default=()
        Its parameters.
    """

    attr: str
    bias: torch.Tensor | None
    scalars: list[float]
    sizes: list[Any]

    def __init__(self, conv: nn.Conv2d, attr: str = "none", scalars: tuple[float, ...] = ()):
        super().__init__()
        self.weight: torch.Tensor | None = conv.weight.detach()
        self.bias = conv.bias
        self.laid_out: torch.Tensor | None = None
        self.sizes = [list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups]
        self.attr, self.scalars = attr, list(scalars)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self._lay_out(x) if self.laid_out is None else self.laid_out
        run = torch.ops.mkldnn._convolution_pointwise
        return run(x, weight, self.bias, *self.sizes, self.attr, self.scalars, "")

    def _lay_out(self, x: torch.Tensor) -> torch.Tensor:
        """Bring the weights into the order that is fastest for images of one size, once."""
        with _LAYING_OUT:
            if self.laid_out is None:
                lay_out = torch.ops.mkldnn._reorder_convolution_weight
                self.laid_out = lay_out(self.weight, *self.sizes, list(x.shape))
                self.weight = None
            return self.laid_out


def fuse_convolutions(made: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Replace convolutions of traced stages, and activations that alone read their outputs.

    A sum after a convolution could be part of the operation, too; it is not faster than adding in
    place (measured at the sizes of ResNet-18, ResNet-50 and EfficientNet-Lite0).

    Parameters
    ----------
    made : torch.nn.Module
        What :func:`prepare` returns. It is changed.
    dtype : torch.dtype, default=torch.float32
        That of the convolutions that are replaced.

    Returns
    -------
    torch.nn.Module
        The same; stages that were not traced are left as they are.
    """
    if not isinstance(made, fx.GraphModule):
        return made
    calls = Counter(node.target for node in made.graph.nodes if node.op == "call_module")
    modules = dict(made.named_modules(remove_duplicate=False))
    for node in list(made.graph.nodes):
        is_module = node.op == "call_module" and calls[node.target] == 1
        if is_module and _is_plain(modules[node.target], dtype):
            found = _activation_after(node, modules)
            made.set_submodule(node.target, FusedConvolution(modules[node.target], *(found or ())))
            if found is not None:
                (activation,) = node.users
                activation.replace_all_uses_with(node)
                made.graph.erase_node(activation)
    made.delete_all_unused_submodules()
    made.recompile()
    return made


def _is_plain(module: nn.Module, dtype: torch.dtype) -> bool:
    """Tell whether a module is a convolution of a type that nothing was added to."""
    if not isinstance(module, nn.Conv2d) or type(module).forward is not nn.Conv2d.forward:
        return False
    is_own = type(module)._conv_forward is not nn.Conv2d._conv_forward
    has_zeros = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    has_type = {tensor.dtype for tensor in module.parameters()} == {dtype}
    return has_zeros and has_type and not is_own and not _has_hooks(module)


def _activation_after(conv: fx.Node, modules: dict[str, nn.Module]) -> tuple | None:
    """Return the name and the parameters of the activation that alone reads a convolution."""
    node = next(iter(conv.users), None)
    if node is None or len(conv.users) > 1 or node.op != "call_module":
        return None
    module = modules[str(node.target)]
    known = type(module) in _ACTIVATIONS and not _has_hooks(module)
    return _ACTIVATIONS[type(module)](module) if known else None


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


# Of exactly these classes: a subclass may compute something else.
_ACTIVATIONS: dict[Any, Any] = {
    nn.ReLU: lambda module: ("relu", ()),
    nn.ReLU6: lambda module: ("hardtanh", (0.0, 6.0)),
    nn.Hardtanh: lambda module: ("hardtanh", (float(module.min_val), float(module.max_val))),
    nn.SiLU: lambda module: ("swish", ()),
    nn.Hardswish: lambda module: ("hardswish", ()),
    nn.LeakyReLU: lambda module: ("leaky_relu", (float(module.negative_slope),)),
}


@functools.cache
@torch.inference_mode()
def is_supported(dtype: torch.dtype = torch.float32) -> bool:
    """Tell whether this build of torch and this processor run the operation correctly.

    Parameters
    ----------
    dtype : torch.dtype, default=torch.float32

    Returns
    -------
    bool
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 6, 6, generator=generator).contiguous(memory_format=torch.channels_last)
    # On the meta device no random numbers of the user are drawn. skip_init would import sympy.
    conv = nn.Conv2d(4, 4, 3, padding=1, device="meta", dtype=torch.float32)
    for name, parameter in list(conv.named_parameters()):
        numbers = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        setattr(conv, name, nn.Parameter(numbers))
    expected = conv(x).relu()
    try:
        found = FusedConvolution(conv.to(dtype), "relu")(x.to(dtype)).float()
    except Exception:  # other versions of torch may have other operations
        return False
    return torch.allclose(found, expected, atol=1e-4 if dtype == torch.float32 else 0.1)
