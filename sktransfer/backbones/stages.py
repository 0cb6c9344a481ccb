"""Cut a network into stages by tracing it.

A network is traced into a graph of operations. It can be cut after an operation if later ones need
only that operation's value. The operations from one such place to the next are a *stage*: running
the stages in order is running the network. A backbone is ``Any`` here, since its class imports this
file.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import threading
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from typing import Any

import torch
from torch import fx, nn

from .._compat.torch import TracedModule

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


def stages_of(backbone: Any) -> dict[str, nn.Module]:
    """Return the stages of a backbone in order, by name, sharing its tensors.

    Each takes the output of the one before. Parameters keep the names they have in the whole
    network. A network that cannot be traced is one stage called "output".
    """
    return cut_of(backbone).stages


@torch.inference_mode(False)  # it is kept
def cut_of(backbone: Any) -> Cut:
    """Return how a backbone is divided into stages, computed once."""
    # Backbones of different input sizes share a module, and so its stages.
    with TRACING:  # two threads must not cut one network twice
        if "cut" not in backbone.prepared:
            given = backbone.stages
            backbone.prepared["cut"] = _cut_network(backbone) if not given else _given(backbone)
        return backbone.prepared["cut"]


def join_stages(backbone: Any, positions: Container[int]) -> None:
    """Cut a backbone anew, each stage at some positions joined with the one after it."""
    backbone.prepared["cut"] = _cut_network(backbone, positions)
    backbone.prepared.pop("engines", None)  # of the stages before


def make_single(backbone: Any, why: str) -> None:
    """Make a backbone a single stage, for a reason that messages tell."""
    backbone.prepared["cut"] = uncut(backbone.module, why)
    backbone.prepared.pop("engines", None)  # of the stages before


def has_tensors(stage: nn.Module) -> bool:
    """Tell whether a stage has parameters."""
    return next(stage.parameters(), None) is not None


def has_matrix(stage: nn.Module) -> bool:
    """Tell whether a stage has weights; one with nothing but a norm or a bias has none.

    Nor has one that only adds positions, or a class token in front; see :func:`is_added`.
    """
    return any(
        parameter.ndim > 1 and not is_added(module, parameter)
        for module in stage.modules()
        for parameter in module.parameters(recurse=False)
    )


def only_adds(stage: nn.Module) -> bool:
    """Tell whether a stage only adds positions, or a class token in front."""
    return not has_matrix(stage) and any(parameter.ndim > 2 for parameter in stage.parameters())


def is_added(module: nn.Module, parameter: nn.Parameter) -> bool:
    """Tell whether a parameter of a module is one activation, which is added or concatenated.

    That is, it has the shape ``(1, tokens, channels)`` or ``(1, channels, height, width)``, as
    positions and class tokens have, and is no kernel of a convolution.
    """
    is_kernel = hasattr(module, "kernel_size")
    return parameter.ndim > 2 and parameter.shape[0] == 1 and not is_kernel


def _given(backbone: Any) -> Cut:
    stages = dict(backbone.stages or {})
    why = backbone.why_whole or "it is given as one stage"
    return Cut(stages, why_single=why if len(stages) == 1 else "")


def uncut(module: nn.Module, why: str) -> Cut:
    """Return a network as a single stage, and the reason."""
    return Cut({"output": module}, why_single=why)


def _cut_network(backbone: Any, joined: Container[int] = ()) -> Cut:
    """Cut a network into stages, some of them, by position, joined with those after them."""
    module = backbone.module
    if backbone.cutter is not None:
        mixed = "some of its modules do not give a row for each sample"
        return uncut(module, mixed) if joined else backbone.cutter(backbone)
    own = set(vars(module))
    try:
        try:
            graph = trace(module, backbone.opaque)
        except Exception as error:  # tracing runs the user's forward, which may raise anything
            return uncut(module, f"{type(error).__name__}: {error}"[:_LONGEST])
        (returned,) = next(node for node in reversed(graph.nodes) if node.op == "output").args
        if not isinstance(returned, fx.Node):
            return uncut(module, "it returns more than one tensor")
        cut = _Cutter(module, graph, backbone.heads).cut(joined)
    finally:
        # Stages have the tensors that tracing adds to the network, whose fingerprint stays so.
        for name in vars(module).keys() - own:
            delattr(module, name)
    if not cut.stages:
        return uncut(module, "it computes nothing")
    if len(cut.stages) == 1:
        cut.why_single = "no operation before its output gives the only value that is needed later"
    return cut


class _Cutter:
    """Cuts one traced network; its graph is changed. ``heads`` are the paths of its classifier."""

    def __init__(self, module: nn.Module, graph: fx.Graph, heads):
        self.module = module
        self.graph = graph
        self.head_input = join_inputs_of_heads(graph, module, heads)
        self.constant = constants(graph)
        self.idle = idle(graph)
        self.live = live_after(graph, self.constant)
        places = cut_places(self.live)
        self.inner = inside_blocks(graph, places | self.constant | self.idle)
        self.places = places - self.inner - before_transposition(graph)

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


# torch.fx patches nn.Module for the whole process while it traces: one thread at a time.
TRACING = threading.RLock()


class _Tracer(fx.Tracer):
    """Trace into containers only.

    A module without children is one operation, so that what depends on ``training`` inside it
    (dropout, stochastic depth) is decided when it runs and not when it is traced; so are functions
    and classes of modules that are ``opaque``. The patch of ``nn.Module`` acts in other threads,
    too; their calls go through unchanged.
    """

    def __init__(self, opaque: Collection[Callable]):
        self.opaque = tuple(item for item in opaque if isinstance(item, type))
        functions = tuple(item for item in opaque if not isinstance(item, type))
        super().__init__(autowrap_functions=functions)
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
        whole = isinstance(module, (torch.jit.ScriptModule, *self.opaque))
        return childless or whole or super().is_leaf_module(module, name)


def trace(module: nn.Module, opaque: Collection[Callable[..., Any]] = ()) -> fx.Graph:
    """Trace a network into a graph of operations, in which childless modules stay whole.

    So do functions and classes of modules that are ``opaque``. Only the first argument of
    ``forward`` is an input. The others have their default values, and the assertions about them
    that tracing adds are removed. Whatever the network's forward raises is raised.
    """
    parameters = list(inspect.signature(module.forward).parameters.values())[1:]
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    with TRACING:
        graph = _Tracer(opaque).trace(module, defaults)
    extra = set([node for node in graph.nodes if node.op == "placeholder"][1:])
    for node in graph.nodes:
        if not extra.isdisjoint(node.all_input_nodes):
            extra.add(node)
    for node in reversed(graph.nodes):
        if node in extra:
            graph.erase_node(node)
    return graph


def modules_around(node: fx.Node) -> list[tuple[str, str, type[Any]]]:
    """Return path, qualified name and class of the modules that a node is computed in.

    The outermost comes first. The path of a second call of a module differs from its name.
    """
    stack = node.meta.get("nn_module_stack", {})
    return [(path, name, cls) for path, (name, cls) in stack.items() if path]


def constants(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes that do not depend on the input: parameters, and values made of them.

    The type and the device of an activation are those of any other.
    """
    constant: set[fx.Node] = set()
    for node in graph.nodes:
        is_kind = node.target is getattr and node.args[1] in ("dtype", "device")
        if node.op in ("placeholder", "output"):
            continue
        if is_kind or constant.issuperset(node.all_input_nodes):
            constant.add(node)
    return constant


