"""The fitted blend, a module of torch over outputs of networks, and what it reads of samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..backbones import Backbone
from ..data import BOOLEANS, NumericTarget, TableSamples, named_among
from ..features import (
    Output,
    TokenWeights,
    as_store,
    compute_outputs,
    describe_runs,
)
from .candidates import Candidate, Counts, Tabular, TunedCandidate, log_of
from .proposals import BY_RANK

_ROWS = 1024  # that pass the blend at a time


class Blend(nn.Module):
    """The weighted mean of the predictions of several models of what is read from networks.

    A module of torch on the CPU in float64. ``predict`` of estimators, ONNX graphs and saliency
    maps are this forward::

        inputs = [ … for read in blend.dense]  # (n, width) each: activations, pooled
        counted = [c.multiply_counts(i, …) for c, i in blend.counting]  # (n, n_outputs) each
        blend(inputs, counted)  # (n, n_classes) probabilities, or (n, n_targets) numbers

    Parameters
    ----------
    candidates : sequence of Candidate
        Fitted, with weights that sum to 1, the highest first.
    temperature : float or None
        Of the mean, for probabilities.
    classes : ndarray of shape (n_classes,), default=None
        For labels.
    scaler : NumericTarget, default=None
        For numbers: their means, deviations and form.
    vectorizers : dict of (Counts or Tabular) to transformer, default={}
        Make the features that need no network, of those that candidates read.
    fills : dict of Output to ndarray of shape (n_features,), default={}
        The features of samples that are missing.
    tuned : TunedCandidate, default=None
        A trained network with its weight; the others have the rest.

    Attributes
    ----------
    reads_table : bool
        Whether samples are rows of a table.
    outputs : list of Output
        What is read from networks. A backbone is at its input size. The last one is that of the
        trained network, if there is one.
    dense : list of Output or Tabular
        The inputs of the forward: the outputs, and the numbers and categories of a table.
    counting : list of (Candidate, int)
        The candidates that read counts, and the place among what they read, in the order of
        ``counted`` of the forward.
    weights : dict of str to float
        The weight of each candidate by name, the highest first.
    """

    candidates: nn.ModuleList
    classes: np.ndarray | None
    counting: list[Any]
    dense: list[Any]
    fills: dict[Output, np.ndarray]
    outputs: list[Output]
    places: list[list[int]]
    reads_table: bool
    shift: torch.Tensor
    scale: torch.Tensor
    scaler: NumericTarget | None
    tuned: TunedCandidate | None
    vectorizers: dict[Any, Any]

    def __init__(
        self,
        candidates: Iterable[Candidate],
        temperature: float | None,
        *,
        classes: np.ndarray | None = None,
        scaler: NumericTarget | None = None,
        vectorizers: dict[Any, Any] | None = None,
        fills: dict[Output, np.ndarray] | None = None,
        tuned: TunedCandidate | None = None,
    ):
        super().__init__()
        self.candidates = nn.ModuleList(candidates)
        self.temperature = temperature
        self.classes, self.scaler, self.tuned = classes, scaler, tuned
        if scaler is not None:
            self.register_buffer("shift", torch.as_tensor(scaler.mean))
            self.register_buffer("scale", torch.as_tensor(scaler.scale))
        mixed: list[Any] = [*self.candidates, *([] if tuned is None else [tuned])]
        reads = dict.fromkeys(read for candidate in mixed for read in candidate.reads)
        self.reads_table = any(isinstance(r, Tabular) or r.column is not None for r in reads)
        self.vectorizers = {r: x for r, x in (vectorizers or {}).items() if r in reads}
        self.fills = {read: x for read, x in (fills or {}).items() if read in reads}
        self.outputs = [read for read in reads if isinstance(read, Output)]
        self.dense = [*self.outputs, *(read for read in reads if isinstance(read, Tabular))]
        place = {read: i for i, read in enumerate(self.dense)}
        self.places = [[place.get(read, -1) for read in c.reads] for c in mixed]
        self.counting = [
            (c, i) for c in mixed for i, read in enumerate(c.reads) if isinstance(read, Counts)
        ]

    @property
    def weights(self) -> dict[str, float]:
        own = {} if self.tuned is None else {self.tuned.name: self.tuned.weight}
        rest = 1 - sum(own.values())
        candidates: Any = self.candidates
        by_name = own | {candidate.name: rest * candidate.weight for candidate in candidates}
        return dict(sorted(by_name.items(), key=lambda item: -item[1]))

    def forward(
        self, inputs: Sequence[torch.Tensor], counted: Sequence[torch.Tensor] = ()
    ) -> torch.Tensor:
        """Return probabilities of classes, or numbers in the units of y.

        Parameters
        ----------
        inputs : sequence of Tensor of shape (n_samples, n_features)
            One for each of ``dense``.
        counted : sequence of Tensor of shape (n_samples, n_outputs), default=()
            Counts of words, multiplied by the coefficients of each of ``counting``.

        Returns
        -------
        Tensor of shape (n_samples, n_outputs), float64
        """
        inputs = [x.double() for x in inputs]
        candidates: Any = self.candidates
        mean: Any = 0.0
        parts = iter(counted)
        for candidate, places in zip(candidates, self.places, strict=False):
            given = [inputs[i] if i >= 0 else next(parts) for i in places]
            mean = mean + candidate.weight * candidate(given)
        if self.temperature is not None:
            mean = (log_of(mean) / self.temperature).softmax(1)
        if self.tuned is not None:
            share = self.tuned.weight
            mean = (1 - share) * mean + share * self.tuned([inputs[self.places[-1][0]]])
        return mean if self.scaler is None else mean * self.scale + self.shift

    @torch.no_grad()
    def of_tables(self, by_read: dict[Any, Any]) -> np.ndarray:
        """Return the forward of features by what is read, some rows at a time.

        Parameters
        ----------
        by_read : dict of Output, Counts or Tabular to array of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_outputs)
        """
        n_samples = next(iter(by_read.values())).shape[0]
        predictions = []
        for start in range(0, n_samples, _ROWS):
            rows = slice(start, start + _ROWS)
            inputs = [torch.from_numpy(np.array(by_read[read][rows])) for read in self.dense]
            counted = [
                torch.from_numpy(candidate.multiply_counts(i, by_read[candidate.reads[i]][rows]))
                for candidate, i in self.counting
            ]
            predictions.append(self(inputs, counted).numpy())
        return np.concatenate(predictions)

    def of_samples(self, samples: Sequence[Any], run: dict[str, Any]) -> np.ndarray:
        """Return the forward of samples.

        Parameters
        ----------
        samples : list, array or TableSamples
            Checked by an estimator.
        run : dict
            device, engine, memory, verbose.

        Returns
        -------
        ndarray of shape (n_samples, n_outputs)
        """
        reads = [*self.dense, *(candidate.reads[i] for candidate, i in self.counting)]
        return self.of_tables(read_samples(samples, reads, self.vectorizers, run, self.fills))

    def __getstate__(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        names = ("temperature", "classes", "scaler", "vectorizers", "fills", "tuned")
        return {"candidates": list(self.candidates)} | {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Blend.__init__(self, **state)


# -- what is read ----------------------------------------------------------------------------------


def read_samples(
    samples: Any,
    reads: Iterable[Any],
    vectorizers: dict[Any, Any],
    run: dict[str, Any],
    fills: dict[Output, np.ndarray] | None = None,
) -> dict[Any, Any]:
    """Compute what is read of samples, in one pass for each network, column and input size.

    Parameters
    ----------
    samples : list, array or TableSamples
    reads : iterable of Output, Counts or Tabular
    vectorizers : dict of (Counts or Tabular) to transformer
        Fitted.
    run : dict
        device, engine, memory, verbose.
    fills : dict of Output to ndarray of shape (n_features,), default=None
        The features of cells that are missing, or cannot be read; NaN without.

    Returns
    -------
    dict of Output, Counts or Tabular to array of shape (n_samples, n_features)
    """
    reads = list(dict.fromkeys(reads))
    if not isinstance(samples, TableSamples):
        return _read_column(samples, reads, vectorizers, run)
    tables: dict[Any, Any] = {}
    for column in samples.columns:
        own = [r for r in reads if not isinstance(r, Tabular) and r.column == column]
        if own:
            tables |= _read_cells(samples, column, own, vectorizers, run, fills or {})
    for read in reads:
        if isinstance(read, Tabular):
            cells = _with_known_booleans(samples.cells, vectorizers[read])
            tables[read] = vectorizers[read].transform(cells)
    return {read: tables[read] for read in reads}


def _with_known_booleans(cells: np.ndarray, transformer: Any) -> np.ndarray:
    """Spell true and false among categories as in fit: a CSV file has texts, others booleans."""
    cells = cells.copy()
    for _, step, columns in transformer.transformers_:
        for j, categories in zip(columns, getattr(step, "categories_", ()), strict=False):
            known = set(categories)
            spelled = {str(name).lower(): name for name in categories}
            if spelled.keys() & BOOLEANS.keys():
                for i, cell in enumerate(cells[:, j]):
                    if cell not in known and str(cell).lower() in BOOLEANS:
                        cells[i, j] = spelled.get(str(cell).lower(), cell)
    return cells


def _read_cells(
    samples: TableSamples,
    column: Any,
    reads: list[Any],
    vectorizers: dict[Any, Any],
    run: dict[str, Any],
    fills: dict[Output, np.ndarray],
) -> dict[Any, Any]:
    """Compute what is read of a column of which some cells may be missing."""
    cells = samples.columns[column]
    there = np.array([cell is not None for cell in cells])
    rows = np.flatnonzero(there)
    bad: dict[int, Exception] | None = {} if samples.fills_missing else None
    tables: dict[Any, Any] = {}
    if len(rows):
        with named_among(rows, f"column {column!r}"):
            tables = _read_column(samples.present(column), reads, vectorizers, run, bad)
    there[rows[list(bad or ())]] = False
    if there.all():
        return tables
    for read in reads:
        if isinstance(read, Counts):  # a missing text has no words
            tables[read] = vectorizers[read].transform([cell or "" for cell in cells])
            continue
        known, fill = tables.get(read, np.empty((0, 0))), fills.get(read)
        width = known.shape[1] if fill is None else len(fill)
        table = np.full((len(cells), width), np.nan, np.float32)
        if known.shape[1]:
            table[rows] = known
        if fill is not None:
            table[~there] = fill
        tables[read] = table
    return tables


def _read_column(
    samples: Sequence[Any],
    reads: Sequence[Any],
    vectorizers: dict[Any, Any],
    run: dict[str, Any],
    bad: dict[int, Exception] | None = None,
) -> dict[Any, Any]:
    """Compute what is read of samples of one modality; causes of unreadable ones go to ``bad``."""
    single = list(dict.fromkeys(part for read in reads for part in _parts(read)))
    how = {name: run[name] for name in ("device", "engine", "verbose")}
    store = as_store(run["memory"])
    computed = compute_outputs(samples, single, **how, store=store, bad=bad) if single else []
    by_part = dict(zip(single, computed, strict=True))
    tables: dict[Any, Any] = {}
    ranked: dict[Backbone, np.ndarray] = {}  # means of words by rank, which are not stored
    for read in reads:
        if isinstance(read, Counts):
            tables[read] = vectorizers[read].transform(samples)
        elif read.pooling == BY_RANK:
            network = read.backbone
            if network not in ranked:
                weights = TokenWeights.by_rank(network)
                ranked[network] = weights.transform(samples, network, device=run["device"])
            tables[read] = ranked[network]
        else:
            parts = [by_part[part] for part in _parts(read)]
            tables[read] = parts[0] if len(parts) == 1 else np.hstack(parts)
    return tables


def _parts(read: Any) -> list[Output]:
    """Return the outputs that engines compute and the store has: one for each pooling."""
    if not isinstance(read, Output) or read.pooling == BY_RANK:
        return []
    poolings = read.pooling if isinstance(read.pooling, tuple) else (read.pooling,)
    return [dataclasses.replace(read, pooling=pooling, column=None) for pooling in poolings]


def describe_blend(reads: Iterable[Any], run: dict[str, Any]) -> dict[str, Any]:
    """Describe how networks run; of several sizes or networks, "batch_size" is a dictionary.

    Parameters
    ----------
    reads : iterable of Output, Counts or Tabular
    run : dict
        device, engine, memory, verbose.

    Returns
    -------
    dict
        As of :func:`sktransfer.features.describe_runs`; empty where no network runs. Keys of
        "batch_size" are sizes, of several networks names and sizes.
    """
    plain = [
        # An engine runs the same network for the plain mean of words.
        dataclasses.replace(read, pooling="avg") if read.pooling == BY_RANK else read
        for read in reads
        if isinstance(read, Output)
    ]
    outputs = list(dict.fromkeys(part for read in plain for part in _parts(read)))
    how = {"device": run["device"], "engine": run["engine"], "store": as_store(run["memory"])}
    runs = describe_runs(outputs, **how)
    if len(runs) < 2:
        return dict(*runs.values())
    several = len({network.name for network in runs}) > 1
    sizes = {}
    for network, about in runs.items():
        side = (network.input_shape or (None,))[-1]
        sizes[(network.name, side) if several else side] = about["batch_size"]
    return next(iter(runs.values())) | {"batch_size": sizes}
