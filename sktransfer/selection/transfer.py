"""The estimators: combine what a pretrained network offers, or follow one strategy."""

from __future__ import annotations

import operator
import time
from collections.abc import Sequence
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin, RegressorMixin, is_classifier
from sklearn.utils import Tags, check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import nn

from .._compat.sklearn import HasMethods, Interval, StrOptions, validate_parameters
from ..backbones import Backbone, load_backbone, modality_of
from ..data import (
    CATEGORY,
    NUMBER,
    ClassTarget,
    Modality,
    NumericTarget,
    TableSamples,
    check_columns,
    check_labels,
    check_numbers,
    check_weights,
    describe_columns,
    naming,
    read_columns,
    table_columns,
)
from ..data.types import RandomState, Samples, Targets
from ..features import (
    BackboneEstimator,
    Count,
    all_or_nothing,
    layers_of,
    reported,
    resolve_class_map,
)
from ..finetuning import refuse_launcher
from ..transferability import subsample
from .blend import Blend, describe_blend
from .blend_fitting import BlendTask, fit_blend
from .outcomes import Labels, Numbers, Outcome, check_takes_weights, combined_weights, seeded
from .proposals import BLEND
from .strategies import (
    STRATEGIES,
    StrategyTask,
    available_strategies,
    fit_strategy,
    set_running,
)

__all__ = [
    "BlendEstimator",
    "TransferClassifier",
    "TransferRegressor",
    "column_networks",
    "columns_read",
    "run_settings",
    "strategy_task",
]

