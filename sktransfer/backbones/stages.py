"""Cut a network into stages by tracing it.

A network is traced into a graph of operations. It can be cut after an operation if later ones need
only that operation's value. The operations from one such place to the next are a *stage*: running
the stages in order is running the network.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Container, Iterator

from torch import fx, nn

from .._compat.torch import TracedModule
from .base import Backbone
from .graphs import (
    TRACING,
    constants,
    cut_places,
    idle,
    inside_blocks,
    join_inputs_of_heads,
    live_after,
    modules_around,
    trace,
)

__all__ = ["Cut", "cut_of", "has_matrix", "has_tensors", "join_stages", "make_single", "stages_of"]

_SHOWN = 3  # values named in a message
_LONGEST = 200  # characters of another error in a message


@dataclasses.dataclass
class Cut:
    """How a network is divided into stages.

    Parameters
    ----------
    stages : dict of str to torch.nn.Module
        In the order in which they run.
    ends : dict of str to str, default={}
        For the path of a module that ends where a stage ends, the name of that stage.
    obstacles : dict of str to str, default={}
        For the path of a module that ends elsewhere, why there is no layer.
    head_input : str, default=None
        The layer whose output the network's classifier takes, if it was found in the graph.
    why_single : str, default=""
        Why a network is a single stage; empty for one that is not.
    """

    stages: dict[str, nn.Module]
    ends: dict[str, str] = dataclasses.field(default_factory=dict)
    obstacles: dict[str, str] = dataclasses.field(default_factory=dict)
    head_input: str | None = None
    why_single: str = ""


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
    return cut_of(backbone).stages


def cut_of(backbone: Backbone) -> Cut:
    """Return how a backbone is divided into stages, computed once.

    Parameters
    ----------
    backbone : Backbone

    Returns
    -------
    Cut
    """
    # Backbones of different input sizes share a module, and so its stages.
    with TRACING:  # two threads must not cut one network twice
        if "cut" not in backbone.prepared:
            given = backbone.stages
            backbone.prepared["cut"] = _cut_network(backbone) if not given else _given(given)
        return backbone.prepared["cut"]


def join_stages(backbone: Backbone, positions: Container[int]) -> None:
    """Cut a backbone anew, each stage at some positions joined with the one after it.

    Parameters
    ----------
    backbone : Backbone
    positions : container of int
    """
    backbone.prepared["cut"] = _cut_network(backbone, positions)
    backbone.prepared.pop("engines", None)  # of the stages before


def make_single(backbone: Backbone, why: str) -> None:
    """Make a backbone a single stage.

    Parameters
    ----------
    backbone : Backbone
    why : str
        The reason, for messages.
    """
    backbone.prepared["cut"] = _single(backbone.module, why)
    backbone.prepared.pop("engines", None)  # of the stages before


def has_tensors(stage: nn.Module) -> bool:
    """Tell whether a stage has parameters."""
    return next(stage.parameters(), None) is not None


def has_matrix(stage: nn.Module) -> bool:
    """Tell whether a stage has weights; one with nothing but a norm or a bias has none."""
    return any(parameter.ndim > 1 for parameter in stage.parameters())


def _given(stages) -> Cut:
    why = "it is given as one stage" if len(stages) == 1 else ""
    return Cut(dict(stages), why_single=why)


def _single(module: nn.Module, why: str) -> Cut:
    return Cut({"output": module}, why_single=why)


def _cut_network(backbone: Backbone, joined: Container[int] = ()) -> Cut:
    """Cut a network into stages, some of them, by position, joined with those after them."""
    module = backbone.module
    try:
        graph = trace(module, backbone.opaque)
    except Exception as error:  # tracing runs the user's forward, which may raise anything
        return _single(module, f"{type(error).__name__}: {error}"[:_LONGEST])
    (returned,) = next(node for node in reversed(graph.nodes) if node.op == "output").args
    if not isinstance(returned, fx.Node):
        return _single(module, "it returns more than one tensor")
    cut = _Cutter(module, graph, backbone.heads).cut(joined)
    if not cut.stages:
        return _single(module, "it computes nothing")
    if len(cut.stages) == 1:
        cut.why_single = "no operation before its output gives the only value that is needed later"
    return cut


class _Cutter:
    """Cuts one traced network.

    Parameters
    ----------
    module : torch.nn.Module
    graph : torch.fx.Graph
        Of the module. It is changed.
    heads : sequence of str
        Paths of the modules that are the classifier.
    """

    def __init__(self, module: nn.Module, graph: fx.Graph, heads):
        self.module = module
        self.graph = graph
        self.head_input = join_inputs_of_heads(graph, module, heads)
        self.constant = constants(graph)
        self.idle = idle(graph)
        self.live = live_after(graph, self.constant)
        places = cut_places(self.live)
        self.inner = inside_blocks(graph, places | self.constant | self.idle)
        self.places = places - self.inner

    def cut(self, joined: Container[int]) -> Cut:
        """Make the stages, and describe where the network's modules end."""
        names: dict[fx.Node, str] = {}
        stages: dict[str, nn.Module] = {}
        nodes: list[fx.Node] = []
        for i, stretch in enumerate(self._stretches()):
            nodes += stretch
            if i in joined:
                continue
            names[nodes[-1]] = name = _stage_name(nodes, stages)
            stages[name] = _stage(self.module, nodes, self.constant)
            nodes = []
        ends, obstacles = self._describe_modules(names)
        return Cut(stages, ends, obstacles, names.get(self.head_input) if self.head_input else None)

    def _stretches(self) -> Iterator[list[fx.Node]]:
        """Group the nodes into stages, each ending where one value is needed."""
        stretch = []
        for node in self.graph.nodes:
            if node.op not in ("placeholder", "output"):
                stretch.append(node)
            if node in self.places:
                yield stretch
                stretch = []

    def _describe_modules(self, names: dict[fx.Node, str]) -> tuple[dict, dict]:
        """Find for each module the layer at which it ends, or why there is none."""
        last: dict[str, fx.Node] = {}
        calls: dict[str, set[str]] = {}
        for node in self.graph.nodes:
            for path, name, _ in modules_around(node) if node not in self.idle else ():
                last[name] = node
                calls.setdefault(name, set()).add(path)
        once = {name: node for name, node in last.items() if len(calls[name]) == 1}
        ends = {name: names[node] for name, node in once.items() if node in names}
        obstacles = {name: self._obstacle(node) for name, node in once.items() if name not in ends}
        obstacles |= dict.fromkeys(last.keys() - once, "the module is called more than once")
        return ends, obstacles

    def _obstacle(self, node: fx.Node) -> str:
        """Say why the network is not cut after a node."""
        others = sorted(other.name for other in self.live[node] - {node})
        if others:
            values = ", ".join(others[:_SHOWN]) + (", …" if len(others) > _SHOWN else "")
            return f"later operations also need other values ({values})"
        if node in self.inner:
            return "it is inside a block, which is one stage"
        return "its output has no row for each sample"


