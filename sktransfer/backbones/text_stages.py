"""Divide networks for texts into stages: embeddings, blocks, what comes behind them, and pooling.

Two ways lead to the same stages. BERT and its relatives are divided into the modules that they
consist of. Every other network runs by its own ``forward``, in which all but one block of its list
are replaced: such a stage puts its input in the place of what enters the block, and returns what
leaves it. So masks, positions and kinds of layers are those of the network, and no family has code
of its own here but T5, whose blocks share the position bias of the first.

Stages exchange vectors ``(n, L, d)`` in which a position that is all zeros holds no token.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .._compat.torch import children_of, shallow_copy
from .model_folders import explained

# Added to the attention scores of positions without a token. It is finite in bfloat16, too, so that
# a text without tokens attends to all positions equally and gives no NaN.
_NEVER = torch.finfo(torch.bfloat16).min
TINY = 1e-30  # marks a vector of zeros as that of a token
_SAMPLE = 3, 24  # texts and tokens of the sample that networks are cut on


def _tokens(x: torch.Tensor) -> torch.Tensor:
    """Return which positions of ``(n, L, d)`` hold a token."""
    return x.detach().abs().amax(-1) != 0  # (n, L), as (x != 0).any(-1) and six times as fast


def _marked(x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Set positions without a token to exactly zero."""
    return x * tokens[..., None]


def _in_chunks(run: Callable, x: torch.Tensor, longest: int | None) -> torch.Tensor:
    """Run each ``longest`` positions of ``(n, L, ...)`` alone, as a network takes no more."""
    if longest is None or x.shape[1] <= longest:
        return run(x)
    return torch.cat([run(part) for part in x.split(longest, 1)], 1)


def cut_encoder(
    name: str,
    model: Any,
    longest: int | None = None,
    *,
    last_id: int | None = None,
    is_classifier: bool = False,
) -> tuple[dict[str, nn.Module], str]:
    """Divide a network into stages that compute the same, or keep it whole.

    It runs on ids of tokens alone. ``longest`` is the number of positions after which a text begins
    again, and ``last_id`` that with which texts end, as the tokenizer has it; it may be that of
    padding. The outputs of a classifier are logits, one vector for each text.

    Returns stages from ids ``(n, L)``, of which 0 is no token, to vectors ``(n, L, d)`` or logits,
    and why a network is one stage ("" for one that is cut). A ``ValueError``, with the name, if the
    network does not run on ids alone, or gives other vectors where padding follows.
    """
    padding = getattr(model.config, "pad_token_id", None) or 0
    model.config.use_cache = False
    whole = (Logits if is_classifier else Whole)(model, padding, longest)
    network = f"{type(model).__name__} (of the family {model.config.model_type!r})"
    problem = (
        f"{network} is not an encoder of texts that transformers runs on ids alone. "
        "Give its encoder itself: load_backbone(module, preprocess=…, modality='text')"
    )
    with explained(name, problem):
        ids = _sample_ids(model.config.vocab_size)
        if is_classifier:  # some look for the last id that is not that of padding
            ids[ids == padding + 1] = 1 + int(padding == 0)
        ids[1, 14] = ids[1, 14] if last_id is None else last_id + 1
        expected = _run([whole], ids)
        alone = _run([whole], ids[1:2, :15])
    together = expected[1:2] if is_classifier else expected[1:2, :15]
    if not _agree(together, alone, 1e-4):
        raise ValueError(
            f"backbone {name!r}: {network} gives a token other vectors where padding follows, so "
            "that the features of a text would depend on its batch. Use a network of another "
            "family."
        )
    if not is_classifier:
        with contextlib.suppress(Exception):  # other families have other names
            stages = _split_encoder(model, padding, longest)
            if _agree(_run(stages.values(), ids), expected):
                return stages, ""
    try:
        stages = _Cutter(model, padding, longest, is_classifier).cut(ids)
        if _agree(_run(stages.values(), ids), expected):
            return stages, ""
        why = "its blocks, run one after another, do not give the same"
    except _NoCutError as error:
        why = str(error)
    except Exception as error:  # the forward of a network may raise anything
        why = f"{type(error).__name__} while its blocks ran alone: {error}"[:200]
    return {"classifier" if is_classifier else "encoder": whole}, why