_WITH_OWN_CLASSES = ("auto", "direct")


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

    def _load_at(self, image_size: int | None) -> Backbone:
        if not isinstance(self.backbone, list | dict):
            return super()._load_at(image_size)
        return self._load_given(self._given()[0][1:], image_size)

    def _load_given(self, given: Sequence[Any], image_size: int | None) -> Backbone:
        backbone, weights, prompts = given
        if isinstance(self.backbone, dict) and not modality_of(backbone).takes_augment:
            image_size = None  # is for the columns of images
        return load_backbone(backbone, weights=weights, image_size=image_size, prompts=prompts)

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
            given += [(column, *one) for one in zip(networks, listed, strict=True)]
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

    def _fit_networks(self, X: Samples) -> Any:
        """Load and inspect the networks; return the samples, checked."""
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
        if asked := columns_read(self, X):
            if not isinstance(self.backbone, dict):
                given = [(name, *network) for name in asked for _, *network in given]
            return self._fit_table(X, columns, given)
        if self.on_error != "raise":
            raise ValueError(
                f"on_error={self.on_error!r} is for tables of several columns: without a sample, "
                "nothing can be predicted from one."
            )
        samples = self._fit_backbone(X)
        self._others, self._readers = [], [(None, i) for i in range(len(given))]
        for _, *network in given[1:]:
            backbone = self._load_given(network, self.image_size)
            if backbone.modality is not self.backbone_.modality:
                raise ValueError(
                    f"backbone={self.backbone!r:.200}: networks of one blend take the same "
                    f"samples. {self.backbone_.name!r} takes {self.backbone_.modality.noun}, "
                    f"{backbone.name!r} {backbone.modality.noun}. For columns of a table, give "
                    "backbone={column: network}."
                )
            layers_of(backbone, samples)
            check = getattr(backbone.preprocess, "check", None)
            if check is not None:
                check(samples, fitting=True)  # it may warn
            self._others.append(backbone)
        return samples

    @staticmethod
    def _is_table_for(modality: Modality, columns: dict[Any, Any]) -> bool:
        """Tell whether columns are samples, numbers and categories, and not one sample a row."""
        return len(columns) > 1 and modality.usual_backbone != ""

    def _fit_table(self, X: Any, columns: dict[Any, Any], given: list[Any]) -> TableSamples:
        """Load the networks of columns and inspect them; return the samples, checked."""
        self._check_running()
        loaded: list[tuple[Any, Backbone]] = []
        read: dict[Any, Modality] = {}
        self._readers = []
        for column, *network in given:
            places = [
                i for i, (one, _) in enumerate(loaded) if all(map(operator.is_, one, network))
            ]
            if not places:
                loaded.append((network, self._load_given(network, self.image_size)))
            i = places[0] if places else len(loaded) - 1
            modality = loaded[i][1].modality
            if read.setdefault(column, modality) is not modality:
                raise ValueError(f"The networks of column {column!r} do not take the same samples.")
            self._readers.append((column, i))
        self.backbone_, *self._others = (backbone for _, backbone in loaded)
        self.column_kinds_ = describe_columns(columns, read)
        self.n_features_in_ = len(self.column_kinds_)
        if all(isinstance(name, str) for name in self.column_kinds_):
            self.feature_names_in_ = np.array(list(self.column_kinds_), object)
        samples: Any = self._check_samples(X)
        for column, i in self._readers:
            if not samples.present(column):
                raise ValueError(f"Column {column!r} has no sample: leave it out.")
            layers_of(self.backbones_[i], samples.present(column))
        self.__dict__.update(self._check_by_preprocessing(samples, fitting=True))
        return samples

    def _check_samples(self, X, *, reset: bool = False) -> Any:
        if self.column_kinds_ is None:
            return super()._check_samples(X, reset=reset)
        return check_columns(X, self.column_kinds_, self.on_error == "mean")

    def _check_by_preprocessing(self, samples, *, fitting: bool) -> dict:
        if not isinstance(samples, TableSamples):
            return super()._check_by_preprocessing(samples, fitting=fitting)
        measured: dict[str, Any] = {}
        for column, i in self._readers:
            check = getattr(self.backbones_[i].preprocess, "check", None)
            if check is not None and samples.present(column):
                measured = check(samples.present(column), fitting=fitting) | measured
        return measured

    @property
    def _read_from(self) -> dict[str, Any]:
        """The networks and the columns of a table that they read, for a blend."""
        columns, networks = zip(*column_networks(self), strict=True)
        if self.column_kinds_ is None:
            return {"backbones": networks}
        cells = [kind for kind in self.column_kinds_.values() if kind in (NUMBER, CATEGORY)]
        return {"backbones": networks, "columns": columns, "cells": cells}

    def _fit_blend(
        self, samples: Any, outcome: Outcome, seed: int, start: float, **of_labels: Any
    ) -> Blend:
        """Fit a blend, and set its members; ``start`` is the time at which the fit began."""
        weighted = np.flatnonzero(outcome.weight)
        rows = weighted[subsample(outcome.codes[weighted], BLEND["rows"], seed)]
        task = BlendTask(
            samples=samples,
            outcome=outcome,
            rows=rows,
            seed=seed,
            run=run_settings(self),
            batch_size=self.batch_size,
            until=None if self.time_budget is None else start + self.time_budget,
            phase=self._phase,
            **self._read_from,
            **of_labels,
        )
        blend = fit_blend(task, self.image_size)
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
    if not model._is_table_for(modality, columns):
        return {}
    return dict.fromkeys(read_columns(columns, modality, model.backbone), modality)


def column_networks(model: BlendEstimator) -> list[tuple[Any, Backbone]]:
    """Return each column of a table with a network that reads it, of a fitted estimator.

    Parameters
    ----------
    model : TransferClassifier or TransferRegressor

    Returns
    -------
    list of ((str or int) or None, Backbone)
        The column is None where X is no table.
    """
    return [(column, model.backbones_[i]) for column, i in model._readers]


def _wrong_number(name: str, values: list[Any], n: int) -> ValueError:
    return ValueError(
        f"{name} has {len(values)} entries for {n} networks: give one for each, or one that is "
        "not in a list."
    )


