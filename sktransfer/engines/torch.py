"""Run stages with torch: batch norm folded, images channels-last, convolutions with activations.

The steps stand in the order in which they are applied: :func:`fold`, :func:`cast` where weights are
bfloat16, and :func:`fuse_convolutions` on a CPU.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .._compat.torch import (
    TracedModule,
    has_hooks,
    has_own_convolution,
    lay_out_weight,
    pointwise_convolution,
    shallow_copy,
)
from ..backbones import trace
from ..backbones.lite import SamePadConv2d
from .engine import Engine

_LAYING_OUT = threading.Lock()


class TorchEngine(Engine):
    """Run stages with torch, batch norm folded and images channels-last in memory.

    In bfloat16 on a processor that is fast at it, weights are cast; a network that does not run so,
    or whose features then differ too much, and other devices use autocast.

    Parameters
    ----------
    stages, outputs, **settings
        As for :class:`Engine`.
    """

    casts: bool
    prepared: list[nn.Module]
    fuses = True  # whether convolutions and activations are one operation on the CPU

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        outputs: Mapping[Any, tuple[str, Any]],
        **settings: Any,
    ):
        super().__init__(stages, outputs, **settings)
        # There is no batch norm to fold between tokens, and their networks look at masks.
        self._as_they_are = self.modality.has_tokens
        is_low = self.precision == "bfloat16" and self.device.type == "cpu"
        self.casts = is_low and has_bfloat16()
        self.prepared = self._make()

    def _make(self) -> list[nn.Module]:
        """Return the modules that are run; without casting if they cannot be copied."""
        try:
            return [self._prepare(segment) for segment in self.segments]
        except Exception:  # copying runs methods of the user's modules, which may raise anything
            if not self.casts:
                raise
            self.casts = False
            return self._make()

    @torch.no_grad()
    def _prepare(self, segment: nn.Sequential) -> nn.Module:
        as_is = self._as_they_are
        module: nn.Module = segment if as_is else fold(segment, self.opaque)
        module = cast(module, self._dtype_of_weights) if self.casts else module
        if self.device.type != "cpu":
            # A copy: the tensors that are shared with the backbone stay on the CPU.
            return copy.deepcopy(module).to(self.device)
        exact = self.casts or self.precision == "float32"
        fuse = self.fuses and exact and not as_is and is_supported(self._dtype_of_weights)
        return fuse_convolutions(module, self._dtype_of_weights) if fuse else module

    @property
    def _dtype_of_weights(self) -> torch.dtype:
        return torch.bfloat16 if self.casts else torch.float32

    def prepare(self, batch: torch.Tensor) -> None:
        """Leave weights as they are, if the network does not run with cast ones."""
        if not self.casts:
            return
        try:
            self.forward(batch)
        except Exception:  # such as a constant of float32 in the network
            self.casts = False
            self.prepared = self._make()

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        dtype = torch.bfloat16 if self.casts else None
        return self.run_modules(self.prepared, batch, dtype)

    def modules(self) -> Iterable[nn.Module]:
        return [module for segment in self.prepared for module in segment.modules()]

    @property
    def needs_check(self) -> bool:
        return self.casts or (super().needs_check and not self._as_they_are)


def fold(segment: nn.Sequential, opaque: tuple[Any, ...]) -> nn.Module:
    """Make the fast form of some stages.

    Parameters
    ----------
    segment : torch.nn.Sequential
    opaque : tuple of callable
        Functions that are one operation where the stages are traced.

    Returns
    -------
    torch.nn.Module
        Tensors that change are copies, the others are shared. Stages that cannot be traced are
        returned as they are.
    """
    try:
        graph = trace(segment, opaque)
    except Exception:  # tracing runs the user's forward, which may raise anything
        return segment
    modules = dict(segment.named_modules(remove_duplicate=False))
    if any(hasattr(module, "parametrizations") for module in modules.values()):
        return segment  # weights that are computed at each access cannot be replaced
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls.setdefault(node.target, []).append(node)
    once = {target for target, nodes in calls.items() if len(nodes) == 1}
    for node in list(graph.nodes):
        if node.op == "call_module":
            _fold_batch_norm(node, modules, once)
    for target, nodes in calls.items():
        _pad_evenly(target, modules)
        _use_channels_last(target, modules)
        _overwrite_input(target, nodes, modules)
    graph.lint()
    # Tensors may be neither parameters nor buffers, but plain attributes or constants.
    read = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
    tensors = {path: attrgetter(path)(segment) for path in read}
    return TracedModule(tensors | modules, graph).eval()


def _fold_batch_norm(node: fx.Node, modules: dict, once: set[str]) -> None:
    """Fold a batch norm into the convolution before it, if nothing else uses either."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) > 1:
        return
    conv, norm = modules[source.target], modules[node.target]
    if has_hooks(conv) or has_hooks(norm):
        return
    kinds = isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    kinds = kinds and norm.running_mean is not None
    rest = _after_norm(norm) if kinds else None
    if rest is None or not {source.target, node.target} <= once:
        return
    scales = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, *scales)
    # fuse_conv_bn_eval would copy the old weights, too.
    modules[source.target] = shallow_copy(conv, weight=weight, bias=bias)
    if isinstance(rest, nn.Identity):
        node.replace_all_uses_with(source)
        node.graph.erase_node(node)
    else:
        modules[node.target] = rest


