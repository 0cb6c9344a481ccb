"""The base of the estimators that fit a blend: load and inspect its networks, check X, fit it."""

from __future__ import annotations

import operator
from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import nn

from .._compat.sklearn import Interval, StrOptions
from ..backbones import Backbone, load_backbone, modality_of
from ..data import (
    CATEGORY,
    NUMBER,
    Modality,
    TableSamples,
    check_columns,
    describe_columns,
    read_columns,
    table_columns,
)
from ..data.types import Samples
from ..features import BackboneEstimator, layers_of
from ..transferability import subsample
from .blend import Blend
from .blend_fitting import BlendTask, fit_blend
from .outcomes import Outcome
from .proposals import BLEND


class BlendEstimator(BackboneEstimator):
    """Base of the estimators that combine what one or several networks offer."""

    _parameter_constraints: dict[str, Any] = {
        **BackboneEstimator._parameter_constraints,
        "backbone": [*BackboneEstimator._parameter_constraints["backbone"], list, dict],
        "weights": [*BackboneEstimator._parameter_constraints["weights"], dict],
        "on_error": [StrOptions({"raise", "mean"})],
        "time_budget": [Interval(Real, 0, None, closed="neither"), None],
        "random_state": ["random_state"],
    }
    for _name in ("image_shape", "n_jobs", "precision"):
        del _parameter_constraints[_name]
    del _name
    backbone_: Backbone
    column_kinds_: dict[Any, str] | None = None
    feature_names_in_: np.ndarray
    image_shape = None
    n_features_in_: int
    members_: Any
    on_error: str
    precision = "float32"
    _others: list[Backbone]
    _readers: list[tuple[Any, int]]  # of each column that is read, the place of a network
    weights_: Any

    @property
    def backbones_(self) -> list[Backbone]:
        check_is_fitted(self)
        return [self.backbone_, *self._others]

    def _fit_networks(self, X: Samples) -> Any:
        """Load the networks, check X, and inspect the layers; return the samples."""
        for name in ("column_kinds_", "feature_names_in_", "n_features_in_"):  # of an earlier fit
            self.__dict__.pop(name, None)
        given = self._given()
        class_map = getattr(self, "class_map", None)
        if isinstance(class_map, list) and len(class_map) != len(given):
            raise _wrong_number("class_map", class_map, len(given))
        columns = table_columns(X)
        if isinstance(self.backbone, dict) and not columns:
            raise ValueError(
                f"backbone names networks of the columns {list(self.backbone)!r:.200}, and X is "
                f"no table, but {type(X).__name__}: give X = pandas.DataFrame(X)."
            )
        read = columns_read(self, X)
        if read and not isinstance(self.backbone, dict):
            given = [(name, *network) for name in read for _, *network in given]
        if not read and self.on_error != "raise":
            raise ValueError(
                f"on_error={self.on_error!r} is for tables of several columns: without a sample, "
                "nothing can be predicted from one."
            )
        modalities = self._load_networks(given)
        if read:
            self.column_kinds_ = describe_columns(columns, modalities)
            self.n_features_in_ = len(self.column_kinds_)
            if all(isinstance(name, str) for name in self.column_kinds_):
                self.feature_names_in_ = np.array(list(self.column_kinds_), object)
        samples = self._check_samples(X, reset=True)
        for column, backbone in column_networks(self):
            some = _of_column(samples, column)
            if not len(some):
                raise ValueError(f"Column {column!r} has no sample: leave it out.")
            layers_of(backbone, some)
        self.__dict__.update(self._check_by_preprocessing(samples, fitting=True))
        return samples

    def _given(self) -> list[tuple[Any, Any, Any, Any]]:
        """List column, network, weights and prompts of each network as the user gives them."""
        if not isinstance(self.backbone, dict):
            by_column = {None: (self.backbone, self.weights)}
        else:
            each = self.weights if isinstance(self.weights, dict) else None
            if unknown := set(each or ()) - set(self.backbone):
                raise ValueError(f"weights names {unknown!r:.80}, and backbone no network of it.")
            by_column = {
                column: (networks, self.weights if each is None else each.get(column, "default"))
                for column, networks in self.backbone.items()
            }
        given: list[tuple[Any, ...]] = []
        for column, (networks, weights) in by_column.items():
            if not isinstance(networks, list):
                given.append((column, networks, weights))
                continue
            if isinstance(weights, list) and len(weights) != len(networks):
                raise _wrong_number("weights", weights, len(networks))
            listed = weights if isinstance(weights, list) else [weights] * len(networks)
            given += [(column, *network) for network in zip(networks, listed, strict=True)]
        known = (str, nn.Module, Backbone)
        wrong = [x for _, x, _ in given if not (isinstance(x, known) or callable(x))]
        if not given or (wrong and isinstance(self.backbone, list | dict)):
            what = f": {wrong[0]!r:.200} is no network" if wrong else " names no network"
            raise ValueError(
                f"backbone={self.backbone!r:.200}{what}. Give names, modules, functions that make "
                "modules, or a Backbone; of a fitted model, its to_backbone()."
            )
        prompts = self.prompts if isinstance(self.prompts, list) else [self.prompts] * len(given)
        if len(prompts) != len(given):
            raise _wrong_number("prompts", prompts, len(given))
        return [(*network, own) for network, own in zip(given, prompts, strict=True)]

    def _load_networks(self, given: list[tuple[Any, ...]]) -> dict[Any, Modality]:
        """Load each network once; return the modality of each column that they read."""
        loaded: list[tuple[Any, Backbone]] = []
        modalities: dict[Any, Modality] = {}
        self._readers = []
        for column, *network in given:
            places = [
                i for i, (other, _) in enumerate(loaded) if all(map(operator.is_, other, network))
            ]
            if not places:
                loaded.append((network, self._load_given(network, self.image_size)))
            i = places[0] if places else len(loaded) - 1
            self._readers.append((column, i))
            backbone, first = loaded[i][1], loaded[0][1]
            if modalities.setdefault(column, backbone.modality) is backbone.modality:
                continue
            if column is not None:
                raise ValueError(f"The networks of column {column!r} do not take the same samples.")
            raise ValueError(
                f"backbone={self.backbone!r:.200}: networks of one blend take the same samples. "
                f"{first.name!r} takes {first.modality.noun}, {backbone.name!r} "
                f"{backbone.modality.noun}. For columns of a table, give "
                "backbone={column: network}."
            )
        self.backbone_, *self._others = (backbone for _, backbone in loaded)
        return modalities

    def _load_at(self, image_size: int | None) -> Backbone:
        return self._load_given(self._given()[0][1:], image_size)

    def _load_given(self, given: Any, image_size: int | None) -> Backbone:
        backbone, weights, prompts = given
        if isinstance(self.backbone, dict) and not modality_of(backbone).takes_augment:
            image_size = None  # is for the columns of images
        return load_backbone(backbone, weights=weights, image_size=image_size, prompts=prompts)

    def _check_samples(self, X, *, reset: bool = False) -> Any:
        if self.column_kinds_ is None:
            return super()._check_samples(X, reset=reset)
        return check_columns(X, self.column_kinds_, self.on_error == "mean")

    def _check_by_preprocessing(self, samples, *, fitting: bool) -> dict:
        measured: dict[str, Any] = {}
        for column, backbone in column_networks(self):
            check = getattr(backbone.preprocess, "check", None)
            if check is not None and len(some := _of_column(samples, column)):
                measured = check(some, fitting=fitting) | measured
        return measured

    def _fit_blend(
        self, samples: Any, outcome: Outcome, seed: int, start: float, **of_labels: Any
    ) -> Blend:
        """Fit a blend, and set its members; ``start`` is the time at which the fit began."""
        weighted = np.flatnonzero(outcome.weight)
        kinds = (self.column_kinds_ or {}).values()
        task = BlendTask(
            readers=column_networks(self),
            samples=samples,
            outcome=outcome,
            rows=weighted[subsample(outcome.codes[weighted], BLEND["rows"], seed)],
            seed=seed,
            run=run_settings(self),
            image_size=self.image_size,
            cells=[kind for kind in kinds if kind in (NUMBER, CATEGORY)],
            batch_size=self.batch_size,
            until=None if self.time_budget is None else start + self.time_budget,
            phase=self._phase,
            **of_labels,
        )
        blend = fit_blend(task)
        self.members_ = list(blend.weights)
        self.weights_ = np.array(list(blend.weights.values()))
        return blend

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        if isinstance(self.backbone, dict):
            kinds = tags.input_tags
            kinds.two_d_array = kinds.string = kinds.categorical = kinds.allow_nan = True
            kinds.three_d_array = False
        return tags


