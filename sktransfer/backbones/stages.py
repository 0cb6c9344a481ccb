"""Cut a network into stages by tracing it, and check the stages on a sample."""

from __future__ import annotations

import inspect
import re
import threading
import warnings
from collections.abc import Callable, Container, Iterator

import torch
from torch import fx, nn

from .base import Backbone

__all__ = ["check_stages", "has_tensors", "is_checked", "stages_of", "trace", "why_uncut"]

# torch.fx patches nn.Module for the whole process while it traces: one thread at a time.
_TRACING = threading.RLock()


def stages_of(backbone: Backbone) -> dict[str, nn.Module]:
    """Return the stages of a backbone in order, by name, sharing its tensors.

    Parameters
    ----------
    backbone : Backbone

    Returns
    -------
    dict of str to torch.nn.Module
        Each takes the output of the one before. Parameters keep the names they have in the
        whole network. A network that cannot be traced is one stage called "output".
    """
    # Backbones of different input sizes share a module, and so its stages.
    with _TRACING:  # two threads must not cut one network twice
        if "stages" not in backbone.prepared:
            backbone.prepared["stages"] = backbone.stages or _cut(backbone)
        return backbone.prepared["stages"]


def is_checked(backbone: Backbone) -> bool:
    """Tell whether :func:`check_stages` has passed judgement."""
    return "checked" in backbone.prepared


@torch.inference_mode()
def check_stages(backbone: Backbone, probe: torch.Tensor) -> None:
    """Run the stages one after another on a probe: they must give what the network gives.

    A place where what comes out has no row for each sample, as between time steps and batch
    swapped, is no end of a stage.

    Parameters
    ----------
    backbone : Backbone
    probe : Tensor
        A batch as the network takes it, of which the first sample is looked at.

    Raises
    ------
    ValueError
        If stages that the user gave do not, or the network's output is not one tensor with a row
        for each sample. A traced network whose stages do not (its forward looks at values while
        it runs) counts as one that cannot be cut.
    """
    if is_checked(backbone):
        return
    probe = probe[:1]
    expected = backbone.module(probe.clone())  # a network may change its input
    pair = torch.cat([probe, _another(probe)])
    _check_output(backbone, expected, backbone.module(pair.clone()))
    alone, both = ([*_run_stages(backbone, x)] for x in (probe, pair))
    mixed = {i for i in range(len(alone) - 1) if not _has_rows(alone[i], both[i])}
    found = alone[-1]
    same = isinstance(found, torch.Tensor) and found.shape == expected.shape
    if not same or not torch.allclose(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True):
        if backbone.stages is not None:
            raise ValueError(
                f"The stages of backbone {backbone.name!r}, run in order, do not give the output "
                "of the module. Every step must be in one of them, functions too (nn.Flatten())."
            )
        whole = _Whole(backbone.module, "its forward depends on values, not only on shapes")
        backbone.prepared["stages"] = {"output": whole}
    elif mixed and backbone.stages is not None:
        names = [list(backbone.stages)[i] for i in sorted(mixed)]
        raise ValueError(
            f"Stages {names} of backbone {backbone.name!r} do not give a row for each sample: "
            "put each together with the one after it."
        )
    elif mixed:
        backbone.prepared["stages"] = _cut(backbone, mixed)
    backbone.prepared["checked"] = True


def _another(probe: torch.Tensor) -> torch.Tensor:
    """Return a sample that is not the probe: other numbers, or other words in its places."""
    return probe / 2 if probe.is_floating_point() else probe.flip(-1)


def _run_stages(backbone: Backbone, x: torch.Tensor) -> Iterator:
    x = x.clone()
    for stage in stages_of(backbone).values():
        x = stage(x)
        # The next stage may work in place.
        yield x.clone() if isinstance(x, torch.Tensor) else x


def _has_rows(alone, both) -> bool:
    """Tell whether of one sample there is one row, and of two there are two."""
    pair = isinstance(alone, torch.Tensor) and isinstance(both, torch.Tensor)
    return pair and min(alone.ndim, both.ndim) > 0 and (len(alone), len(both)) == (1, 2)


def _check_output(backbone: Backbone, alone, both) -> None:
    if not isinstance(alone, torch.Tensor):
        raise ValueError(
            f"Backbone {backbone.name!r} returns {type(alone).__name__}: give a module that "
            "returns one tensor, such as one around it that chooses."
        )
    if not _has_rows(alone, both):
        raise ValueError(
            f"Backbone {backbone.name!r} returns shape {tuple(both.shape)} for a batch of two: "
            "a row for each sample is needed, first."
        )
    if not both.is_floating_point() or not both.isfinite().all():
        return
    if (both[0] - alone[0]).norm() > 1e-2 * alone.norm() + 1e-6:
        warnings.warn(
            f"Backbone {backbone.name!r} gives other numbers for a sample in another batch, as "
            "batch norm without running statistics does, or what draws at random: so will its "
            "features.",
            stacklevel=2,
        )