def _after_norm(norm: Any) -> nn.Module | None:
    """Return what a batch norm does after normalising, None where that is not known.

    timm's classes hold an activation as ``act``, and a dropout, idle in ``eval``, as ``drop``.
    """
    if type(norm).forward is nn.BatchNorm2d.forward:
        return nn.Identity()
    children = dict(norm.named_children())
    return children["act"] if children.keys() == {"drop", "act"} else None


def _pad_evenly(target: str, modules: dict) -> None:
    """Replace timm's convolution with the padding of TensorFlow, which copies its input."""
    conv, kind = modules[target], type(modules[target])
    is_same = (kind.__module__, kind.__name__) == ("timm.layers.conv2d_same", "Conv2dSame")
    if is_same and conv.dilation == (1, 1) and not has_hooks(conv):
        sizes = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride)
        even = SamePadConv2d(*sizes, groups=conv.groups, device="meta")  # no random numbers
        even.weight, even.bias = conv.weight, conv.bias
        modules[target] = even


def _use_channels_last(target: str, modules: dict) -> None:
    if isinstance(modules[target], nn.Conv2d):
        weights: dict[str, Any] = {
            name: nn.Parameter(
                parameter.detach().contiguous(memory_format=torch.channels_last),
                requires_grad=False,
            )
            for name, parameter in modules[target].named_parameters(recurse=False)
            if parameter.ndim == 4
        }
        modules[target] = shallow_copy(modules[target], **weights)


_IN_PLACE = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.ELU)


def _overwrite_input(target: str, nodes: list[fx.Node], modules: dict) -> None:
    """Let an activation overwrite its input where nothing else reads it."""
    alone = all(_owns_output(node.args[0], modules) for node in nodes)
    if isinstance(modules[target], _IN_PLACE) and alone:
        activation: Any = shallow_copy(modules[target])
        activation.inplace = True
        modules[target] = activation


def _owns_output(source, modules: dict) -> bool:
    if not isinstance(source, fx.Node) or len(source.users) > 1 or source.op != "call_module":
        return False
    return isinstance(modules[source.target], nn.Conv2d | nn.Linear | nn.BatchNorm2d)


