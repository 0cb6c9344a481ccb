"""Propose the candidates of a blend: which features they read, and what is fitted on these.

To add a kind of candidate, add a function to ``PROPOSALS``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from ..backbones import Backbone, LayerInfo, resolve_layer, size_step, takes_size
from ..features import Output, candidate_layers, has_ranks, layer_of_tokens
from ..transferability import LinearProbe
from .candidates import (
    Candidate,
    ClassifierCandidate,
    ClassMapCandidate,
    Counts,
    LinearCandidate,
    OwnClassesCandidate,
    Tabular,
)

# The numbers of a blend. They were chosen on the first half of the tasks of benchmarks/regret.py.
BLEND: dict[str, Any] = {
    # Input sizes, relative to the one that the weights were trained with,
    "sizes": (3 / 7, 4 / 7, 9 / 7),
    # rounded to a multiple of this (of the patch that is nearest to it, where a network has
    # patches), if that one has at least so many pixels.
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
    # Of transformers for images: how many of the last blocks are read with the class token.
    "class_tokens": 4,
    # Of texts: how many of the last layers are used together.
    "last_of_tokens": (2, 3, 4),
    # Penalties of probes, for rows of features with a mean square of 1.
    "penalties": (1e-3, 1e-2, 1e-1, 1.0, 10.0),
    # The largest number of samples on which candidates are compared.
    "rows": 600,
    # What is known in favor of a candidate: pseudo-samples of all candidates, its share of them,
    # and that share where nothing can be judged.
    "priors": {
        "prompts": (10.0, 0.8, 0.5),  # chosen by benchmarks/zero_shot.py --priors
        "direct": (1.0, 0.8, 0.5),
        "features": (10.0, 0.1, 0.8),
        "": (1.0, 0.0, 0.0),
    },
    # Where nothing can be judged: the penalty of probes.
    "penalty": 1.0,
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
    # The largest number of features of a candidate, where there are more than 1,000 classes.
    "many_features": 4096,
    # The largest number of categories of a column; the rare ones count as one.
    "categories": 255,
    # The smallest weight of a candidate that is kept.
    "least_weight": 0.02,
}

Pooling = str | tuple[str, ...]


CELLS = "numbers and categories"
# The pooling of words that are weighted by their ranks.
BY_RANK = "zipf"


@dataclasses.dataclass(frozen=True)
class Layout:
    """What candidates can be made of.

    Parameters
    ----------
    infos : dict of str to LayerInfo
    classifier : classifier or None, default=None
        The user's classifier on features, instead of a probe.
    is_labels : bool, default=True
        Whether labels are predicted, and not numbers.
    groups : tuple of tuple of int or None, default=None
        The classes of the network that mean each label, by position, where the user says so.
    column : str or int, default=None
        The column of a table that the network reads.
    """

    backbone: Backbone
    infos: dict[str, LayerInfo]
    sizes: tuple[int | None, ...]
    classifier: Any = None
    is_labels: bool = True
    groups: tuple[tuple[int, ...], ...] | None = None
    column: str | int | None = None

    @property
    def head(self) -> str:
        """The penultimate layer."""
        return candidate_layers(self.backbone)[-1]

    @property
    def usual_pooling(self) -> str:
        """The pooling of the penultimate layer: words are weighted, where their ranks are known."""
        has_words = has_ranks(self.backbone) and self.infos[self.head].has_tokens
        return BY_RANK if has_words else "avg"

    def layers(self, distances: Sequence[int]) -> list[str]:
        """Return the layers at some distances from the last one before the penultimate."""
        before = [layer for layer in candidate_layers(self.backbone) if layer != self.head]
        step = max(1.0, len(before) / BLEND["depth"])
        places = dict.fromkeys(round(distance * step) for distance in distances)
        return [before[-1 - place] for place in places if place < len(before)]

    def places(self, layer: str) -> Pooling:
        """Return the pooling of a layer that keeps what is where in an image.

        Of the last blocks of a transformer, the class token is read beside the mean of patches.
        """
        info = self.infos[layer]
        if info.grid is not None and layer not in self.with_class_token:
            return "grid" if min(info.grid) > 1 else "avg"
        is_image = not self.backbone.modality.has_tokens
        may_have = info.prefix_tokens != 0 and self.backbone.has_class_token is not False
        return ("cls", "avg") if info.has_tokens and is_image and may_have else "avg"

    @property
    def with_class_token(self) -> list[str]:
        """The last blocks known to have a class token, the last one behind the final norm first."""
        if not self.backbone.has_class_token or self.backbone.modality.has_tokens:
            return []
        names, n_prefix = list(self.infos), self.backbone.prefix_tokens
        top = layer_of_tokens(self.backbone, self.infos)
        before = [n for n in candidate_layers(self.backbone) if names.index(n) < names.index(top)]
        with_it = [
            layer
            for layer in [top, *reversed(before)]
            if self.infos[layer].has_tokens and self.infos[layer].prefix_tokens == n_prefix
        ]
        return with_it[: BLEND["class_tokens"]]

    def both(self, layer: str) -> Pooling:
        """Return the mean and the maximum over the positions of a layer, if it has any."""
        return ("avg", "max") if _n_positions(self.infos[layer]) > 1 else "avg"

    @property
    def outputs(self) -> dict[str, tuple[Output, ...]]:
        """What each candidate reads: its layers and poolings, the same at all sizes."""
        by_name = self._of_tokens if self.backbone.modality.has_tokens else self._of_positions
        return {
            name: tuple(self.at(size, *vector) for size in self.sizes for vector in vectors)
            for name, vectors in by_name.items()
            # A classifier of the user's may not stand blocks on different scales.
            if self.classifier is None or len(vectors) == 1
        }

    @property
    def _of_positions(self) -> dict[str, list[tuple[str, Pooling]]]:
        names, head, last = list(self.infos), self.head, self.layers([0])
        upto = names[: names.index(head) + 1]
        before = next((n for n in reversed(upto) if _n_positions(self.infos[n]) > 1), head)
        both = (before, self.both(before))
        by_name: dict[str, list[tuple[str, Pooling]]] = {
            head: [(head, "avg")],
            f"{head} (mean and maximum)": [both],
            "last layer (mean and maximum)": [(layer, self.both(layer)) for layer in last],
        }
        for name, distances in BLEND["together"].items():
            by_name[name] = [(layer, self.places(layer)) for layer in self.layers(distances)]
        some = [(layer, self.places(layer)) for layer in self.layers(BLEND["with_head"])]
        by_name["last layers"] = [*some, both]
        if self.with_class_token:
            blocks: list[tuple[str, Pooling]] = [(x, ("cls", "avg")) for x in self.with_class_token]
            by_name[f"{blocks[0][0]} (class token and mean)"] = blocks[:1]
            by_name["last blocks"] = blocks
        return by_name

    @property
    def _of_tokens(self) -> dict[str, list[tuple[str, Pooling]]]:
        """Means over tokens: a maximum, and early layers, tell less of a text."""
        by_name: dict[str, list[tuple[str, Pooling]]] = {self.head: [(self.head, "avg")]}
        if self.usual_pooling != "avg":
            by_name[f"{self.head} ({self.usual_pooling})"] = [(self.head, self.usual_pooling)]
        for n in BLEND["last_of_tokens"]:
            layers = candidate_layers(self.backbone)[-n:]
            by_name[f"last {n} layers"] = [(layer, "avg") for layer in layers]
        return by_name

    def at(self, size: int | None, layer: str, pooling: Pooling = "avg") -> Output:
        """Return the pooled output of a layer at an input size."""
        return Output(self.backbone.with_image_size(size), layer, pooling, column=self.column)

    def candidate(
        self, name: str, reads: Sequence[Any], shares: tuple[float, ...] = ()
    ) -> Candidate:
        """Return what is fitted on features."""
        if self.classifier is not None:
            return ClassifierCandidate(name, reads, self.classifier)
        settings = BLEND["penalties"], BLEND["penalty"]
        return LinearCandidate(
            name, reads, *settings, is_discriminant=self.is_labels, shares=shares
        )


def _n_positions(info: LayerInfo) -> float:
    """Return how many positions an activation has; of tokens, whose number varies, infinity."""
    if info.grid is not None:
        return math.prod(info.grid)
    if info.has_tokens:
        return math.inf
    return math.prod(info.shape) // info.width if len(info.shape) > 1 else 1


def input_sizes(backbone: Backbone, asked: int | None) -> tuple[int | None, ...]:
    """Return the input sizes of candidates.

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
    native, step = max(shape[1:]), size_step(backbone, BLEND["multiple"])
    if native < BLEND["least_size"] or native != min(shape[1:]):
        return (None,)
    sizes = [step * round(factor * native / step) for factor in BLEND["sizes"]]
    return tuple(sizes) if all(takes_size(backbone, size) for size in sizes) else (None,)


