"""A regressor that fine-tunes a backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from .._compat.sklearn import end_fit, with_callbacks
from ..data import NumericTarget, check_numbers, check_weights, column_names
from ..data.types import RandomState, Samples, Targets
from ..features import all_or_nothing
from .augmentation import Augmentation
from .estimator import TunedEstimator


class FineTunedRegressor(MultiOutputMixin, RegressorMixin, TunedEstimator):
    """Regressor that trains a new head on a pretrained network, and some or all of its stages.

    Targets are standardised for training, so that learning rates do not depend on their scale.

    Parameters
    ----------
    backbone : str, torch.nn.Module, callable, Backbone or fitted model, \
default="efficientnet_lite0"
        As in :class:`PretrainedFeatureExtractor`; or a fitted model of this class, whose trained
        weights are the initial ones.
    weights : str, Path or None, default="default"
        As in :class:`PretrainedFeatureExtractor`.
    image_size : int, default=None
        As in :class:`PretrainedFeatureExtractor`.
    image_shape : tuple of int, default=None
        As in :class:`PretrainedFeatureExtractor`.
    trainable : "head", "all", "norm", "bias", "lora", int, str or LoraConfig, default="head"
        As in :class:`FineTunedClassifier`.
    head : {"linear", "mlp"} or callable, default="linear"
        "mlp" has one hidden layer. A callable takes ``(n_features, n_outputs)`` and returns a
        module.
    head_init : {"auto", "probe", "random"}, default="auto"
        Initial weights of the head. "probe" is the linear probe: ridge regression on the
        pretrained features. "auto" is "probe" for a linear head, "random" for others.
    train_batch_norm : bool, default=False
        Whether batch norm in the trained stages updates its statistics.
    augment : {"light", "strong"}, callable, Augmentation or None, default=None
        As in :class:`FineTunedClassifier`.
    lr : float or "auto", default="auto"
        As in :class:`FineTunedClassifier`.
    layer_decay : float or "auto", default="auto"
        As in :class:`FineTunedClassifier`.
    loss : callable or "auto", default="auto"
        A function of outputs and targets, such as ``torch.nn.HuberLoss()``, both ``(n,
        n_targets)`` and standardised. It returns a loss for each row or number, or their mean; a
        mean allows no weights. With ``micro_batch_size``, and where memory is short, it is called
        with parts of a batch, so that no other function of a batch, such as a sum or a
        correlation, is allowed. "auto" is the squared error.
    max_epochs : int or "auto", default="auto"
        Number of passes over the training samples. With 0 the head keeps its initial weights.
        "auto" makes about 120 steps, in at least 4 and at most 60 passes.
    validation_fraction : float, default=0.0
        Fraction of the samples in the validation set. The epoch with the lowest validation loss
        is restored, epoch 0 (before training) included. With 0 there is no validation set.
    warm_start : bool, default=False
        Whether ``fit`` continues from the weights of the previous ``fit``.
    callbacks : list of skorch callbacks, default=None
        As in :class:`FineTunedClassifier`.
    net_params : dict, default=None
        More parameters of the ``skorch.NeuralNetRegressor``, such as ``{"optimizer":
        torch.optim.SGD, "optimizer__momentum": 0.9, "callbacks__schedule__warmup": 0.2}``. The
        optimizer is AdamW with ``optimizer__weight_decay=1e-4``. Those that ``fit`` sets are
        refused.
    batch_size : int or "auto", default="auto"
        Samples in a step; "auto" is 16 for up to 1,000 samples, else 32.
    micro_batch_size : int or None, default=None
        Most samples that are run at a time. The gradients of the parts of a batch are added up:
        less memory, for the same result but for random numbers (dropout).
    device : str, default="auto"
        As in :class:`PretrainedFeatureExtractor`.
    engine : {"auto", "torch", "openvino", "onnxruntime", "compile"}, default="auto"
        The library that runs the frozen stages, as in :class:`PretrainedFeatureExtractor`. The
        others are run by torch.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Precision of computations. "auto" is bfloat16 on a CUDA device, else float32.
    max_cache_bytes : int, default=2147483648
        As in :class:`FineTunedClassifier`.
    memory : None, str, Path, FeatureStore or object with a location, default=None
        Store of the outputs of the frozen stages, shared by folds, candidates and processes.
    checkpoint : str, Path or None, default=None
        As in :class:`FineTunedClassifier`.
    n_jobs : int, "auto" or None, default="auto"
        As in :class:`PretrainedFeatureExtractor`.
    random_state : int, RandomState instance or None, default=None
        Seed of the head, the order of samples, dropout, and the split for validation.
    verbose : int, default=0
        1 shows progress bars, 2 skorch's table.

    Attributes
    ----------
    backbone_ : Backbone
        The pretrained network, unchanged.
    net_ : skorch.NeuralNetRegressor
        The net of the trained stages and the head. It takes outputs of the frozen stages and
        targets in the units of ``y``; its losses are those of standardised targets. It can be
        pickled and trained further (``partial_fit``); the estimator predicts with the result.
    frozen_layers_, trained_layers_ : list of str
        The stages that are not trained, and those that are.
    history_ : list of dict
        One entry for each epoch: losses, duration and scores of callbacks.
    best_epoch_ : int or None
        The epoch whose weights are used; 0 is the state before training. None if they are an
        average of :class:`AverageWeights`.
    validation_indices_ : ndarray of int
        Positions of the samples of the validation set.
    lr_ : float
        The learning rate used.
    truncated_rate_, oov_rate_ : float
        For texts, as in :class:`PretrainedFeatureExtractor`.
    n_features_in_ : int
        Number of features, if X is a table.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if X is a table with names.
    cache_ : dict
        Where the outputs of the frozen stages were in training: "place" ("memory", "disk" or
        "nowhere"), "nbytes", the size of all, and "seconds", the times that were expected.
    execution_ : dict
        How the frozen stages are run, as in :class:`PretrainedFeatureExtractor`. If there are
        none, how the whole network is run.

    See Also
    --------
    FineTunedClassifier : The same for labels.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import FineTunedRegressor
    >>> digits = load_digits()
    >>> X, ink = digits.images[:40] / 16, digits.data[:40].sum(axis=1)
    >>> model = FineTunedRegressor(max_epochs=2, random_state=0).fit(X[:30], ink[:30])
    >>> model.predict(X[30:]).shape
    (10,)
    """

    def __init__(
        self,
        backbone: Any = "efficientnet_lite0",
        *,
        weights: Any = "default",
        image_size: int | None = None,
        image_shape: tuple[int, ...] | None = None,
        trainable: Any = "head",
        head: str | Callable[..., Any] = "linear",
        head_init: str = "auto",
        train_batch_norm: bool = False,
        augment: str | Callable[..., Any] | Augmentation | None = None,
        lr: float | str = "auto",
        layer_decay: float | str = "auto",
        loss: str | Callable[..., Any] = "auto",
        max_epochs: int | str = "auto",
        validation_fraction: float = 0.0,
        warm_start: bool = False,
        callbacks: Sequence[Any] | None = None,
        net_params: dict[str, Any] | None = None,
        batch_size: int | str = "auto",
        micro_batch_size: int | None = None,
        device: str = "auto",
        engine: str = "auto",
        precision: str = "auto",
        max_cache_bytes: int = 2**31,
        memory: Any = None,
        checkpoint: str | Path | None = None,
        n_jobs: int | str | None = "auto",
        random_state: RandomState = None,
        verbose: int = 0,
    ):
        self.backbone = backbone
        self.weights = weights
        self.image_size = image_size
        self.image_shape = image_shape
        self.trainable = trainable
        self.head = head
        self.head_init = head_init
        self.train_batch_norm = train_batch_norm
        self.augment = augment
        self.lr = lr
        self.layer_decay = layer_decay
        self.loss = loss
        self.max_epochs = max_epochs
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.net_params = net_params
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.device = device
        self.engine = engine
        self.precision = precision
        self.max_cache_bytes = max_cache_bytes
        self.memory = memory
        self.checkpoint = checkpoint
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    @all_or_nothing
    def fit(
        self,
        X: Samples,
        y: Targets,
        sample_weight: ArrayLike | None = None,
        X_val: Samples | None = None,
        y_val: Targets | None = None,
    ) -> Self:
        """Train on samples with numbers.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples
            As in :meth:`PretrainedFeatureExtractor.fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Numbers.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the loss and in the probe.
        X_val, y_val : default=None
            A validation set, as X and y, where ``validation_fraction`` would hold out samples of
            X: the epoch with the lowest loss on it is restored.
            Its samples are not trained.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For unknown names, unreadable samples or targets that are no numbers.
        FloatingPointError
            If the loss or a weight is not finite; the message says what to try.
        """
        samples = self._start_fit(X, y, X_val, y_val)
        again, names = self._continues(), column_names(y)
        y = check_numbers(y, len(samples))
        weight = check_weights(sample_weight, len(samples))
        if again:  # in the same units
            self._target.check_names(names, "y")
            self._target = self._target.in_the_form_of(y)
        else:
            self._target = NumericTarget(y, weight, names)
        module = self._copy_module(self._tuned.module) if again else None
        validation = self._check_validation(X_val, y_val)
        encoded = self._target.encode(y)
        self._fit_rows(samples, encoded, weight, module, validation=validation)
        end_fit(self)
        return self

    def predict(self, X: Samples) -> np.ndarray:
        """Predict the targets.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_targets), float64
        """
        outputs = self._outputs(X)
        return self._target.decode(outputs)

    def score(self, X: Samples, y: Targets, sample_weight: ArrayLike | None = None) -> float:
        """Return R², the coefficient of determination of predictions.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            True numbers. Columns of a DataFrame must be those of ``fit``, in the same order.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If columns have other names, or another order, than in ``fit``.
        """
        check_is_fitted(self)
        self._target.check_names(column_names(y), "y")
        return super().score(X, y, sample_weight)