def idle(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes that the output does not depend on: assertions and their arguments."""
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or not needed.isdisjoint(node.users):
            needed.add(node)
    return set(graph.nodes) - needed


def live_after(graph: fx.Graph, constant: set[fx.Node]) -> dict[fx.Node, set[fx.Node]]:
    """Return for each node the values, constants aside, that later nodes still need."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    last_use = {node: max((order[user] for user in node.users), default=-1) for node in order}
    live: set[fx.Node] = set()
    after = {}
    for node in order:
        if node.op == "output":
            break
        live = {n for n in (live | {node}) - constant if last_use[n] > order[node]}
        after[node] = live
    return after


def cut_places(live: dict[fx.Node, set[fx.Node]]) -> set[fx.Node]:
    """Return the nodes after which only their own value is needed."""
    return {node for node, needed in live.items() if needed == {node} and node.op != "placeholder"}


_RESHAPES = {"flatten", "reshape", "view"}
_TRANSPOSITIONS = {"movedim", "permute", "swapaxes", "swapdims", "transpose"}


def before_transposition(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes at which an activation has channels before tokens, for one operation.

    Vision transformers flatten a map, ``(n, channels, tokens)``, and then transpose it. Only the
    second is a layer, since in one of three axes tokens come first.
    """
    return {
        node
        for node in graph.nodes
        if _operation(node) in _RESHAPES
        and node.users
        and all(_operation(user) in _TRANSPOSITIONS for user in node.users)
    }


def _operation(node: fx.Node) -> str:
    """Return the name of a function or method of torch; empty for other nodes."""
    if node.op == "call_function":
        return getattr(node.target, "__name__", "")
    return str(node.target) if node.op == "call_method" else ""


def inside_blocks(graph: fx.Graph, passable: set[fx.Node]) -> set[fx.Node]:
    """Return the nodes inside modules of a class that somewhere has a residual connection.

    A block without a residual could be cut inside, the same block with one could not. Layers would
    then depend on such details; so a class with a step of its own that is no place for a cut in any
    of its instances is one stage everywhere. ``passable`` nodes do not prevent a cut. Of each such
    module the last node, its output, is left out.
    """
    inside: dict[str, list[fx.Node]] = {}
    classes: dict[str, type] = {}
    for node in graph.nodes:
        for path, _, cls in modules_around(node):
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


def join_inputs_of_heads(
    graph: fx.Graph, module: nn.Module, heads: Sequence[str] = ()
) -> fx.Node | None:
    """Find the value that a network's classifier takes; make one value of several, in place.

    A network with two heads (one of them trained by distillation, or one for each of two branches)
    has no place before them where a single value is needed. Their inputs are stacked to ``(n,
    n_heads, channels)``, or concatenated to ``(n, channels)`` where they differ in width, and taken
    apart again: between the two the network can be cut.

    ``heads`` are the paths of the classifier; by default those modules that are the last with
    weights, if they are at least two and all of them ``nn.Linear``. None is returned if there are
    no heads, or other values are needed beside their inputs.
    """
    inside = _last_linears(graph, module)
    if heads:
        inside = {n for n in graph.nodes if {name for _, name, _ in modules_around(n)} & {*heads}}
    constant = constants(graph)
    candidates = [n for n in graph.nodes if n not in inside | constant]
    inputs = [n for n in candidates if not inside.isdisjoint(n.users)]
    if len(inputs) < 2:
        return inputs[0] if heads and inputs else None
    after = set(graph.nodes) - idle(graph) - constant - _ancestors(inputs)
    known = after | constant | set(inputs)
    widths: list[Any] = [_width_of(node, inside, module) for node in inputs]
    if None in widths or not all(known.issuperset(node.all_input_nodes) for node in after):
        return None
    _move_behind(graph, after, inputs)
    return _join(graph, inputs, widths, after)


def _last_linears(graph: fx.Graph, module: nn.Module) -> set[fx.Node]:
    """Return the nodes with weights from which no other is reached, if all are linear layers."""
    constant = constants(graph)
    weighted = {n for n in graph.nodes if n not in constant and _has_weights(n, module, constant)}
    leading: set[fx.Node] = set()  # to a node with weights
    for node in reversed(graph.nodes):
        if not (leading | weighted).isdisjoint(node.users):
            leading.add(node)
    last = weighted - leading
    return last if all(isinstance(_called(n, module), nn.Linear) for n in last) else set()


def _has_weights(node: fx.Node, module: nn.Module, constant: set[fx.Node]) -> bool:
    if node.op == "call_module":
        return next(_called(node, module).parameters(), None) is not None
    return not constant.isdisjoint(node.all_input_nodes)


def _called(node: fx.Node, module: nn.Module) -> Any:
    return module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _ancestors(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Return nodes and all that they are computed from."""
    found, open_ = set(), list(nodes)
    while open_:
        node = open_.pop()
        if node not in found:
            found.add(node)
            open_ += node.all_input_nodes
    return found


def _width_of(node: fx.Node, inside: set[fx.Node], module: nn.Module) -> int | None:
    """Return the number of channels that the heads expect of one of their inputs."""
    for user in node.users:
        called = _called(user, module) if user in inside else None
        if called is not None:
            return getattr(called, "in_features", getattr(called, "num_features", None))
    return None


def _move_behind(graph: fx.Graph, after: set[fx.Node], inputs: Sequence[fx.Node]) -> None:
    """Move the nodes that follow the inputs of the heads behind the last of these."""
    nodes = list(graph.nodes)
    end = max(inputs, key=nodes.index)
    for node in nodes[: nodes.index(end)]:
        if node in after:
            end.append(node)
            end = node


def _join(graph: fx.Graph, inputs: list, widths: list[int], after: set[fx.Node]) -> fx.Node:
    """Insert a node that joins some values, and nodes that take them out of it again."""
    nodes = list(graph.nodes)
    same = len(set(widths)) == 1
    with graph.inserting_after(max(inputs, key=nodes.index)):
        function, dim = (torch.stack, 1) if same else (torch.cat, -1)
        joined = graph.create_node(
            "call_function", function, (inputs,), {"dim": dim}, name="pre_logits"
        )
    for i, node in enumerate(inputs):
        with graph.inserting_after(joined):
            if same:
                part = graph.call_function(torch.select, (joined, 1, i))
            else:
                part = graph.call_function(torch.narrow, (joined, -1, sum(widths[:i]), widths[i]))
        node.replace_all_uses_with(part, delete_user_cb=after.__contains__)
    return joined