@functools.cache
def has_bfloat16() -> bool:
    """Tell whether the processor multiplies in bfloat16 (AVX-512 BF16 or AMX).

    There, weights that are bfloat16 once and for all were 1.03 to 1.3 times as fast as autocast,
    which casts them in each call, for all networks that were measured. Others have not been.
    """
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Copy a module with parameters and buffers of another floating point type.

    Returns
    -------
    torch.nn.Module
        Of other tensors than those that change there are no copies.
    """
    parameters: dict[int, Any] = {
        id(p): nn.Parameter(_cast(p.detach(), dtype), requires_grad=False)
        for p in module.parameters()
    }
    buffers = {id(buffer): _cast(buffer, dtype) for buffer in module.buffers()}
    return copy.deepcopy(module, parameters | buffers)


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


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
    stride: tuple[int, ...]

    def __init__(self, conv: nn.Conv2d, attr: str = "none", scalars: tuple[float, ...] = ()):
        super().__init__()
        self.conv: nn.Conv2d | None = conv
        self.bias = conv.bias
        self.stride = conv.stride
        # Weights and sizes, by what the padding of TensorFlow depends on.
        self.laid_out: dict[tuple[int, ...], tuple[torch.Tensor, list[Any]]] = {}
        self.depends_on_size: bool = isinstance(conv, SamePadConv2d)
        self.attr, self.scalars = attr, list(scalars)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (rows, columns), (down, right) = x.shape[-2:], self.stride
        kind = (rows % down, columns % right) if self.depends_on_size else ()
        weight, sizes = self.laid_out.get(kind) or self._lay_out(x, kind)
        return pointwise_convolution(x, weight, self.bias, sizes, self.attr, self.scalars)

    def _lay_out(self, x: torch.Tensor, kind: tuple[int, ...]) -> tuple[torch.Tensor, list[Any]]:
        """Bring the weights into the order that is fastest for images of one size, once."""
        with _LAYING_OUT:
            if kind not in self.laid_out:
                conv: Any = self.conv
                weight, padding = conv.weight.detach(), list(conv.padding)
                if isinstance(conv, SamePadConv2d):
                    weight, padding = conv.evenly_padded(x.shape[-2:])
                else:
                    self.conv = None  # its weights are not needed any more
                sizes = [padding, list(conv.stride), list(conv.dilation), conv.groups]
                self.laid_out[kind] = lay_out_weight(weight, sizes, list(x.shape)), sizes
            return self.laid_out[kind]


def fuse_convolutions(stages: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Replace convolutions of traced stages, and activations that alone read their outputs.

    A sum after a convolution could be part of the operation, too; it is not faster than adding in
    place (measured at the sizes of ResNet-18, ResNet-50 and EfficientNet-Lite0).

    Parameters
    ----------
    stages : torch.nn.Module
        What :func:`fold` returns. It is changed.
    dtype : torch.dtype, default=torch.float32
        That of the convolutions that are replaced.

    Returns
    -------
    torch.nn.Module
        The same; stages that were not traced are left as they are.
    """
    if not isinstance(stages, fx.GraphModule):
        return stages
    calls = Counter(node.target for node in stages.graph.nodes if node.op == "call_module")
    modules = dict(stages.named_modules(remove_duplicate=False))
    # Convolutions whose weight is read by something else, as in DINOv3's embeddings, stay.
    attributes = [str(node.target) for node in stages.graph.nodes if node.op == "get_attr"]
    read = {path.rpartition(".")[0] for path in attributes}
    for node in list(stages.graph.nodes):
        is_module = node.op == "call_module" and calls[node.target] == 1
        is_module = is_module and node.target not in read
        if is_module and _is_plain(modules[node.target], dtype):
            fused_activation = _activation_after(node, modules)
            stages.set_submodule(
                node.target, FusedConvolution(modules[node.target], *(fused_activation or ()))
            )
            if fused_activation is not None:
                (activation,) = node.users
                activation.replace_all_uses_with(node)
                stages.graph.erase_node(activation)
    stages.delete_all_unused_submodules()
    stages.recompile()
    return stages


def _is_plain(module: nn.Module, dtype: torch.dtype) -> bool:
    """Tell whether a module is a convolution of a type that nothing was added to."""
    forwards = (nn.Conv2d.forward, SamePadConv2d.forward)
    if not isinstance(module, nn.Conv2d) or type(module).forward not in forwards:
        return False
    is_own = has_own_convolution(module)
    has_zeros = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    has_type = {tensor.dtype for tensor in module.parameters()} == {dtype}
    return has_zeros and has_type and not is_own and not has_hooks(module)


def _activation_after(conv: fx.Node, modules: dict[str, nn.Module]) -> tuple | None:
    """Return the name and the parameters of the activation that alone reads a convolution."""
    node = next(iter(conv.users), None)
    if node is None or len(conv.users) > 1 or node.op != "call_module":
        return None
    module = modules[str(node.target)]
    known = type(module) in _ACTIVATIONS and not has_hooks(module)
    return _ACTIVATIONS[type(module)](module) if known else None


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
    """Tell whether this build of torch and this processor run the operation correctly."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 6, 6, generator=generator).contiguous(memory_format=torch.channels_last)
    # On the meta device no random numbers of the user are drawn. skip_init would import sympy.
    conv = nn.Conv2d(4, 4, 3, padding=1, device="meta", dtype=torch.float32)
    for name, parameter in list(conv.named_parameters()):
        numbers = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        setattr(conv, name, nn.Parameter(numbers))
    expected = conv(x).relu()
    try:
        output = FusedConvolution(conv.to(dtype), "relu")(x.to(dtype)).float()
    except Exception:  # other versions of torch may have other operations
        return False
    return torch.allclose(output, expected, atol=1e-4 if dtype == torch.float32 else 0.1)