def _stage_name(nodes: list[fx.Node], taken: dict) -> str:
    """Name some operations by the outermost module that begins and ends in them."""
    around = modules_around(nodes[0].prev) + modules_around(nodes[-1].next)
    outside = {path for path, _, _ in around}
    inner = modules_around(nodes[-1])
    own = [name for path, name, _ in inner if path not in outside]
    step = re.sub(r"_\d+$", "", nodes[-1].name)  # a function, numbered when called again
    name = own[0] if own else ".".join([*(name for _, name, _ in inner[-1:]), step])
    while name in taken:
        name += "_"
    return name


def _stage(module: nn.Module, nodes: list[fx.Node], constant: set[fx.Node]) -> fx.GraphModule:
    """Make a module of some operations, sharing the tensors of the whole."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    entry = graph.placeholder("x")

    def copy_of(node: fx.Node) -> fx.Node:
        # From outside come the value at the cut and constants, which are computed here again.
        if node not in copies:
            copies[node] = graph.node_copy(node, copy_of) if node in constant else entry
        return copies[node]

    for node in nodes:
        copies[node] = graph.node_copy(node, copy_of)
    graph.output(copies[nodes[-1]])
    stage = TracedModule(module, graph)
    _make_dropouts_modules(stage)
    return stage


_DROPOUTS = {
    nn.functional.dropout: nn.Dropout,
    nn.functional.dropout1d: nn.Dropout1d,
    nn.functional.dropout2d: nn.Dropout2d,
    nn.functional.dropout3d: nn.Dropout3d,
    nn.functional.alpha_dropout: nn.AlphaDropout,
    nn.functional.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


def _make_dropouts_modules(stage: fx.GraphModule) -> None:
    """Replace dropout that was called as a function by modules, in place.

    While it was traced the network was not in training, and the graph has that as a constant; a
    module decides when it runs. Dropout that is always on stays.
    """
    called = [node for node in stage.graph.nodes if node.target in _DROPOUTS]
    called = [node for node in called if not _argument(node, 2, "training", True)]
    for i, node in enumerate(called):
        name = f"dropout_as_module_{i}"
        stage.add_submodule(name, _DROPOUTS[node.target](_argument(node, 1, "p", 0.5)).eval())
        with stage.graph.inserting_after(node):
            call = stage.graph.call_module(name, (_argument(node, 0, "input", None),))
        node.replace_all_uses_with(call)
        stage.graph.erase_node(node)
    if called:
        stage.recompile()


def _argument(node: fx.Node, position: int, name: str, default):
    """Return an argument of a call, however it was given."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)
