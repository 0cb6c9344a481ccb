"""Prepare stages: fold batch norm, use channels-last memory, let activations work in place."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .._compat.torch import TracedModule
from ..backbones import trace

__all__ = ["prepare"]


def prepare(segment: nn.Sequential, opaque: tuple[Any, ...]) -> nn.Module:
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
        _use_channels_last(target, modules)
        _overwrite_input(target, nodes, modules)
    graph.lint()
    return TracedModule(_by_path(graph, modules, segment), graph).eval()


def _by_path(graph: fx.Graph, modules: dict[str, nn.Module], segment: nn.Module) -> dict[str, Any]:
    """Return modules and tensors by path, in the form that ``GraphModule`` takes.

    Tensors may be neither parameters nor buffers, but plain attributes or constants.
    """
    read = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
    return {path: attrgetter(path)(segment) for path in read} | modules


def _fold_batch_norm(node: fx.Node, modules: dict, once: set[str]) -> None:
    """Fold a batch norm into the convolution before it, if nothing else uses either."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) > 1:
        return
    conv, norm = modules[source.target], modules[node.target]
    if conv._forward_hooks or conv._forward_pre_hooks or norm._forward_hooks:
        return
    kinds = isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    kinds = kinds and not norm._forward_pre_hooks and norm.running_mean is not None
    rest = _after_norm(norm) if kinds else None
    if rest is None or not {source.target, node.target} <= once:
        return
    modules[source.target] = _folded(conv, norm)
    if isinstance(rest, nn.Identity):
        node.replace_all_uses_with(source)
        node.graph.erase_node(node)
    else:
        modules[node.target] = rest


def _folded(conv: Any, norm: Any) -> nn.Module:
    """Return a convolution with a batch norm in its weights."""
    twin = _shallow_copy(conv)  # fuse_conv_bn_eval copies the old weights, too
    scales = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, *scales)
    twin._parameters.update(weight=weight, bias=bias)
    return twin


def _after_norm(norm: Any) -> nn.Module | None:
    """Return what a batch norm does after normalising, None where that is not known.

    timm's classes hold an activation as ``act``, and a dropout, idle in ``eval``, as ``drop``.
    """
    if type(norm).forward is nn.BatchNorm2d.forward:
        return nn.Identity()
    children = dict(norm.named_children())
    return children["act"] if children.keys() == {"drop", "act"} else None


def _use_channels_last(target: str, modules: dict) -> None:
    if isinstance(modules[target], nn.Conv2d):
        conv = _shallow_copy(modules[target])
        for name, parameter in conv.named_parameters(recurse=False):
            if parameter.ndim == 4:
                laid_out = parameter.detach().contiguous(memory_format=torch.channels_last)
                conv._parameters[name] = nn.Parameter(laid_out, requires_grad=False)
        modules[target] = conv


_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.ELU)


def _overwrite_input(target: str, nodes: list[fx.Node], modules: dict) -> None:
    """Let an activation overwrite its input where nothing else reads it."""
    alone = all(_owns_output(node.args[0], modules) for node in nodes)
    if isinstance(modules[target], _ACTIVATIONS) and alone:
        activation: Any = _shallow_copy(modules[target])
        activation.inplace = True
        modules[target] = activation


def _owns_output(source, modules: dict) -> bool:
    if not isinstance(source, fx.Node) or len(source.users) > 1 or source.op != "call_module":
        return False
    return isinstance(modules[source.target], nn.Conv2d | nn.Linear | nn.BatchNorm2d)


def _shallow_copy(module: nn.Module) -> nn.Module:
    """Copy a module without children, and share its tensors."""
    twin = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    twin._parameters = dict(module._parameters)
    return twin
