"""Fit a blend: propose candidates, weight them by cross-validation, fit those with a weight."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from ..backbones import Backbone, resolve_layer, weighted_layers
from ..data import CATEGORY, NUMBER, TableSamples, named_among, take
from ..features import Output, layers_of
from ..finetuning import (
    FineTunedClassifier,
    FineTunedRegressor,
    StopAtTime,
    training_length,
)
from ..transferability import (
    MANY_CLASSES,
    PROBE_C,
    LinearProbe,
    hold_out,
    small_in_one_thread,
)
from .blend import Blend, read_samples
from .candidates import (
    Candidate,
    ClassifierCandidate,
    Counts,
    LinearCandidate,
    ProductCandidate,
    Tables,
    Tabular,
    TunedCandidate,
    logs,
    tempered,
)
from .outcomes import (
    LEAST_PROBABILITY,
    Judged,
    Labels,
    Numbers,
    Outcome,
    joined_rows,
    make_splits,
)
from .proposals import BLEND, CELLS, Layout, input_sizes, propose_candidates
from .self_training import self_train, some_unlabelled
from .study import measure_timing, sizes_within


@dataclasses.dataclass(frozen=True)
class BlendTask:
    """Data and settings for fitting a blend.

    Parameters
    ----------
    readers : sequence of ((str or int) or None, Backbone)
        Each column of a table with a network that reads it; the column is None where X is no table.
    samples : list, array or TableSamples
        Checked by an estimator.
    outcome : Labels or Numbers
        Of all samples; weights may be 0.
    rows : ndarray of int
        Positions, ascending, of the samples on which candidates are compared.
    run : dict
        device, engine, memory, verbose.
    image_size : int or None, default=None
        The input size that is asked for; None takes several.
    classifier : classifier or None, default=None
        The user's classifier on features.
    unlabelled : sequence or None, default=None
        Samples without labels, checked by an estimator.
    groups : sequence of (tuple of tuple of int, or None), default=None
        For each reader, the classes of the network that mean each label, where the user says so.
    cells : sequence of str, default=()
        Of a table, the kinds of the columns that no network reads: "number" or "category".
    batch_size : int or "auto", default="auto"
        Rows in a training step of a tuned network.
    until : float or None, default=None
        Time, as of ``time.perf_counter``, at which training must be over; None trains none.
    phase : callable, default=contextlib.nullcontext
        From the name of a phase to a context around it, which reports progress.
    """

    readers: Sequence[tuple[Any, Backbone]]
    samples: Any
    outcome: Outcome
    rows: np.ndarray
    seed: int
    run: dict[str, Any]
    image_size: int | None = None
    classifier: Any = None
    unlabelled: Any = None
    groups: Sequence[tuple[tuple[int, ...], ...] | None] | None = None
    cells: Sequence[str] = ()
    batch_size: int | str = "auto"
    until: float | None = None
    phase: Callable[..., Any] = contextlib.nullcontext


@torch.inference_mode(False)  # gradients pass a blend, although this caller may not need them
def fit_blend(task: BlendTask) -> Blend:
    """Fit a blend."""
    outcome, weighted = task.outcome, np.flatnonzero(task.outcome.weight)
    layouts = _layouts(task, len(weighted))
    candidates = propose_candidates(*layouts, has_cells=len(task.cells) > 0)
    vectorizers = _fitted_vectorizers(task, _reads(candidates), task.rows)
    candidates = [
        candidate
        for candidate in candidates
        if all(isinstance(read, Output) or read in vectorizers for read in candidate.reads)
    ]
    with task.phase("compare"):
        few = _read_rows(task, _reads(candidates), task.rows, vectorizers)
        fills = _fill_missing(few)
        known = outcome.take(task.rows)
        chosen, temperature, out_of_fold = cross_validate(candidates, few, known, task.seed)
    with task.phase("fit"):
        needed = _reads(chosen)
        vectorizers = _fitted_vectorizers(task, needed, weighted)
        tables = _complete(task, needed, few, weighted, vectorizers, fills)
        known = outcome.take(weighted)
        if task.unlabelled is None or isinstance(known, Numbers):
            fitted = [candidate.fitted(Tables(tables), known) for candidate in chosen]
        else:
            rows = some_unlabelled(len(task.unlabelled), task.seed)
            with named_among(rows, "X_unlabelled"):
                some = take(task.unlabelled, rows)
                new = read_samples(some, needed, vectorizers, task.run, fills)
            fitted = self_train(chosen, temperature, tables, known, new, task.seed)
        tuned = None
        if task.until is not None and not isinstance(task.samples, TableSamples):
            first = layouts[0]
            start = first.at(first.sizes[BLEND["trained_size"]], first.head)
            if may_pay(task, start, few[start], out_of_fold):
                tuned = fit_tuned(task, start.backbone, out_of_fold)
    parts: dict[str, Any] = {"vectorizers": vectorizers, "fills": fills, "tuned": tuned}
    if isinstance(outcome, Numbers):
        return Blend(fitted, temperature, scaler=outcome.kind, **parts)
    return Blend(fitted, temperature, classes=outcome.kind.classes, **parts)


def _layouts(task: BlendTask, n: int) -> list[Layout]:
    """Return what candidates of each network can be made of; fewer sizes, where time is short."""
    layouts, is_labels = [], isinstance(task.outcome, Labels)
    for i, (column, backbone) in enumerate(task.readers):
        samples = task.samples if column is None else task.samples.present(column)
        sizes = input_sizes(backbone, task.image_size)
        if task.until is not None:
            left = (task.until - time.perf_counter()) / len(task.readers)
            sizes = sizes_within(backbone, sizes, samples, n, left, task.run["device"])
        infos = layers_of(backbone, samples)
        groups = None if task.groups is None else task.groups[i]
        layouts.append(Layout(backbone, infos, sizes, task.classifier, is_labels, groups, column))
    return layouts


def _reads(candidates: list[Candidate]) -> list[Any]:
    return list(dict.fromkeys(read for candidate in candidates for read in candidate.reads))


def _fitted_vectorizers(task: BlendTask, reads: list[Any], rows: np.ndarray) -> dict[Any, Any]:
    """Fit what makes features without a network; leave out counts of few texts, or of no word."""
    some: Any = take(task.samples, rows)
    vectorizers: dict[Any, Any] = {}
    for read in reads:
        if isinstance(read, Tabular):
            vectorizers[read] = _cells_transformer(task.cells).fit(some.cells)
        elif isinstance(read, Counts) and len(rows) >= BLEND["least_counted"]:
            vectorizer = dict(task.readers)[read.column].modality.vectorizer()
            texts = some if read.column is None else some.present(read.column)
            with contextlib.suppress(ValueError):  # no text has a word
                vectorizers[read] = vectorizer.fit(texts)
    return vectorizers


def _cells_transformer(kinds: Sequence[str]) -> Any:
    """Return a transformer of numbers, which are imputed and scaled, and of categories."""
    numbers, categories = (
        [j for j, kind in enumerate(kinds) if kind == wanted] for wanted in (NUMBER, CATEGORY)
    )
    imputer = SimpleImputer(add_indicator=True, keep_empty_features=True)
    most = BLEND["categories"]
    return make_column_transformer(
        (make_pipeline(imputer, StandardScaler()), numbers),
        (
            OneHotEncoder(
                handle_unknown="infrequent_if_exist", max_categories=most, sparse_output=False
            ),
            categories,
        ),
        sparse_threshold=0,
    )


def _read_rows(
    task: BlendTask,
    reads: list[Any],
    rows: np.ndarray,
    vectorizers: dict[Any, Any],
    fills: dict[Output, np.ndarray] | None = None,
) -> dict[Any, Any]:
    with named_among(rows):
        return read_samples(take(task.samples, rows), reads, vectorizers, task.run, fills)


def _fill_missing(tables: dict[Any, Any]) -> dict[Output, np.ndarray]:
    """Put means in the place of missing features, and return them."""
    fills = {}
    for read, table in tables.items():
        if not isinstance(read, Output) or read.column is None:
            continue
        missing = np.isnan(table).all(axis=1)
        if missing.all():
            raise ValueError(f"No cell of column {read.column!r} can be read.")
        fills[read] = table[~missing].mean(axis=0)
        table[missing] = fills[read]
    return fills


def _complete(
    task: BlendTask,
    reads: list[Any],
    few: dict,
    weighted: np.ndarray,
    vectorizers: dict[Any, Any],
    fills: dict[Output, np.ndarray],
) -> dict[Any, Any]:
    """Return the features of all samples with a weight, computing those that are missing."""
    is_known = np.isin(weighted, task.rows)
    if is_known.all():
        return {read: few[read] for read in reads}
    outputs = [read for read in reads if isinstance(read, Output)]
    rest = _read_rows(task, outputs, weighted[~is_known], {}, fills)
    tables: dict[Any, Any] = {
        output: joined_rows(is_known, few[output], rest[output]) for output in outputs
    }
    others = [read for read in reads if not isinstance(read, Output)]
    return tables | (_read_rows(task, others, weighted, vectorizers) if others else {})


# -- cross-validation: settings, temperatures and weights ------------------------------------------


class OutOfFold(NamedTuple):
    """What a blend predicts of the samples by which it was weighted, each without its fold.

    Parameters
    ----------
    predictions : ndarray of shape (n_samples, n_outputs)
        The weighted mean, at its temperature; NaN where it was not judged.
    groups : ndarray of shape (n_samples,)
        Equal samples have the same number.
    """

    predictions: np.ndarray
    groups: np.ndarray


@small_in_one_thread
def cross_validate(
    candidates: list[Candidate], by_read: dict[Any, Any], outcome: Outcome, seed: int
) -> tuple[list[Candidate], float | None, OutOfFold]:
    """Judge candidates on folds, and choose those with a weight.

    Parameters
    ----------
    by_read : dict of Output, Counts or Tabular to array of shape (n_samples, n_features)

    Returns
    -------
    chosen : list of Candidate
        With settings, temperatures and weights, the highest weight first. Not fitted.
    temperature : float or None
        Of the weighted mean; None for numbers.
    out_of_fold : OutOfFold
    """
    tables, outcome, groups = _merge_equal(by_read, outcome)
    n, has_many_classes = len(outcome.weight), outcome.n_outputs > MANY_CLASSES
    candidates = list(map(copy.copy, candidates))
    if has_many_classes:  # those with few enough features to be solved, or the one with fewest
        widths = [sum(by_read[read].shape[1] for read in c.reads) for c in candidates]
        most = max(BLEND["many_features"], min(widths))
        candidates = [c for c, width in zip(candidates, widths, strict=True) if width <= most]
    splits = make_splits(outcome, seed)
    known = np.zeros((len(splits), n), bool)
    for row, folds in zip(known, splits, strict=True):
        for train, test in folds:
            row[test] = outcome.is_known(train, test)
    places = np.flatnonzero(known)  # among the samples of all splits
    rows = places % n
    judged = Judged(rows, outcome.weight[rows] / max(1, len(splits)))
    prior = _prior(candidates, len(rows) > 0)
    if len(rows):
        predictions = np.stack(
            [_judge(candidate, tables, outcome, splits, places, judged) for candidate in candidates]
        )
        product = _product(candidates, predictions, outcome, judged, seed)
        if product is not None:
            candidates = [*candidates, product[0]]
            predictions = np.concatenate([predictions, product[1][None]])
            prior = _prior(candidates, True)
        weights = outcome.mix(predictions, prior, judged, seed)
    else:
        predictions = np.empty((len(candidates), 0, outcome.n_outputs))
        weights = prior / prior.sum()
        for candidate in candidates:
            candidate.temperature = outcome.unjudged[0]
            if candidate.prior and candidate.temperature is not None:
                candidate.temperature = 1.0
            # With one sample of each class, nothing varies within classes.
            if isinstance(candidate, LinearCandidate) and not has_many_classes:
                candidate.is_discriminant = False
    chosen, mean = _with_weights(candidates, weights, predictions)
    heat = outcome.unjudged[1]
    if len(rows) and heat is not None:
        logits = logs(mean)
        heat = outcome.loss(logits, judged)[1]
        mean = tempered(logits, heat)
    sums = np.zeros((n, outcome.n_outputs))  # over splits
    np.add.at(sums, rows, mean)
    times = np.bincount(rows, minlength=n)[:, None]
    means = np.divide(sums, times, out=np.full_like(sums, np.nan), where=times > 0)
    return chosen, heat, OutOfFold(means[groups], groups)


def _merge_equal(by_read: dict, outcome: Outcome) -> tuple[Tables, Outcome, np.ndarray]:
    """Merge equal samples: in several folds, a model would be judged on what it has seen."""
    first = next(iter(by_read))
    keys = [by_read[first], outcome.codes]
    columns = {getattr(first, "column", None)}
    for read, table in by_read.items():
        if isinstance(read, Output) and read.column in columns:
            continue
        columns.add(getattr(read, "column", None))
        # Texts may differ in words that the network does not know, and rows in another column.
        keys.append(table @ np.random.default_rng(0).uniform(size=table.shape[1]))
    _, rows, inverse = np.unique(
        np.column_stack(keys), axis=0, return_index=True, return_inverse=True
    )
    groups = inverse.ravel()
    weight = np.bincount(groups, outcome.weight)
    tables = Tables({read: table[rows] for read, table in by_read.items()})
    return tables, dataclasses.replace(outcome.take(rows), weight=weight), groups


def _prior(candidates: list[Candidate], is_judged: bool) -> np.ndarray:
    """Return the pseudo-samples of each candidate."""
    names = [candidate.prior for candidate in candidates if candidate.prior]
    name = "prompts" if "prompts" in names else next(iter(names), "")
    known = np.array([c.prior == name if name == "prompts" else c.prior != "" for c in candidates])
    total, share, share_unjudged = BLEND["priors"][name]
    share = share if is_judged else share_unjudged
    each = np.where(known, share / max(1, known.sum()), (1 - share) / max(1, (~known).sum()))
    return total * each / each.sum()


def _judge(
    candidate: Candidate,
    tables: Tables,
    outcome: Outcome,
    splits: list,
    places: np.ndarray,
    judged: Judged,
) -> np.ndarray:
    """Set the setting and the temperature with the smallest loss; return the predictions."""
    of_splits = [candidate.out_of_fold(tables, outcome, folds) for folds in splits]
    scores = np.concatenate(of_splits, axis=1)[:, places]  # (n_settings, n_judged, n_outputs)
    losses, heats = zip(*(outcome.loss(of_setting, judged) for of_setting in scores), strict=True)
    best = int(np.argmin(losses))
    heat = heats[best]
    if heat is not None and candidate.prior == "prompts":
        # Their logits have a scale before any sample: a temperature of 1 has pseudo-samples, too.
        n = judged.weight.sum()
        heat **= n / (n + BLEND["priors"]["prompts"][0])
    candidate.setting, candidate.temperature = candidate.settings[best], heat
    return tempered(scores[best], heat)


def _with_weights(
    candidates: list[Candidate], weights: np.ndarray, predictions: np.ndarray
) -> tuple[list[Candidate], np.ndarray]:
    """Return the candidates that have a weight, the highest first, and their weighted mean."""
    least = min(BLEND["least_weight"], weights.max())
    order = [i for i in np.argsort(-weights, kind="stable") if weights[i] >= least]
    weights = weights[order] / weights[order].sum()
    chosen = [candidates[i] for i in order]
    for candidate, weight in zip(chosen, weights, strict=True):
        candidate.weight = float(weight)
    return chosen, np.tensordot(weights, predictions[order], 1)


def _product(
    candidates: list[Candidate],
    predictions: np.ndarray,
    outcome: Outcome,
    judged: Judged,
    seed: int,
) -> tuple[Candidate, np.ndarray] | None:
    """Multiply what blends of single columns predict; return None where X is no table."""
    by_column: dict[Any, list[int]] = {}
    for i, candidate in enumerate(candidates):
        columns = {CELLS if isinstance(r, Tabular) else r.column for r in candidate.reads}
        if len(columns) == 1:
            by_column.setdefault(columns.pop(), []).append(i)
    if len(by_column) < 2:
        return None
    chosen, means = [], []
    for rows in by_column.values():
        own = [copy.copy(candidates[i]) for i in rows]
        weights = outcome.mix(predictions[rows], _prior(own, True), judged, seed)
        kept, mean = _with_weights(own, weights, predictions[rows])
        chosen.append(kept)
        means.append(mean)
    is_labels = isinstance(outcome, Labels)
    powers = outcome.powers(np.stack(means), judged)
    sign = " × " if is_labels else " + "
    name = sign.join(f"({column})" for column in by_column)
    product = ProductCandidate(name, chosen, powers, outcome.base, 1.0 if is_labels else None)
    gains = np.stack(means)
    if is_labels:
        gains = np.log(np.maximum(gains, LEAST_PROBABILITY)) - outcome.base
    scores = np.tensordot(powers, gains, 1) + outcome.base
    return product, tempered(scores, product.temperature)


# -- a network whose stages are all trained --------------------------------------------------------


def may_pay(task: BlendTask, start: Output, features: np.ndarray, out_of_fold: OutOfFold) -> bool:
    """Tell whether a tuned network may improve a blend: there are samples and errors enough.

    Parameters
    ----------
    start : Output
        What the head of the network is given before the training.
    features : ndarray of shape (n_rows, n_features)
        Its values: the probe is fitted on them from which the training begins.
    out_of_fold : OutOfFold
        Of the blend.

    Returns
    -------
    bool
        False if the blend makes less than 0.6 of the errors of that probe. Training leaves 0.7 of
        them: the median of the first 15 tasks of benchmarks/finetune_defaults.py.
    """
    outcome, rows = task.outcome, task.rows
    n, n_strata = int((outcome.weight > 0).sum()), len(np.unique(outcome.strata[rows]))
    if n < max(BLEND["tuned_rows"], BLEND["tuned_rows_of_class"] * n_strata):
        return False
    known = outcome.take(rows)
    errors = _errors(out_of_fold, known)
    if not errors >= BLEND["tuned_errors"] or not weighted_layers(start.backbone):
        return False
    if isinstance(outcome, Labels):  # the linear probe with which a head begins
        probe: Candidate = ClassifierCandidate("start", [start], LinearProbe((PROBE_C,)))
    else:
        settings = BLEND["penalties"], BLEND["penalty"]
        probe = LinearCandidate("start", [start], *settings, is_discriminant=False)
    *_, before = cross_validate([probe], {start: features}, known, task.seed)
    return errors >= BLEND["tuned_share"] * _errors(before, known)


def _errors(out_of_fold: OutOfFold, known: Outcome) -> float:
    """Return the mean error out of fold; NaN where nothing was judged."""
    judged = np.isfinite(out_of_fold.predictions).all(1)
    if not judged.any():
        return math.nan
    some = known.take(np.flatnonzero(judged))
    return float(np.average(some.errors(out_of_fold.predictions[judged]), weights=some.weight))


def fit_tuned(task: BlendTask, backbone: Backbone, out_of_fold: OutOfFold) -> TunedCandidate | None:
    """Train all stages without some samples, and weight the network by its predictions of these.

    Parameters
    ----------
    task : BlendTask
        Training ends when its time is over, also if it is not finished. It does not begin, if it
        is expected to take longer.
    backbone : Backbone
        For the size at which it is trained.
    out_of_fold : OutOfFold
        Of the other candidates.

    Returns
    -------
    TunedCandidate or None
        None without a weight, or without time.
    """
    samples, outcome, rows, until = task.samples, task.outcome, task.rows, task.until
    train, held = _split(outcome, out_of_fold, rows, task.seed)
    batch_size = task.batch_size
    if batch_size == "auto":
        few, most = BLEND["tuned_batch"]  # the number of steps is the same
        batch_size = few if len(train) <= most else "auto"
    device, now = task.run["device"], time.perf_counter()
    seconds = training_seconds(backbone, samples, len(train), batch_size, device)
    if until is None or now + seconds > until:
        return None
    kind = FineTunedClassifier if isinstance(outcome, Labels) else FineTunedRegressor
    settings: dict = {"batch_size": batch_size, "random_state": task.seed}
    settings["callbacks"] = [StopAtTime(until)]
    model = kind(backbone, trainable="all", **settings, **task.run)
    with warnings.catch_warnings():  # a training that does not help has no weight
        warnings.simplefilter("ignore", UserWarning)
        model.fit(take(samples, train), outcome.y[train], sample_weight=outcome.weight[train])
    candidate = as_candidate(model, outcome)
    (output,) = candidate.reads
    read = read_samples(take(samples, rows[held]), [output], {}, task.run)[output]
    with torch.no_grad():
        scores = candidate.scores([torch.from_numpy(read).double()]).numpy()
    weigh(candidate, scores, outcome.take(rows[held]), out_of_fold.predictions[held])
    return candidate if candidate.weight >= BLEND["tuned_least_weight"] else None


def _split(
    outcome: Outcome, out_of_fold: OutOfFold, rows: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions to train on, and places among ``rows`` of the samples held out."""
    judged = np.flatnonzero(np.isfinite(out_of_fold.predictions).all(1))
    least, most = BLEND["held_out"]
    n_held = np.clip(len(judged) // 5, least, most)
    positions = rows[judged]
    fraction = min(float(n_held / len(judged)), 1 / 3)
    _, held_out = hold_out(outcome.strata[positions], outcome.weight[positions], fraction, seed)
    held = judged[held_out]
    equal = np.isin(out_of_fold.groups, out_of_fold.groups[held])  # to a sample held out
    return np.setdiff1d(np.flatnonzero(outcome.weight), rows[equal]), held


def training_seconds(
    backbone: Backbone, samples: Any, n: int, batch_size: int | str, device: str = "auto"
) -> float:
    """Estimate the time of training on n samples."""
    step = measure_timing(backbone, samples, {"all": "all"}, device=device).step["all"]
    _, n_epochs = training_length(n, batch_size, "auto")
    return step * n * n_epochs


def as_candidate(model: Any, outcome: Outcome) -> TunedCandidate:
    """Make a candidate of a fitted fine-tuned estimator, without temperature and weight.

    Parameters
    ----------
    model : FineTunedClassifier or FineTunedRegressor
    outcome : Labels or Numbers
        Of the blend.
    """
    network = model.to_backbone()
    shape = network.input_shape
    name = f"all stages trained{'' if shape is None else f', {max(shape[1:])} pixels'}"
    reads = [Output(network, resolve_layer(network, -1))]
    if isinstance(outcome, Labels):
        columns = np.searchsorted(outcome.kind.classes, model.classes_)
        return TunedCandidate(name, reads, columns=columns, n_classes=outcome.n_outputs)
    own, scaler = model.target_, outcome.kind
    shift = (own.mean - scaler.mean) / scaler.scale
    return TunedCandidate(name, reads, factor=own.scale / scaler.scale, shift=shift)


def weigh(
    candidate: TunedCandidate, scores: np.ndarray, known: Outcome, others: np.ndarray
) -> None:
    """Set the temperature and the weight of a tuned network; 0 if it is worse than the others.

    Parameters
    ----------
    scores : ndarray of shape (n_samples, n_outputs)
        Of samples on which it was not trained.
    known : Labels or Numbers
        Of these.
    others : ndarray of shape (n_samples, n_outputs)
        The predictions of the other candidates.
    """
    pseudo = BLEND["tuned_pseudo_samples"]
    candidate.weight = 0.0
    if isinstance(known, Labels):
        judged = Judged(np.arange(len(known.codes)), known.weight)
        _, candidate.temperature = known.loss(scores, judged)
        pair = np.stack([others, tempered(scores, candidate.temperature)])
        own = np.log(np.maximum(pair[:, np.arange(len(others)), known.codes], 1e-6))
        if np.subtract(*own) @ known.weight > 0:
            return
        _, weight = known.mix(pair, np.full(2, pseudo / 2), judged, seed=0)
    else:
        step, missing, scale = scores - others, known.target - others, known.weight[:, None]
        if (scale * (step - missing) ** 2).sum() > (scale * missing**2).sum():
            return
        # The least squared error of the mean, with pseudo-samples for which one half is best.
        square, product = (float((scale * step * x).sum()) for x in (step, missing))
        pseudo *= square / known.weight.sum()
        weight = (product + pseudo / 2) / max(square + pseudo, np.finfo(float).tiny)
    candidate.weight = float(np.clip(weight, 0, 1))