class TransferClassifier(ClassifierMixin, BlendEstimator):
    """Classify with a pretrained network: combine what it offers, or follow one strategy.

    Parameters
    ----------
    backbone : str, torch.nn.Module, callable, Backbone, list or dict, default="efficientnet_lite0"
        As in :class:`PretrainedFeatureExtractor`. Of a list of networks that take the same samples,
        the models of all are combined; each sample is opened once. For a table, a dictionary from
        the name of a column to its network, or to a list of networks; the other columns are numbers
        and categories. Without a dictionary, one network reads all columns of a table that are not
        of a type of numbers or categories.
    weights : str, Path, None, list or dict, default="default"
        As in :class:`PretrainedFeatureExtractor`; of several networks, a list has one for each, and
        of columns a dictionary.
    image_size : int, default=None
        Side of the square given to the network, in pixels. None is what its weights were trained
        with; with "auto", 3 / 7, 4 / 7 and 9 / 7 of it instead.
    strategy : str, default="auto"
        "auto" takes the weighted mean of the probabilities of several models, see Notes. Or one
        of those of :func:`~sktransfer.selection.available_strategies`: "direct", the network's own
        classes mapped onto yours; "features", a linear classifier on those of the penultimate
        layer; "early", on those of an earlier layer; "head", a new head; "last", a new head and
        the last two stages; "all", all stages.
    estimator : classifier, default=None
        The classifier on features. None is a linear model whose penalty is chosen by
        cross-validation. With "auto" it needs ``predict_proba`` or ``decision_function``.
        Where its own ``random_state`` is None, a copy of it gets one that follows from the
        ``random_state`` below.
    class_map : dict or list, default=None
        The network's classes that mean each label, as in :class:`PretrainedClassifier`. None learns
        them from the samples. For "auto" and "direct". Of several networks, a list has one or None
        for each, and a dictionary is for those that have classes.
    prompts : dict or list, default=None
        Texts that describe each label, as in :class:`PretrainedClassifier`, instead of a
        ``class_map``. With strategies that train, the head begins as this zero-shot classifier. Of
        several networks, a list has one or None for each.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, by label; "balanced" gives each class the same sum of weights.
    max_epochs : int or "auto", default="auto"
        As in :class:`FineTunedClassifier`, for strategies that train. Blends ignore it.
    time_budget : float, default=None
        With "auto", about how many seconds ``fit`` may take: fewer input sizes are used, or a
        trained network joins the blend if there is time. With None no network is trained.
    batch_size : int or "auto", default="auto"
        Samples in a training step, as in :class:`FineTunedClassifier`.
    device : str, default="auto"
        As in :class:`PretrainedFeatureExtractor`.
    engine : {"auto", "torch", "openvino", "onnxruntime", "compile"}, default="auto"
        The library that runs the network, and the frozen stages of strategies that train.
    on_error : {"raise", "mean"}, default="raise"
        Of a table, what is done about cells that are missing or that a network cannot read. "mean"
        takes the mean of the features of ``fit``. Numbers and categories may always be missing.
    memory : None, str, Path, FeatureStore or object with a location, default=None
        Where features are stored, by sample. Without it they are in memory for the time of a
        fit, so that all strategies share them.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds, of heads, and of the order of samples.
    verbose : int, default=0
        1 shows progress bars.

    Attributes
    ----------
    strategy_ : str
        The strategy that was fitted; "blend" with ``strategy="auto"``.
    estimator_ : estimator or Blend
        The fitted one.
    members_ : list of str or None
        With ``strategy="auto"``, the models that are combined.
    weights_ : ndarray of shape (n_members,) or None
        Their weights, the highest first, with a sum of 1.
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    backbone_ : Backbone
        The pretrained network, unchanged; of several, the first.
    backbones_ : list of Backbone
        All networks, unchanged.
    column_kinds_ : dict or None
        Of a table, the kind of each column: the modality of the networks that read it ("image",
        "text"), "number" or "category".
    truncated_rate_, oov_rate_ : float
        For texts, as in :class:`PretrainedFeatureExtractor`.
    n_features_in_ : int
        Numbers in a sample, or columns, where X is a table.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where X is a table with names.
    execution_ : dict
        As in :class:`PretrainedFeatureExtractor`; with several input sizes, "batch_size" is a
        dictionary by size. Empty where no network runs.

    See Also
    --------
    recommend_strategy : Recommend one strategy, with reasons and estimated times.
    TransferRegressor : The same for numbers.

    Notes
    -----
    The members of the blend of "auto" are linear models of features of several layers, poolings and
    input sizes, alone and side by side; the network's own classes, mapped onto yours; and from 40
    texts on, linear models of counts of words. Each sample passes the network once at each size.
    Of a table, they are models of each column, of all columns side by side, and the product of the
    probabilities that each column gives alone.

    On up to 600 samples, models are cross-validated; each gets the penalty and the temperature with
    the smallest log loss [1]_, and the weights are those of the mixture that explains the labels
    best (:func:`~sktransfer.transferability.mixture_weights`). The network's own classes, mapped by
    ``class_map`` if it is given, begin with 0.8 pseudo-samples, and the others share 0.2. Classes
    that ``prompts`` describe begin with 8, and the others share 2; a temperature of 1 of their
    logits counts as 10 samples. Without own classes, logistic regression on the penultimate layer
    begins with 1, and the others share 9.
    Members with a weight under 0.02 are left out, the others are fitted on all samples, and the
    weighted mean of their probabilities is calibrated. All of this uses the samples given to
    ``fit`` alone, so that a cross-validation of the whole estimator is unbiased.

    The whole network is trained if the ``time_budget`` suffices, there are at least 60 samples,
    eight for each class, and the mean is wrong for 5 % of them or more, and for 0.6 of the errors
    of the linear probe from which the training begins: at 3 / 7 of the usual size, without a fifth
    of the samples (at least 30). It gets the weight that explains these best, unless it is worse
    than the others there.

    References
    ----------
    .. [1] Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
       https://arxiv.org/abs/1706.04599

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import TransferClassifier
    >>> digits = load_digits()
    >>> X, y = list(digits.images[:60] / 16), digits.target[:60]
    >>> model = TransferClassifier(strategy="features", image_size=64).fit(X[:40], y[:40])
    >>> model.predict(X[40:]).shape
    (20,)
    """

    classes_: np.ndarray
    estimator_: Any
    members_: Any  # None with one strategy, which a type checker cannot know
    strategy_: str
    weights_: Any
    _parameter_constraints: dict[str, Any] = {
        **BlendEstimator._parameter_constraints,
        "strategy": [str],
        "estimator": [HasMethods(["fit", "predict"]), None],
        "class_map": [dict, list, None],
        "prompts": [dict, list, None],
        "max_epochs": [Count(0), StrOptions({"auto"})],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        backbone: Any = "efficientnet_lite0",
        *,
        weights: Any = "default",
        image_size: int | None = None,
        strategy: str = "auto",
        estimator: Any = None,
        class_map: dict[Any, Any] | None = None,
        prompts: dict[Any, Any] | list[Any] | None = None,
        class_weight: dict[Any, float] | str | None = None,
        max_epochs: int | str = "auto",
        time_budget: float | None = None,
        batch_size: int | str = "auto",
        device: str = "auto",
        engine: str = "auto",
        on_error: str = "raise",
        memory: Any = None,
        random_state: RandomState = None,
        verbose: int = 0,
    ):
        self.backbone = backbone
        self.weights = weights
        self.image_size = image_size
        self.strategy = strategy
        self.estimator = estimator
        self.class_map = class_map
        self.prompts = prompts
        self.class_weight = class_weight
        self.max_epochs = max_epochs
        self.time_budget = time_budget
        self.batch_size = batch_size
        self.device = device
        self.engine = engine
        self.on_error = on_error
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    @reported(n_phases=2)
    @all_or_nothing
    def fit(
        self,
        X: Samples,
        y: Targets,
        sample_weight: ArrayLike | None = None,
        X_unlabelled: Samples | None = None,
    ) -> Self:
        """Fit a blend, or the strategy that is given.

        Parameters
        ----------
        X : list, array, Series, DataFrame column or table of n_samples samples
            As in :meth:`PretrainedFeatureExtractor.fit`, or a table whose columns are images,
            texts, numbers and categories. Its columns may be in another order in ``predict``.
        y : array-like of shape (n_samples,)
            Labels of any type.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, in the fit, in the trials of strategies and in the accuracies
            that are compared. Samples of weight 0 are in no trial.
        X_unlabelled : list, array, Series or DataFrame column of samples, default=None
            Samples of the same classes without labels, for ``strategy="auto"``: members are
            fitted on them too, with the labels that the blend predicts for them. At
            most 600 are used, drawn at random. -1 in ``y`` is a label like any other.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For unknown names, unreadable samples, labels or weights that do not fit, a strategy
            that the network does not allow, a label missing from ``class_map`` or ``prompts``, or
            weights or ``X_unlabelled`` that the ``estimator`` or the ``strategy`` does not take.
        """
        if X_unlabelled is not None and self.strategy != "auto":
            raise ValueError(
                f"X_unlabelled is used by strategy='auto' only, not by {self.strategy!r}. Use "
                "sklearn.semi_supervised.SelfTrainingClassifier around the estimator instead."
            )
        refuse_launcher(self)
        start = time.perf_counter()
        self.members_ = self.weights_ = None
        if self.strategy != "auto":
            task = strategy_task(self, X, y, sample_weight)
            # What is asked for by name is done, with epochs or without.
            with self._phase("compare"):  # with what the network allows
                possible = available_strategies(self.backbone_)
            if self.strategy not in possible:
                raise ValueError(
                    f"strategy={self.strategy!r} is not possible with backbone "
                    f"{self.backbone_.name!r}, which allows {possible}."
                )
            self.strategy_, self.classes_ = self.strategy, np.unique(task.y)
            with self._phase("fit"):
                self.estimator_ = fit_strategy(task, self.strategy)
            return self
        samples, y = self._check(X, y)
        methods = ("predict_proba", "decision_function")
        if self.estimator is not None and not any(hasattr(self.estimator, m) for m in methods):
            raise ValueError(
                f"estimator={self.estimator!r:.200} has neither predict_proba nor "
                "decision_function, and strategy='auto' combines probabilities: give another "
                "classifier, or name a strategy."
            )
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.classes_ = np.unique(y)
        weight = combined_weights(sample_weight, self.class_weight, y, self.estimator)
        weight = np.ones(len(y)) if weight is None else weight
        n_networks = len(self._readers)
        groups = [self._own_classes(samples, self.classes_, i) for i in range(n_networks)]
        if X_unlabelled is not None:
            if self.estimator is not None:
                check_takes_weights(self.estimator)  # they are weighted by confidence
            X_unlabelled = naming("X_unlabelled", self._transform_samples, X_unlabelled)
        self.strategy_ = "blend"
        self.estimator_ = self._fit_blend(
            samples,
            Labels(ClassTarget(self.classes_), y, weight),
            seed,
            start,
            classifier=seeded(self.estimator, seed),
            unlabelled=X_unlabelled,
            groups=[None if g is None else tuple(map(tuple, g.values())) for g in groups],
        )
        return self

    def _check(self, X, y) -> tuple[Any, np.ndarray]:
        """Check the parameters and the data, and load the network."""
        self._require(y)
        validate_parameters(self)
        known = ["auto", *STRATEGIES]
        if self.strategy not in known:
            raise ValueError(
                f"The 'strategy' parameter of {type(self).__name__} must be one of {known}. Got "
                f"{self.strategy!r} instead."
            )
        if self.class_map is not None and self.strategy not in _WITH_OWN_CLASSES:
            raise ValueError(
                f"class_map is used by strategy={' or '.join(map(repr, _WITH_OWN_CLASSES))}, not "
                f"by {self.strategy!r}."
            )
        if self.class_map is not None and self.prompts is not None:
            raise ValueError(
                "class_map and prompts both say what the labels are: give one of them."
            )
        if self.prompts is not None and self.strategy in ("features", "early"):
            raise ValueError(f"prompts are not used by strategy={self.strategy!r}.")
        if isinstance(self.prompts, list) and not isinstance(self.backbone, list | dict):
            raise ValueError(
                "prompts is a list, one for each network, and backbone is one network."
            )
        class_map: Any = self.class_map
        for i, given in enumerate(class_map if isinstance(class_map, list) else ()):
            if not isinstance(given, dict | None):
                raise ValueError(f"class_map[{i}]={given!r:.80}: give a dict or None.")
        own = self.estimator
        if own is not None and (isinstance(own, type) or not is_classifier(own)):
            raise ValueError(
                f"estimator={own!r} is no classifier: give an instance of one, such as "
                "LogisticRegression()."
            )
        if isinstance(self.backbone, list | dict) and self.strategy != "auto":
            kind = "list" if isinstance(self.backbone, list) else "dictionary"
            raise ValueError(
                f"strategy={self.strategy!r} is for one network, and backbone is a {kind}: only "
                "strategy='auto' combines several."
            )
        samples = self._fit_networks(X)
        if self.column_kinds_ is not None and self.strategy != "auto":
            raise ValueError(
                f"strategy={self.strategy!r} is for one column of samples, and X has "
                f"{list(self.column_kinds_)!r:.200}: only strategy='auto' combines several."
            )
        return samples, check_labels(y, len(samples), for_training=True)

    def _own_classes(self, samples, classes: np.ndarray, i: int = 0) -> dict[Any, list[int]] | None:
        """Return the classes of a network that mean each label, by position, as the user says.

        A network whose classes are described by texts has labels of its own.
        """
        column, place = self._readers[i]
        backbone, listed = self.backbones_[place], isinstance(self.class_map, list)
        class_map: Any = self.class_map
        class_map = class_map[i] if listed else class_map
        others_know = len(self._readers) > 1 and not listed and backbone.classes is None
        rows = {label: row for row, label in enumerate(backbone.labels or ())}
        if class_map is None and (self.prompts is not None or rows.keys() >= set(classes.tolist())):
            class_map = {label: [row] for label, row in rows.items()} or None
        if class_map is None or others_know:
            return None
        some = samples if column is None else samples.present(column)
        n_outputs = list(layers_of(backbone, some).values())[-1].width
        resolved = resolve_class_map(class_map, backbone, n_outputs)
        missing = [label for label in classes.tolist() if label not in resolved]
        if missing:
            given = "class_map" if self.prompts is None else "prompts"
            raise ValueError(
                f"{given} names no classes of the network for {missing[0]!r}, which is in y. It "
                f"has {list(resolved)!r:.200}."
            )
        return {label: resolved[label] for label in classes.tolist()}

    def _fitted(self):
        """Return the fitted estimator, which runs as this one is asked to by now."""
        return set_running(self.estimator_, **run_settings(self))

    @property
    def execution_(self) -> dict[str, Any]:
        check_is_fitted(self)
        if isinstance(self.estimator_, Blend):
            return describe_blend(self.estimator_.outputs, run_settings(self))
        fitted = self._fitted()
        return getattr(fitted, "steps", [("", fitted)])[0][1].execution_

    def predict(self, X: Samples) -> np.ndarray:
        """Predict the most probable class.

        Parameters
        ----------
        X : list, array, Series, DataFrame column or table of n_samples samples

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        samples: Any = self._transform_samples(X)
        if isinstance(self.estimator_, Blend):
            probabilities = self.estimator_.of_samples(samples, run_settings(self))
            return self.classes_[probabilities.argmax(axis=1)]
        return self._fitted().predict(samples)

    @available_if(lambda self: self._offers("predict_proba"))
    def predict_proba(self, X: Samples) -> np.ndarray:
        """Predict the probability of each class, if the estimator has this method.

        Parameters
        ----------
        X : list, array, Series, DataFrame column or table of n_samples samples

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            In the order of ``classes_``.
        """
        samples: Any = self._transform_samples(X)
        if isinstance(self.estimator_, Blend):
            return self.estimator_.of_samples(samples, run_settings(self))
        return self._fitted().predict_proba(samples)

    @available_if(lambda self: self._offers("decision_function"))
    def decision_function(self, X: Samples) -> np.ndarray:
        """Compute scores of the classes, if the estimator has this method.

        Parameters
        ----------
        X : list, array, Series, DataFrame column or table of n_samples samples

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
        """
        samples = self._transform_samples(X)
        return self._fitted().decision_function(samples)

    def _offers(self, method: str) -> bool:
        """Tell whether the classifier has a method: the fitted one, or the one to be fitted."""
        fitted = getattr(self, "estimator_", None)
        if fitted is not None and not isinstance(fitted, Blend):
            return hasattr(fitted, method)
        if fitted is not None or self.estimator is None or self.strategy == "auto":
            return method == "predict_proba"
        return hasattr(self.estimator, method)


def strategy_task(
    model: TransferClassifier, X: Samples, y: Targets, sample_weight: ArrayLike | None = None
) -> StrategyTask:
    """Check data and parameters, load the network, and return what a strategy is fitted to.

    Parameters
    ----------
    model : TransferClassifier
        Of one network.
    X, y, sample_weight
        As in :meth:`TransferClassifier.fit`.

    Returns
    -------
    StrategyTask
    """
    samples, y = model._check(X, y)
    seed = int(check_random_state(model.random_state).randint(2**31 - 1))
    return StrategyTask(
        model.backbone_,
        samples,
        y,
        seed,
        run_settings(model),
        weight=combined_weights(sample_weight, model.class_weight, y, model.estimator),
        classifier=seeded(model.estimator, seed),
        class_map=model._own_classes(samples, np.unique(y)),
        max_epochs=model.max_epochs,
        batch_size=model.batch_size,
    )


def run_settings(model: Any) -> dict[str, Any]:
    """Return how a model runs its network: device, engine, memory and verbose."""
    names = ("device", "engine", "memory", "verbose")
    return {name: getattr(model, name) for name in names}


class TransferRegressor(RegressorMixin, BlendEstimator):
    """Predict numbers with a pretrained network: combine layers, poolings and input sizes.

    Parameters
    ----------
    backbone : str, torch.nn.Module, callable, Backbone, list or dict, default="efficientnet_lite0"
        As in :class:`TransferClassifier`.
    weights : str, Path, None, list or dict, default="default"
        As in :class:`PretrainedFeatureExtractor`; of several networks, a list has one for each, and
        of columns a dictionary.
    image_size : int, default=None
        Side of the square given to the network, in pixels. None takes several, as
        :class:`TransferClassifier` does.
    time_budget : float, default=None
        About how many seconds ``fit`` may take. Fewer input sizes are used if they would take
        longer; where there is time, a trained network may join the blend. With None no network is
        trained.
    batch_size : int or "auto", default="auto"
        Samples in a training step, as in :class:`FineTunedRegressor`.
    device : str, default="auto"
        As in :class:`PretrainedFeatureExtractor`.
    engine : {"auto", "torch", "openvino", "onnxruntime", "compile"}, default="auto"
        The library that runs the network.
    on_error : {"raise", "mean"}, default="raise"
        Of a table, what is done about cells that are missing or that a network cannot read. "mean"
        takes the mean of the features of ``fit``. Numbers and categories may always be missing.
    memory : None, str, Path, FeatureStore or object with a location, default=None
        Where features are stored, by sample.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds.
    verbose : int, default=0
        1 shows progress bars.

    Attributes
    ----------
    members_ : list of str
        The models that are combined.
    weights_ : ndarray of shape (n_members,)
        Their weights, the highest first, with a sum of 1.
    blend_ : Blend
        The fitted models.
    backbone_ : Backbone
        The pretrained network, unchanged; of several, the first.
    backbones_ : list of Backbone
        All networks, unchanged.
    column_kinds_ : dict or None
        Of a table, the kind of each column: the modality of the networks that read it ("image",
        "text"), "number" or "category".
    truncated_rate_, oov_rate_ : float
        For texts, as in :class:`PretrainedFeatureExtractor`.
    n_features_in_ : int
        Numbers in a sample, or columns, where X is a table.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where X is a table with names.
    execution_ : dict
        As in :class:`TransferClassifier`.

    See Also
    --------
    TransferClassifier : The same for labels.
    FineTunedRegressor : Train stages of the network.

    Notes
    -----
    Members are ridge regressions on features of several layers, poolings and input sizes, alone
    and side by side; for texts also on counts of words. Of a table, they are those of each column,
    of all columns side by side, and the sum over columns. On up to 600 samples they are
    cross-validated, and each gets the penalty with the smallest squared error. Weights are those of
    a greedy selection with replacement [1]_ by the squared error of the mean, averaged over 20
    bags. Several targets are standardised, have the same weights, and count alike.

    With a ``time_budget`` that suffices, at least 60 samples and a mean that leaves 5 % of the
    variance or more, and 0.6 of what a linear probe leaves, the whole network is trained as for
    :class:`TransferClassifier`. It gets the weight with the smallest squared error on samples held
    out.

    References
    ----------
    .. [1] Caruana et al., "Ensemble Selection from Libraries of Models", ICML 2004.
       https://doi.org/10.1145/1015330.1015432

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import TransferRegressor
    >>> X = list(load_digits().images[:60] / 16)
    >>> y = [image.mean() for image in X]  # brightness
    >>> model = TransferRegressor(image_size=64, random_state=0).fit(X[:40], y[:40])
    >>> model.predict(X[40:]).shape
    (20,)
    """

    members_: list[str]
    weights_: np.ndarray

    def __init__(
        self,
        backbone: Any = "efficientnet_lite0",
        *,
        weights: Any = "default",
        image_size: int | None = None,
        time_budget: float | None = None,
        batch_size: int | str = "auto",
        device: str = "auto",
        engine: str = "auto",
        on_error: str = "raise",
        memory: Any = None,
        random_state: RandomState = None,
        verbose: int = 0,
    ):
        self.backbone = backbone
        self.weights = weights
        self.image_size = image_size
        self.time_budget = time_budget
        self.batch_size = batch_size
        self.device = device
        self.engine = engine
        self.on_error = on_error
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    @reported(n_phases=2)
    @all_or_nothing
    def fit(self, X: Samples, y: Targets, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the members and their weights.

        Parameters
        ----------
        X : list, array, Series, DataFrame column or table of n_samples samples
            As in :meth:`PretrainedFeatureExtractor.fit`, or a table whose columns are images,
            texts, numbers and categories. Its columns may be in another order in ``predict``.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Numbers.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the fit and in the errors that are compared.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For unreadable samples, or for numbers or weights that do not fit.
        """
        refuse_launcher(self)
        start = time.perf_counter()
        self._require(y)
        validate_parameters(self)
        samples = self._fit_networks(X)
        y = check_numbers(y, len(samples))
        weight = check_weights(sample_weight, len(samples))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        kind = NumericTarget(y[weight > 0], weight[weight > 0])
        self.blend_: Any = self._fit_blend(samples, Numbers(kind, y, weight), seed, start)
        return self

    def predict(self, X: Samples) -> np.ndarray:
        """Predict numbers.

        Parameters
        ----------
        X : list, array, Series, DataFrame column or table of n_samples samples

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_targets)
            In the form of y.
        """
        samples: Any = self._transform_samples(X)
        numbers = self.blend_.of_samples(samples, run_settings(self))
        return numbers[:, 0] if self.blend_.scaler.is_flat else numbers

    @property
    def execution_(self) -> dict[str, Any]:
        check_is_fitted(self)
        return describe_blend(self.blend_.outputs, run_settings(self))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
