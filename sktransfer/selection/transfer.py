"""Combine what pretrained networks offer, or follow one strategy: labels and numbers.

``TransferClassifier.fit`` and ``TransferRegressor.fit`` check their data, load the networks
(``blend_estimator.py``) and fit a blend of candidates (``blend_fitting.py``).
"""

from __future__ import annotations

import time
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin, RegressorMixin, is_classifier
from sklearn.utils import Tags, check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from .._compat.sklearn import HasMethods, StrOptions
from ..data import ClassTarget, NumericTarget, check_labels, check_numbers, check_weights, naming
from ..data.types import RandomState, Samples, Targets
from ..features import Count, all_or_nothing, layers_of, reported, resolve_class_map
from ..finetuning import refuse_launcher
from .blend import Blend, describe_blend
from .blend_estimator import BlendEstimator, column_networks, run_settings
from .outcomes import Labels, Numbers, check_takes_weights, combined_weights, seeded
from .strategies import (
    STRATEGIES,
    StrategyTask,
    available_strategies,
    fit_strategy,
    set_running,
)

_WITH_OWN_CLASSES = ("auto", "direct")


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
        n_readers = len(column_networks(self))
        groups = [self._own_classes(samples, self.classes_, i) for i in range(n_readers)]
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
        self._check_running()
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
        """Return the classes of the i-th network that mean each label, as the user says.

        A network whose classes are described by texts has labels of its own.
        """
        readers = column_networks(self)
        column, backbone = readers[i]
        class_map: Any = self.class_map
        listed = isinstance(class_map, list)
        if listed:  # the same for each column, where all networks read all columns
            class_map = class_map[i % len(class_map)]
        others_know = len(readers) > 1 and not listed and backbone.classes is None
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
        self._check_running()
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