def why_uncut(backbone: Backbone) -> str:
    """Say why a network is a single stage, or nothing if it is not."""
    return getattr(stages_of(backbone).get("output"), "why_uncut", "")


class _Whole(nn.Module):
    """A network that could not be traced."""

    def __init__(self, module: nn.Module, why: str):
        super().__init__()
        self.module = module
        self.why_uncut = why

    def forward(self, x):
        return self.module(x)


class _Tracer(fx.Tracer):
    """Trace into containers only.

    A module without children stays whole, so that what depends on ``training`` inside it
    (dropout, stochastic depth) is decided when it runs and not when it is traced. Other threads
    meet the patched ``nn.Module`` as well, and run their networks as if it were not.
    """

    def __init__(self, **settings):
        super().__init__(**settings)
        self.thread = threading.get_ident()

    def call_module(self, module: nn.Module, forward: Callable, args: tuple, kwargs: dict):
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        return super().call_module(module, forward, args, kwargs)

    def getattr(self, attr: str, value, parameter_proxy_cache: dict):
        if threading.get_ident() != self.thread:
            return value
        return super().getattr(attr, value, parameter_proxy_cache)

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        childless = next(module.children(), None) is None
        compiled = isinstance(module, torch.jit.ScriptModule)
        return childless or compiled or super().is_leaf_module(module, name)


def trace(module: nn.Module, opaque: tuple[Callable, ...] = ()) -> fx.Graph:
    """Trace a network into a graph of operations, in which childless modules stay whole.

    Only the first argument of ``forward`` is an input; the others are as in a call without
    them, and the assertions of that which tracing adds are taken out again.
    """
    with _TRACING:
        graph = _Tracer(autowrap_functions=opaque).trace(module, _defaults(module))
    extra = set([node for node in graph.nodes if node.op == "placeholder"][1:])
    for node in graph.nodes:
        if not extra.isdisjoint(node.all_input_nodes):
            extra.add(node)
    for node in reversed(graph.nodes):
        if node in extra:
            graph.erase_node(node)
    return graph


def _defaults(module: nn.Module) -> dict:
    """Return the arguments of ``forward`` after the first, as a call with one leaves them."""
    parameters = list(inspect.signature(module.forward).parameters.values())[1:]
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _cut(backbone: Backbone, joined: Container[int] = ()) -> dict[str, nn.Module]:
    """Cut a network into stages, some of them, by position, joined with those after them."""
    module = backbone.module
    try:
        graph = trace(module, backbone.opaque)
    except Exception as error:  # tracing runs the user's forward, which may raise anything
        return {"output": _Whole(module, f"{type(error).__name__}: {error}")}
    (returned,) = next(node for node in reversed(graph.nodes) if node.op == "output").args
    if not isinstance(returned, fx.Node):
        return {"output": _Whole(module, "it returns more than one tensor")}
    constant = _constants(graph)
    stages: dict[str, nn.Module] = {}
    nodes: list[fx.Node] = []
    for i, stretch in enumerate(_stretches(graph, constant)):
        nodes += stretch
        if i in joined:
            continue
        stages[_stage_name(nodes, stages)] = _stage(module, nodes, constant)
        nodes = []
    return stages or {"output": _Whole(module, "it computes nothing")}


def _stretches(graph: fx.Graph, constant: set[fx.Node]) -> Iterator[list[fx.Node]]:
    """Group the nodes of a graph into stages, each ending where one value is alive."""
    cuts = _cuts(graph, constant)
    cuts -= _inside_blocks(graph, passable=cuts | constant | _idle(graph))
    stretch = []
    for node in graph.nodes:
        if node.op not in ("placeholder", "output"):
            stretch.append(node)
        if node in cuts:
            yield stretch
            stretch = []


def _constants(graph: fx.Graph) -> set[fx.Node]:
    """Nodes that do not depend on the input: parameters, and what is computed from them."""
    constant: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op not in ("placeholder", "output") and constant.issuperset(node.all_input_nodes):
            constant.add(node)
    return constant


def _idle(graph: fx.Graph) -> set[fx.Node]:
    """Nodes that the output does not depend on: assertions and what they look at."""
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or not needed.isdisjoint(node.users):
            needed.add(node)
    return set(graph.nodes) - needed


