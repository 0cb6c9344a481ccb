"""The members of a blend: which features they use, and what is fitted on these.

To add a kind of member, add a function to ``MEMBERS``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from ..backbones import Backbone, LayerInfo, resolve_layer, takes_size
from ..features import candidate_layers, has_ranks
from ..transferability import LinearProbe
from .linear_models import Discriminant, Probe
from .models import Direct, Mapped, Model, OnFeatures

__all__ = [
    "BLEND",
    "BY_RANK",
    "MEMBERS",
    "RAW",
    "Block",
    "Layout",
    "Member",
    "make_members",
    "sizes_of",
]

# The numbers of a blend. They were chosen on the first half of the tasks of benchmarks/regret.py.
BLEND: dict[str, Any] = {
    # Input sizes, relative to the one that the weights were trained with,
    "sizes": (3 / 7, 4 / 7, 9 / 7),
    # rounded to a multiple of this, if that one has at least so many pixels.
    "multiple": 32,
    "least_size": 96,
    # The position, among these sizes, of the one at which a network is trained.
    "trained_size": 0,
    # Layers that are used together, and with the penultimate one; as distances from the last layer
    # before the penultimate one, in a network that has so many before it.
    "together": {
        "late layers": (4, 3, 2, 1, 0),
        "middle layers": (9, 7, 5, 4),
        "all layers": (11, 9, 7, 5, 4, 2, 0),
        "one layer": (4,),
        "later layer": (2,),
    },
    "with_head": (4, 2, 0),
    "depth": 17,
    # Of texts: how many of the last layers are used together.
    "last_of_tokens": (2, 3, 4),
    # Penalties of probes, for rows of features with a mean square of 1.
    "penalties": (1e-3, 1e-2, 1e-1, 1.0, 10.0),
    # The largest number of samples on which members are compared.
    "rows": 600,
    # Folds for few and for many samples, where many begin, and the largest number of splits and of
    # samples judged in them.
    "folds": (5, 3),
    "many": 200,
    "splits": 5,
    "judged": 300,
    # What is known in favour of a member: pseudo-samples of all members, its share of them, and
    # that share where nothing can be judged.
    "priors": {"direct": (1.0, 0.8, 0.5), "features": (10.0, 0.1, 0.8), "": (1.0, 0.0, 0.0)},
    # Where nothing can be judged: the penalty and the temperature of probes.
    "penalty": 1.0,
    "temperature": 0.2,
    # Pseudo-samples that each class of the network starts with in direct use.
    "smoothing": 1.0,
    # The smallest number of samples with which words are counted: with fewer, most occur once.
    "least_counted": 40,
    # A tuned network is tried with so many samples in all and for each class, if the others are
    # wrong for at least this share of samples, and for this share of the errors of the linear probe
    # that it begins as.
    "tuned_rows": 60,
    "tuned_rows_of_class": 8,
    "tuned_errors": 0.05,
    "tuned_share": 0.6,
    # Rows in a step of its training, and the number of samples up to which these suffice.
    "tuned_batch": (8, 240),
    # The least and the largest number of samples held out to weight it, the pseudo-samples, half of
    # them for it, and its smallest weight.
    "held_out": (30, 120),
    "tuned_pseudo_samples": 4.0,
    "tuned_least_weight": 0.1,
    # For numbers, whose weights are selected greedily: rounds of the selection, and bags.
    "rounds": 50,
    "bags": 20,
    # The largest number of features of a member, where there are more than 1,000 classes.
    "many_features": 4096,
    # The smallest weight of a member that is kept.
    "least_weight": 0.02,
}

Pooling = str | tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Block:
    """A vector of each sample: the pooled output of a layer at an input size.

    Parameters
    ----------
    size : int or None
        Side of the image in pixels; None is that of the backbone.
    layer : str
    pooling : str or tuple of str, default="avg"
    """

    size: int | None
    layer: str
    pooling: Pooling = "avg"


# The features of the modality's own vectorizer, such as counts of words, which need no network.
RAW = Block(None, "counts", "none")
# The mean of words that are weighted by their ranks.
BY_RANK = "zipf"


@dataclasses.dataclass(frozen=True)
class Member:
    """A model of some blocks.

    Parameters
    ----------
    name : str
    blocks : tuple of Block
    model : Model
    prior : str, default=""
        Name of what is known in its favour, in ``BLEND["priors"]``.
    """

    name: str
    blocks: tuple[Block, ...]
    model: Model
    prior: str = ""


@dataclasses.dataclass(frozen=True)
class Layout:
    """What members can be made of.

    Parameters
    ----------
    backbone : Backbone
    infos : dict of str to LayerInfo
    sizes : tuple of int or None
    classifier : classifier or None, default=None
        The user's classifier on features, instead of a probe.
    is_labels : bool, default=True
        Whether labels are predicted, and not numbers.
    groups : tuple of tuple of int or None, default=None
        The classes of the network that mean each label, by position, where the user says so.
    """

    backbone: Backbone
    infos: dict[str, LayerInfo]
    sizes: tuple[int | None, ...]
    classifier: Any = None
    is_labels: bool = True
    groups: tuple[tuple[int, ...], ...] | None = None

    @property
    def head(self) -> str:
        """The penultimate layer."""
        return candidate_layers(self.backbone)[-1]

    @property
    def usual_pooling(self) -> str:
        """The pooling of the penultimate layer: words are weighted, where their ranks are known."""
        return BY_RANK if has_ranks(self.backbone) else "avg"

    @property
    def before_pooling(self) -> str:
        """The last layer up to the penultimate one that has positions, if any has."""
        names = list(self.infos)
        upto = names[: names.index(self.head) + 1]
        return next((n for n in reversed(upto) if _n_positions(self.infos[n]) > 1), self.head)

    def layers(self, distances: Sequence[int]) -> list[str]:
        """Return the layers at some distances from the last one before the penultimate."""
        before = [layer for layer in candidate_layers(self.backbone) if layer != self.head]
        step = max(1.0, len(before) / BLEND["depth"])
        places = dict.fromkeys(round(distance * step) for distance in distances)
        return [before[-1 - place] for place in places if place < len(before)]

    def places(self, layer: str) -> Pooling:
        """Return the pooling of a layer that keeps what is where in an image."""
        info = self.infos[layer]
        if len(info.shape) == 3:
            sides = info.shape[1:] if info.shape[0] == info.width else info.shape[:2]
            return "grid" if min(sides) > 1 else "avg"
        has_class_token = info.has_tokens and not self.backbone.modality.has_tokens
        return ("cls", "avg") if has_class_token else "avg"

    def both(self, layer: str) -> Pooling:
        """Return the mean and the maximum over the positions of a layer, if it has any."""
        return ("avg", "max") if _n_positions(self.infos[layer]) > 1 else "avg"

    @property
    def vectors(self) -> dict[str, list[tuple[str, Pooling]]]:
        """The layers and poolings of each member, which are the same at all sizes."""
        found = self._of_tokens if self.backbone.modality.has_tokens else self._of_positions
        if self.classifier is not None:  # it may not stand blocks on different scales
            return {name: vectors for name, vectors in found.items() if len(vectors) == 1}
        return found

    @property
    def _of_positions(self) -> dict[str, list[tuple[str, Pooling]]]:
        head, last = self.head, self.layers([0])
        both = (self.before_pooling, self.both(self.before_pooling))
        found: dict[str, list[tuple[str, Pooling]]] = {
            head: [(head, "avg")],
            f"{head} (mean and maximum)": [both],
            "last layer (mean and maximum)": [(layer, self.both(layer)) for layer in last],
        }
        for name, distances in BLEND["together"].items():
            found[name] = [(layer, self.places(layer)) for layer in self.layers(distances)]
        some = [(layer, self.places(layer)) for layer in self.layers(BLEND["with_head"])]
        found["last layers"] = [*some, both]
        return found

    @property
    def _of_tokens(self) -> dict[str, list[tuple[str, Pooling]]]:
        """Means over tokens: a maximum, and early layers, tell less of a text."""
        found: dict[str, list[tuple[str, Pooling]]] = {self.head: [(self.head, "avg")]}
        if self.usual_pooling != "avg":
            found[f"{self.head} ({self.usual_pooling})"] = [(self.head, self.usual_pooling)]
        for n in BLEND["last_of_tokens"]:
            found[f"last {n} layers"] = [(layer, "avg") for layer in self.last(n)]
        return found

    def last(self, n: int) -> list[str]:
        """Return the last layers up to the penultimate one."""
        return candidate_layers(self.backbone)[-n:]

    @property
    def blocks(self) -> dict[str, tuple[Block, ...]]:
        """The entries of ``vectors`` as blocks, at all sizes."""
        return {
            name: tuple(Block(size, *vector) for size in self.sizes for vector in vectors)
            for name, vectors in self.vectors.items()
        }

    @property
    def model(self) -> Model:
        """What is fitted on features."""
        if self.classifier is not None:
            return OnFeatures(self.classifier)
        kind = Discriminant if self.is_labels else Probe
        return kind(BLEND["penalties"], BLEND["penalty"])


def _n_positions(info: LayerInfo) -> float:
    """Return how many positions an activation has; of tokens, whose number varies, infinity."""
    if info.has_tokens:
        return math.inf
    return math.prod(info.shape) // info.width if len(info.shape) > 1 else 1


def sizes_of(backbone: Backbone, asked: int | None) -> tuple[int | None, ...]:
    """Return the input sizes of members.

    Parameters
    ----------
    backbone : Backbone
        For the size that was asked for.
    asked : int or None
        None takes several, where the network allows it.

    Returns
    -------
    tuple of int or None
        None is the size of the backbone.
    """
    shape = backbone.input_shape
    fixed = asked is not None or backbone.native_shape is not None
    if fixed or shape is None or not hasattr(backbone.preprocess, "with_size"):
        return (None,)
    native, step = max(shape[1:]), BLEND["multiple"]
    if native < BLEND["least_size"] or native != min(shape[1:]):
        return (None,)
    sizes = [step * round(factor * native / step) for factor in BLEND["sizes"]]
    return tuple(sizes) if all(takes_size(backbone, size) for size in sizes) else (None,)


def make_members(layout: Layout) -> list[Member]:
    """Return all members of a layout.

    Parameters
    ----------
    layout : Layout

    Returns
    -------
    list of Member
        Each with other blocks.
    """
    made = [member for make in MEMBERS.values() for member in make(layout)]
    # In a small network, several names stand for the same layers.
    distinct = {(m.blocks, type(m.model)): m for m in reversed(made) if m.blocks}
    return list(distinct.values())[::-1]


def _on_features(layout: Layout) -> list[Member]:
    """Models of layers, each at all sizes side by side."""
    return [
        Member(f"{name}{_at(layout.sizes)}", blocks, layout.model)
        for name, blocks in layout.blocks.items()
    ]


def _with_raw(layout: Layout) -> list[Member]:
    """Models of features that need no network, alone and beside those of layers."""
    if layout.backbone.modality.vectorizer() is None or layout.classifier is not None:
        return []
    beside = [
        Member(f"{name} and {RAW.layer}", (*blocks, RAW), layout.model)
        for name, blocks in layout.blocks.items()
    ]
    return [Member(RAW.layer, (RAW,), layout.model), *beside]


def _at(sizes: Sequence[int | None]) -> str:
    return "" if None in sizes else f", {' + '.join(map(str, sizes))} pixels"


def _direct(layout: Layout) -> list[Member]:
    """The network's own classes at the largest size, where they are most often right.

    The prior is in favour of the map that the user gives, or else of the learned one.
    """
    if layout.groups is None and (layout.backbone.classes is None or not layout.is_labels):
        return []
    size, model = layout.sizes[-1], Direct((BLEND["smoothing"],))
    name, blocks = f"own classes{_at([size])}", (Block(size, resolve_layer(layout.backbone, -1)),)
    if layout.groups is None:
        return [Member(name, blocks, model, prior="direct")]
    given = Member(f"class_map{_at([size])}", blocks, Mapped(layout.groups), prior="direct")
    return [given, Member(name, blocks, model)]


def _logistic(layout: Layout) -> list[Member]:
    """The strategy "features", which is hard to beat with few samples and without own classes."""
    has_classes = layout.backbone.classes is not None
    if has_classes or layout.classifier is not None or not layout.is_labels:
        return []
    block = Block(layout.sizes[-1], layout.head, layout.usual_pooling)
    model = OnFeatures(LinearProbe(random_state=0))
    return [Member(f"{layout.head} (logistic)", (block,), model, prior="features")]


MEMBERS: dict[str, Callable[[Layout], list[Member]]] = {
    "on features": _on_features,
    "with raw": _with_raw,
    "direct": _direct,
    "logistic": _logistic,
}