def _agree(found: torch.Tensor, expected: torch.Tensor, difference: float = 1e-5) -> bool:
    """Tell whether the relative difference is no greater; NaN is."""
    return bool((found - expected).norm() <= difference * expected.norm())


def _sample_ids(n_ids: int) -> torch.Tensor:
    """Make rows of ids of different lengths."""
    ids = torch.randint(1, n_ids + 1, _SAMPLE, generator=torch.Generator().manual_seed(0))
    ids[1, 15:] = ids[2, 3:] = 0
    return ids


@torch.no_grad()
def _run(stages: Iterable[nn.Module], x: torch.Tensor) -> torch.Tensor:
    for stage in stages:
        x = stage(x)
    return x


def in_order(stages: dict[str, nn.Module]) -> nn.Sequential:
    """Put stages into one module in which they keep their names, such as "layer.0"."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for name, stage in stages.items():
        parent, _, child = name.rpartition(".")
        if parent:
            parts.setdefault(parent, nn.Sequential()).add_module(child, stage)
        else:
            parts[name] = stage
    return nn.Sequential(parts)


# -- the whole network -------------------------------------------------------------------------


class Whole(nn.Module):
    """Run a network that cannot be cut, from ids ``(n, L)`` to vectors ``(n, L, d)``."""

    def __init__(self, model: nn.Module, padding: int, longest: int | None = None):
        super().__init__()
        self.model = model
        self.padding = padding
        self.longest = longest

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return _in_chunks(self._run, ids, self.longest)

    def _run(self, ids: torch.Tensor) -> torch.Tensor:
        tokens = ids > 0
        original = torch.where(tokens, ids - 1, self.padding)
        y = self.model(input_ids=original, attention_mask=tokens.long()).last_hidden_state
        return _marked(y, tokens)


class Logits(Whole):
    """Run a classifier that cannot be cut, from ids ``(n, L)`` to logits ``(n, k)``.

    A text is truncated to ``longest`` tokens.
    """

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        ids = ids[:, : self.longest]
        tokens = ids > 0
        original = torch.where(tokens, ids - 1, self.padding)
        return self.model(input_ids=original, attention_mask=tokens.long()).logits


# -- BERT and its relatives --------------------------------------------------------------------


class Embeddings(nn.Module):
    """Map ids ``(n, L)`` to vectors ``(n, L, d)``, including the positions.

    ``padding`` is the network's id of padding, from which RoBERTa counts positions. Positions begin
    again after ``longest``.
    """

    takes_any_length = True  # and gives the same vectors with and without padding behind them

    def __init__(self, table: nn.Module, padding: int, longest: int | None = None):
        super().__init__()
        self.table = table
        self.padding = padding
        self.longest = longest

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return _in_chunks(self._run, ids, self.longest)

    def _run(self, ids: torch.Tensor) -> torch.Tensor:
        tokens = ids > 0
        return _marked(self.table(torch.where(tokens, ids - 1, self.padding)), tokens)


class Block(nn.Module):
    """Run one block of attention, ``(n, L, d)`` to ``(n, L, d)``.

    ``relative`` computes the position bias of MPNet, which is added to the scores. In MPNet, all
    blocks share it; here each block has a copy, which may change in training. Tokens attend to
    those of the same ``longest`` positions.
    """

    takes_any_length = True
    relative: Any  # a module with compute_position_bias, or None

    def __init__(
        self, block: nn.Module, relative: nn.Module | None = None, longest: int | None = None
    ):
        super().__init__()
        self.block = block
        self.relative = relative
        self.longest = longest

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _in_chunks(self._run, x, self.longest)

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        tokens = _tokens(x)
        # Without padding, too: the last bits of a row must not depend on the other rows.
        scores = x.new_zeros(()).masked_fill(~tokens[:, None, None], _NEVER)  # (n, 1, 1, L)
        if self.relative is None:
            y = self.block(x, scores)
        else:
            y = self.block(x, scores, position_bias=self.relative.compute_position_bias(x))
        return _marked(y[0] if isinstance(y, tuple) else y, tokens)


def _split_encoder(model: Any, padding: int, longest: int | None) -> dict[str, nn.Module]:
    encoder = model.transformer if hasattr(model, "transformer") else model.encoder  # DistilBERT
    relative = None
    if hasattr(encoder, "compute_position_bias"):  # MPNet
        relative = shallow_copy(encoder, without="layer")
    table = model.embeddings
    if hasattr(model, "embeddings_project"):  # small ELECTRAs
        table = nn.Sequential(table, model.embeddings_project)
    stages: dict[str, nn.Module] = {"embeddings": Embeddings(table, padding, longest)}
    for i, block in enumerate(encoder.layer):
        stages[f"layer.{i}"] = Block(block, copy.deepcopy(relative), longest)
    return stages


# -- every other network -----------------------------------------------------------------------


class _NoCutError(ValueError):
    """A network cannot be cut."""


@dataclasses.dataclass
class _Call:
    """One run of a network in which only a part of it computes.

    The calls of blocks, and of the last linear layer of a classifier, have numbers. Point 2 k is
    what enters call k, point 2 k + 1 what leaves it; point -1 is the ids.

    Parameters
    ----------
    given : Tensor
        The value at ``begin``.
    begin, end : int
        The points between which the network computes.
    n_done : int
        Calls that were made.
    result : Tensor
        The value at ``end``, when it was reached.
    """

    given: torch.Tensor
    begin: int
    end: int
    n_done: int = 0
    result: Any = None


_RUNNING = threading.local()  # its attribute ``call`` is the _Call of this thread


class Slot(nn.Module):
    """Stand in the place of a block: run it if it is part of the stage, else pass vectors on.

    Parameters
    ----------
    block : torch.nn.Module or None
        None where the block is no part of the stage.
    argument : str
        The name of its argument for vectors.
    n_returned : int
        Length of the tuple that the block returns; 0 if it returns a tensor.
    settings : dict
        Plain attributes of the block, which the network may read.
    """

    def __init__(
        self, block: nn.Module | None, argument: str, n_returned: int, settings: dict[str, Any]
    ):
        super().__init__()
        vars(self).update(settings)
        self.block = block
        self.argument = argument
        self.n_returned = n_returned

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        call = _RUNNING.call
        enters, call.n_done = 2 * call.n_done, call.n_done + 1
        x = args[0] if args else kwargs[self.argument]
        if enters == call.end:
            call.result = x
        if enters == call.begin:
            x = call.given
        y = x
        if self.block is not None and call.begin <= enters < call.end:
            args = (x, *args[1:]) if args else args
            y = self.block(*args, **kwargs if args else kwargs | {self.argument: x})
        elif self.n_returned:
            y = (x, *[None] * (self.n_returned - 1))
        if enters + 1 == call.end:
            call.result = y[0] if self.n_returned else y
        if enters + 1 == call.begin:
            return (call.given, *y[1:]) if self.n_returned else call.given
        return y


class Nothing(nn.Module):
    """Stand in the place of a module that a stage does not need: return the vectors given.

    Parameters
    ----------
    width : int, default=0
        For a table of embeddings, their width: return zeros.
    """

    def __init__(self, width: int = 0):
        super().__init__()
        self.width = width

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.width:
            ids = (*args, *kwargs.values())[0]
            return torch.zeros(*ids.shape, self.width, device=ids.device)
        vectors = (x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor))
        found = next((x for x in vectors if x.is_floating_point()), None)
        return self.weight if found is None else found

    @property
    def weight(self) -> torch.Tensor:
        """What a network reads that does not call the module, as DeBERTa does."""
        return _RUNNING.call.given


class Part(nn.Module):
    """Run a part of a network by the network's own ``forward``.

    Parameters
    ----------
    network : torch.nn.Module
        With slots in the places of its blocks.
    begin, end : int
        The points between which it computes; see :class:`_Call`.
    padding : int
        The network's id of padding.
    longest : int, default=None
        The number of positions after which a text begins again.
    output : str, default=""
        The attribute of the network's output that is returned, where the part is its end.
    """

    takes_any_length = True

    def __init__(
        self,
        network: nn.Module,
        begin: int,
        end: int,
        padding: int,
        longest: int | None = None,
        output: str = "",
    ):
        super().__init__()
        self.network = network
        self.begin = begin
        self.end = end
        self.padding = padding
        self.longest = longest
        self.output = output

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _in_chunks(self._run, x, self.longest)

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        if self.begin < 0:
            tokens = x > 0
            ids = torch.where(tokens, x - 1, self.padding)
        else:  # the ids are forgotten; a network may look where padding is
            tokens = _tokens(x)
            ids = torch.where(tokens, int(self.padding == 0), self.padding)
        # A text without tokens attends to its first position, so that it gives no NaN.
        first = torch.arange(x.shape[1], device=x.device) == 0
        seen = tokens | (first & ~tokens.any(1, keepdim=True))
        before = getattr(_RUNNING, "call", None)
        _RUNNING.call = call = _Call(x, self.begin, self.end)
        try:
            y = self.network(input_ids=ids, attention_mask=seen.long())
        finally:
            _RUNNING.call = before
        y = getattr(y, self.output) if self.output else call.result
        if y.ndim < 3:
            return y
        y = torch.where(tokens[..., None], y, 0.0)
        if self.begin < 0:  # the vector of the id of padding is zero, and texts may have that id
            y = y + (tokens & ~_tokens(y))[..., None] * TINY
        return y


class _Cutter:
    """Cuts a network at the blocks of its longest list.

    Parameters
    ----------
    padding, longest, is_classifier
        As for :func:`cut_encoder`.
    """

    def __init__(self, model: nn.Module, padding: int, longest: int | None, is_classifier: bool):
        self.model = model
        self.padding = padding
        self.longest = longest
        self.output = "logits" if is_classifier else "last_hidden_state"
        self.slots: dict[str, Slot] = {}  # by the path of the module
        self.calls: list[str] = []  # their paths, in order
        self.of_embeddings: set[torch.Tensor] = set()  # the parameters of the first stage
        self.linear: nn.Linear | None = (
            None  # the last one of a classifier, called after the blocks
        )

    def cut(self, ids: torch.Tensor) -> dict[str, nn.Module]:
        """Make the stages."""
        self._record(ids)
        n = len(self.calls) - (self.linear is not None)
        last = 2 * n - 1  # what leaves the last block
        ends = {f"layer.{i}": 2 * (i + 1) for i in range(n - 1)} | {f"layer.{n - 1}": last}
        stages: dict[str, nn.Module] = {}
        begin, x = -1, ids
        for name, end in [("embeddings", 0), *ends.items()]:
            stages[name] = self._part(begin, end, x)
            begin, x = end, _run([stages[name]], x)
        if self.linear is not None:
            stage = self._part(last, last + 1, x)
            pooled = _run([stage], x)
            if pooled.ndim == 2:
                return stages | {"sentence": stage, "classifier": self.linear}
            return stages | {"norm": stage, "classifier": self._part(last + 1, -1, pooled)}
        ending = self._part(last, -1, x)
        if self.output == "logits":
            return stages | {"classifier": ending}
        return stages if torch.equal(_run([ending], x), x) else stages | {"norm": ending}

    def _record(self, ids: torch.Tensor) -> None:
        """Find the blocks: those members of a list that are called one after another."""
        called: list[tuple[nn.Module, tuple, dict, Any]] = []

        def note(module, args, kwargs, output):
            called.append((module, args, kwargs, output))

        paths = {module: path for path, module in self.model.named_modules()}
        lists = [m for m in paths if isinstance(m, nn.ModuleList) and len(m)]
        watched = {m for members in lists for m in members}
        watched |= {m for m in paths if isinstance(m, nn.Linear)}
        with contextlib.ExitStack() as stack:
            for module in watched:
                stack.callback(module.register_forward_hook(note, with_kwargs=True).remove)
            tokens = ids > 0
            original = torch.where(tokens, ids - 1, self.padding)
            with torch.no_grad():
                output = self.model(input_ids=original, attention_mask=tokens.long())
        shape = tuple(ids.shape)
        runs = [[c for c in called if c[0] in set(members)] for members in lists]
        runs = [run for run in runs if run and all(_is_block(*c[1:], shape) for c in run)]
        if not runs:
            raise _NoCutError("it has no list of blocks from vectors of tokens to such vectors")
        blocks = max(runs, key=lambda run: sum(p.numel() for p in _parameters(c[0] for c in run)))
        _share_position_bias([c[0] for c in blocks])
        place = max(i for i, call in enumerate(called) if call is blocks[-1])
        for module, _, _, y in called[place + 1 :] if self.output == "logits" else []:
            if isinstance(module, nn.Linear) and y.shape[-1] == output.logits.shape[-1]:
                self.linear = module
                blocks = [*blocks, (module, (1,), {}, y)]
                break
        for module, args, _, y in blocks:
            argument = "" if args else next(iter(inspect.signature(module.forward).parameters))
            public = {k: v for k, v in vars(module).items() if not k.startswith("_")}
            plain = {k: v for k, v in public.items() if isinstance(v, str | int | float | None)}
            n_returned = len(y) if isinstance(y, tuple) else 0
            self.slots[paths[module]] = Slot(module, argument, n_returned, plain)
            self.calls.append(paths[module])

    def _part(self, begin: int, end: int, x: torch.Tensor) -> Part:
        """Make the stage between two points, with the modules that it needs."""
        output = self.output if end < 0 else ""
        end = 2 * len(self.calls) if end < 0 else end
        inside = {p for i, p in enumerate(self.calls) if begin <= 2 * i < end}
        whole = self._copy(self.model, inside, None)
        part = Part(whole, begin, end, self.padding, self.longest, output)
        with torch.enable_grad(), _all_learned(self.model):
            y = part(x)
        needed = _reached(y) - self.of_embeddings
        if begin < 0:  # instead of which other stages are given vectors
            self.of_embeddings = needed
        part.network = self._copy(self.model, inside, needed)
        if y.ndim == 2:  # one vector for all chunks of a text
            part.longest = None
        return part

    def _copy(self, module: nn.Module, inside: set[str], needed: set | None, path: str = "") -> Any:
        """Copy a network without its tensors, with slots and without modules that do nothing."""
        if path in self.slots:
            slot = shallow_copy(self.slots[path])
            slot.block = module if path in inside else None
            return slot
        has_slots = any(slot.startswith(f"{path}." if path else "") for slot in self.slots)
        parameters = set(module.parameters())
        if needed is not None and parameters and not has_slots and parameters.isdisjoint(needed):
            return Nothing(module.embedding_dim if isinstance(module, nn.Embedding) else 0)
        own = module.named_parameters(recurse=False)
        unused = [] if needed is None else [name for name, x in own if x not in needed]
        made = shallow_copy(module, **dict.fromkeys(unused))
        for name, child in children_of(module).items():
            if child is not None:
                inner = f"{path}.{name}".lstrip(".")
                made.add_module(name, self._copy(child, inside, needed, inner))
        return made


def _is_block(args: tuple, kwargs: dict, output: Any, shape: tuple[int, ...]) -> bool:
    """Tell whether a call took and returned a vector for each token."""
    x: Any = args[0] if args else next(iter(kwargs.values()), None)
    y: Any = output[0] if isinstance(output, tuple) else output
    both = isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor)
    return both and x.shape == y.shape and x.ndim == 3 and tuple(x.shape[:2]) == shape


def _parameters(modules: Iterable[nn.Module]) -> set[nn.Parameter]:
    return {parameter for module in modules for parameter in module.parameters()}


@contextlib.contextmanager
def _all_learned(model: nn.Module):
    """Let all parameters have gradients within a block, those of fixed positions too."""
    fixed = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    for parameter in fixed:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in fixed:
            parameter.requires_grad_(False)


def _reached(y: torch.Tensor) -> set[torch.Tensor]:
    """Return the parameters that a result was computed with."""
    found, left, seen = set(), [y.grad_fn], set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found |= {node.variable} if hasattr(node, "variable") else set()
        left += [following for following, _ in node.next_functions]
    return found


def _share_position_bias(blocks: Sequence[nn.Module]) -> None:
    """Let each block of T5 compute the position bias, which the first one hands to the others."""
    for path, module in blocks[0].named_modules():
        if not getattr(module, "has_relative_attention_bias", False):
            continue
        for block in blocks[1:]:
            other: Any = block.get_submodule(path)
            if not other.has_relative_attention_bias:
                other.relative_attention_bias = module.relative_attention_bias
                other.has_relative_attention_bias = True


# -- behind the blocks -------------------------------------------------------------------------


def _mean(x: torch.Tensor, tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (x * tokens).sum(1) / tokens.sum(1).clamp(min=1)


def _mean_by_root(x: torch.Tensor, tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (x * tokens).sum(1) / tokens.sum(1).clamp(min=1).sqrt()


def _weighted_mean(x: torch.Tensor, tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    weight = weight * tokens
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1)


def _largest(x: torch.Tensor, tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x.masked_fill(~tokens, -torch.inf).amax(1).masked_fill(~tokens.any(1), 0)


def _first(x: torch.Tensor, tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    is_first = tokens & ((weight * tokens).cumsum(1) == weight)
    return (x * is_first).sum(1)


def _last(x: torch.Tensor, tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (x * (tokens & (weight == weight.amax(1, keepdim=True)))).sum(1)


# Each takes vectors ``(n, L, d)``, which of them are tokens that count ``(n, L, 1)``, and the
# number of each token in its text, from 1.
POOLINGS: dict[str, Callable[..., torch.Tensor]] = {
    "mean": _mean,
    "max": _largest,
    "cls": _first,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}


class Sentence(nn.Module):
    """Pool the vectors of tokens ``(n, L, d)`` to the vector of a text ``(n, d)``.

    The vector of a text without tokens is zero.

    Parameters
    ----------
    pooling : str or tuple of str, default="mean"
        Names of sentence-transformers: "mean", "max", "cls" (the first token), "lasttoken",
        "weightedmean" (by the number of a token in its text) and "mean_sqrt_len_tokens" (divided
        by the root of their number). Several stand side by side.
    normalise : bool, default=False
        Whether it is scaled to length one.
    """

    def __init__(self, pooling: str | tuple[str, ...] = "mean", normalise: bool = False):
        super().__init__()
        self.pooling = pooling
        self.normalise = normalise

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        names = (self.pooling,) if isinstance(self.pooling, str) else self.pooling
        tokens = _tokens(x)[..., None]
        number = tokens.cumsum(1)
        counted = self._counted(tokens, number)
        y = torch.cat([POOLINGS[name](x, counted, number) for name in names], 1)
        return F.normalize(y, dim=-1) if self.normalise else y

    def _counted(self, tokens: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        return tokens


class SentenceWithoutPrompt(Sentence):
    """Pool the tokens behind those of the prompt.

    Parameters
    ----------
    pooling, normalise
        As for :class:`Sentence`.
    n_prompt_tokens : int, default=0
        Special tokens before the prompt included.
    """

    def __init__(
        self,
        pooling: str | tuple[str, ...] = "mean",
        normalise: bool = False,
        n_prompt_tokens: int = 0,
    ):
        super().__init__(pooling, normalise)
        self.n_prompt_tokens = n_prompt_tokens

    def behind_prompt(self, n_prompt_tokens: int) -> SentenceWithoutPrompt:
        """Return the same behind a prompt of another length."""
        return SentenceWithoutPrompt(self.pooling, self.normalise, n_prompt_tokens)

    def _counted(self, tokens: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        return tokens & (number > self.n_prompt_tokens)


class Dense(nn.Module):
    """Apply a linear layer and an activation to vectors ``(n, d)``, as in sentence-transformers.

    Parameters
    ----------
    residual : torch.nn.Module, default=None
        Its output is added.
    """

    def __init__(self, linear: nn.Linear, activation: nn.Module, residual: nn.Module | None = None):
        super().__init__()
        self.linear = linear
        self.activation = activation
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.activation(self.linear(x))
        return y if self.residual is None else y + self.residual(x)


class Normalize(nn.Module):
    """Scale vectors ``(n, d)`` to length one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(x, dim=-1)


class Truncate(nn.Module):
    """Return the first numbers of vectors ``(n, d)``."""

    def __init__(self, n_kept: int):
        super().__init__()
        self.n_kept = n_kept

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, : self.n_kept]