def _cuts(graph: fx.Graph, constant: set[fx.Node]) -> set[fx.Node]:
    """Nodes after which only their own value is needed."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    last_use = {node: max((order[user] for user in node.users), default=-1) for node in order}
    alive: set[fx.Node] = set()
    cuts = set()
    for node in order:
        if node.op == "output":
            break
        alive = {n for n in (alive | {node}) - constant if last_use[n] > order[node]}
        if alive == {node} and node.op != "placeholder":
            cuts.add(node)
    return cuts


def _inside_blocks(graph: fx.Graph, passable: set[fx.Node]) -> set[fx.Node]:
    """Nodes inside modules of a kind that cannot be cut where it has a residual.

    A block without its residual could be cut inside, its sibling with one could not. Nobody
    wants to know; so a class with a step of its own that is ever no cut is one stage everywhere.
    """
    inside: dict[str, list[fx.Node]] = {}
    classes: dict[str, type] = {}
    for node in graph.nodes:
        for path, (_, cls) in _stack(node):
            inside.setdefault(path, []).append(node)
            classes[path] = cls
    inside = {path: nodes[:-1] for path, nodes in inside.items()}  # the last one is the output
    own = {path: set(nodes) for path, nodes in inside.items()}
    for path, nodes in inside.items():
        if classes[path] is not nn.Sequential:  # a plain list has no steps of its own
            for parent in own:
                if path.startswith(f"{parent}."):
                    own[parent] -= set(nodes)
    blocks = {cls for path, cls in classes.items() if own[path] - passable} - {nn.Sequential}
    return {n for path, nodes in inside.items() if classes[path] in blocks for n in nodes}


def _stack(node: fx.Node) -> list[tuple]:
    """Modules that the node is computed in, the outermost first."""
    return [(name, entry) for name, entry in node.meta.get("nn_module_stack", {}).items() if name]


def _stage_name(nodes: list[fx.Node], taken: dict) -> str:
    """Name a stretch by the outermost module that begins and ends in it."""
    around = _stack(nodes[0].prev) + _stack(nodes[-1].next)
    outside = {path for path, _ in around}
    own = [qualified for path, (qualified, _) in _stack(nodes[-1]) if path not in outside]
    step = re.sub(r"_\d+$", "", nodes[-1].name)  # a function, numbered when called again
    parents = [qualified for _, (qualified, _) in _stack(nodes[-1])][-1:]
    name = own[0] if own else ".".join([*parents, step])
    while name in taken:
        name += "_"
    return name


def _stage(module: nn.Module, nodes: list[fx.Node], constant: set[fx.Node]) -> fx.GraphModule:
    """Make a stretch of nodes a module of its own, sharing the tensors of the whole."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    entry = graph.placeholder("x")

    def copy_of(node: fx.Node) -> fx.Node:
        # From outside come the value at the cut and constants, which are made here again.
        if node not in copies:
            copies[node] = graph.node_copy(node, copy_of) if node in constant else entry
        return copies[node]

    for node in nodes:
        copies[node] = graph.node_copy(node, copy_of)
    graph.output(copies[nodes[-1]])
    dropouts = _dropouts_as_modules(graph)
    if not dropouts:
        return fx.GraphModule(module, graph)
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    return fx.GraphModule(tensors | dict(module.named_modules()) | dropouts, graph)


_DROPOUTS = {
    nn.functional.dropout: nn.Dropout,
    nn.functional.dropout1d: nn.Dropout1d,
    nn.functional.dropout2d: nn.Dropout2d,
    nn.functional.dropout3d: nn.Dropout3d,
    nn.functional.alpha_dropout: nn.AlphaDropout,
}


def _dropouts_as_modules(graph: fx.Graph) -> dict[str, nn.Module]:
    """Replace dropout called as a function, in place, and return the modules by name.

    Tracing wrote down that the network was not in training; a module decides when it runs.
    """
    made: dict[str, nn.Module] = {}
    for node in list(graph.nodes):
        if node.target in _DROPOUTS:
            x = node.args[0] if node.args else node.kwargs["input"]
            p = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
            name = f"dropout_as_module_{len(made)}"
            made[name] = _DROPOUTS[node.target](p)
            with graph.inserting_after(node):
                call = graph.call_module(name, (x,))
            node.replace_all_uses_with(call)
            graph.erase_node(node)
    return made


def has_tensors(stage: nn.Module) -> bool:
    """Tell whether a stage has anything that was learned."""
    return next(stage.parameters(), None) is not None


def _has_matrix(stage: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in stage.parameters())