def propose_candidates(*layouts: Layout, has_cells: bool = False) -> list[Candidate]:
    """Return all candidates of one or several networks.

    Parameters
    ----------
    *layouts : Layout
        Of each network and each column that it reads.
    has_cells : bool, default=False
        Whether there are numbers or categories beside.

    Returns
    -------
    list of Candidate
        Each reads other outputs, or is of another kind. Those of several networks have the name of
        theirs before their own, and those of columns the name of the column.
    """
    by_column: dict[Any, list[Candidate]] = {}
    for column in dict.fromkeys(layout.column for layout in layouts):
        of_column = [layout for layout in layouts if layout.column == column]
        proposed, names = [], [layout.backbone.name for layout in of_column]
        for i, layout in enumerate(of_column):
            own = [candidate for propose in PROPOSALS.values() for candidate in propose(layout)]
            nth = names[:i].count(names[i])
            label = f"{names[i]} ({nth + 1})" if nth else names[i]
            for candidate in own:
                if len(of_column) > 1 and candidate.reads != (Counts(column),):
                    candidate.name = f"{label}, {candidate.name}"
                if column is not None:
                    candidate.name = f"{column}: {candidate.name}"
            proposed += own
        # In a small network, several names stand for the same layers.
        distinct = {(c.reads, type(c)): c for c in reversed(proposed) if c.reads}
        by_column[column] = list(distinct.values())[::-1]
    alone = [candidate for candidates in by_column.values() for candidate in candidates]
    if has_cells:
        cells = layouts[0].candidate(CELLS, [Tabular()])
        by_column[CELLS], alone = [cells], [*alone, cells]
    return [*alone, *_side_by_side(layouts[0], list(by_column.values()))]