def is_table(columns: dict[Any, Any], modality: Modality) -> bool:
    """Tell whether columns are samples, numbers and categories, and not one sample a row.

    Parameters
    ----------
    columns : dict of (str or int) to column
    modality : Modality
        Of the network that is to read them.
    """
    return len(columns) > 1 and modality.usual_backbone != ""


def columns_read(model: BlendEstimator, X: Samples) -> dict[Any, Modality]:
    """Return the columns of a table that networks read, with what a sample of each is.

    Parameters
    ----------
    model : TransferClassifier or TransferRegressor
        Fitted or not.
    X : list, array, Series, DataFrame column or table

    Returns
    -------
    dict of (str or int) to Modality
        Empty for a list or a column of samples.

    Raises
    ------
    ValueError
        If one network is to read all columns, and one is of another modality.
    """
    if isinstance(model.backbone, dict):
        return {column: modality_of(networks) for column, networks in model.backbone.items()}
    columns, modality = table_columns(X), modality_of(model.backbone)
    if not is_table(columns, modality):
        return {}
    return dict.fromkeys(read_columns(columns, modality, model.backbone), modality)


def column_networks(model: BlendEstimator) -> list[tuple[Any, Backbone]]:
    """Return each column of a table with a network that reads it, of a fitted estimator.

    Returns
    -------
    list of ((str or int) or None, Backbone)
        The column is None where X is no table.
    """
    networks = model.backbones_
    return [(column, networks[i]) for column, i in model._readers]


def run_settings(model: Any) -> dict[str, Any]:
    """Return how a model runs its network: device, engine, memory and verbose.

    Parameters
    ----------
    model : estimator
    """
    names = ("device", "engine", "memory", "verbose")
    return {name: getattr(model, name) for name in names}


def _of_column(samples: Any, column: Any) -> Any:
    """Return the samples that a network reads, without missing cells of a table."""
    return samples.present(column) if isinstance(samples, TableSamples) else samples


def _wrong_number(name: str, values: list[Any], n: int) -> ValueError:
    return ValueError(
        f"{name} has {len(values)} entries for {n} networks: give one for each, or one that is "
        "not in a list."
    )