def _side_by_side(layout: Layout, by_column: list[list[Candidate]]) -> list[Candidate]:
    """Models of several columns: of all of them, and of all but one.

    The first model of one column is joined with the first ones of the others, the second with the
    second ones, and so on. Each column has the same share in what is read.
    """
    fitted = LinearCandidate if layout.classifier is None else ClassifierCandidate
    views = [[c for c in own if isinstance(c, fitted)] for own in by_column]
    joint = []
    if len(views) > 1:
        for i in range(max(map(len, views))):
            joint.append([own[i % len(own)] for own in views])
    if len(views) > 2:
        joint += [[own[0] for own in views if own is not without] for without in views]
    candidates = []
    for parts in joint:
        reads = [read for part in parts for read in part.reads]
        shares = tuple(1 / len(parts) / len(part.reads) for part in parts for _ in part.reads)
        name = " + ".join(part.name for part in parts)
        candidates.append(layout.candidate(name, reads, shares))
    return candidates


def _on_features(layout: Layout) -> list[Candidate]:
    """Models of layers, each at all sizes side by side."""
    return [
        layout.candidate(f"{name}{_at(layout.sizes)}", outputs)
        for name, outputs in layout.outputs.items()
    ]


def _with_counts(layout: Layout) -> list[Candidate]:
    """Models of features that need no network, alone and beside those of layers."""
    if layout.backbone.modality.vectorizer() is None or layout.classifier is not None:
        return []
    counts = Counts(layout.column)
    beside = [
        layout.candidate(f"{name} and counts", (*outputs, counts))
        for name, outputs in layout.outputs.items()
    ]
    return [layout.candidate("counts", (counts,)), *beside]


def _at(sizes: Sequence[int | None]) -> str:
    return "" if None in sizes else f", {' + '.join(map(str, sizes))} pixels"


def _own_classes(layout: Layout) -> list[Candidate]:
    """The network's own classes at the largest size, where they are most often right.

    The prior is in favor of the map that the user gives, or else of the learned one.
    """
    if layout.groups is None and (layout.backbone.classes is None or not layout.is_labels):
        return []
    size = layout.sizes[-1]
    name, reads = f"own classes{_at([size])}", [layout.at(size, resolve_layer(layout.backbone, -1))]
    if layout.groups is None:
        return [OwnClassesCandidate(name, reads, BLEND["smoothing"], prior="direct")]
    of_texts = layout.backbone.labels is not None
    given_by, prior = ("prompts", "prompts") if of_texts else ("class_map", "direct")
    given = ClassMapCandidate(f"{given_by}{_at([size])}", reads, layout.groups, prior=prior)
    return [given, OwnClassesCandidate(name, reads, BLEND["smoothing"])]


def _logistic(layout: Layout) -> list[Candidate]:
    """The strategy "features", which is hard to beat with few samples and without own classes."""
    of_texts = layout.backbone.labels is not None
    has_classes = layout.backbone.classes is not None and not of_texts
    if has_classes or layout.classifier is not None or not layout.is_labels:
        return []
    reads = [layout.at(layout.sizes[-1], layout.head, layout.usual_pooling)]
    name, probe = f"{layout.head} (logistic)", LinearProbe(random_state=0)
    return [ClassifierCandidate(name, reads, probe, prior="" if of_texts else "features")]


PROPOSALS: dict[str, Callable[[Layout], list[Candidate]]] = {
    "on features": _on_features,
    "with counts": _with_counts,
    "own classes": _own_classes,
    "logistic": _logistic,
}
