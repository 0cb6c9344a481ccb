"""A regressor that fine-tunes a backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import MultiOutputMixin, RegressorMixin

from .._compat.sklearn import end_fit, with_callbacks
from ..data import NumericTarget, check_numbers, check_weights
from ..data.types import RandomState, Samples, Targets
from ..features import all_or_nothing
from .augmentation import Augmentation
from .estimator import TunedEstimator, check_given

__all__ = ["FineTunedRegressor"]


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
        What is trained. "head": only the new head; the network computes each sample once. An
        int: that many of the last stages with weights. The name of a layer: its stage and all
        above. "all": all stages. "norm": of all stages only scales and shifts of normalization
        layers; "bias": only biases, those of normalization layers included. "lora", or a
        ``LoraConfig`` of peft: low-rank adapters of the linear layers of all stages. A file of
        such a model is small, and its training takes about two thirds of the time of "all".
        Parameters of your module that have ``requires_grad=False`` are not trained.
    head : {"linear", "mlp"} or callable, default="linear"
        "mlp" has one hidden layer. A callable takes ``(n_features, n_outputs)`` and returns a
        module.
    head_init : {"auto", "probe", "random"}, default="auto"
        Initial weights of the head. "probe" is the linear probe: ridge regression on the
        pretrained features. "auto" is "probe" for a linear head, "random" for others.
    train_batch_norm : bool, default=False
        Whether batch norm in the trained stages updates its statistics.
    augment : {"light", "strong"}, callable, Augmentation or None, default=None
        Random changes to training images, in four fixed views of each image, whose frozen part is
        computed once. "light" crops and mirrors; "strong" adds color, geometry and erasing. A
        callable is given a uint8 tensor ``(channels, h, w)``, as torchvision's v2 transforms are.
        An :class:`Augmentation` has another number of views.
    lr : float or "auto", default="auto"
        The highest learning rate. "auto" lies between 3e-4 and 5e-5 for all stages, by the
        similarity of the samples to the data that the network was trained on (batch
        normalization statistics), and is 5e-5 for some stages; 1e-4 for a head alone and for
        networks with layer normalization (transformers); 3e-3 for word vectors, norms and
        biases; 1e-3 for adapters. For a head that is initialized at random it is multiplied by ten.
    layer_decay : float or "auto", default="auto"
        Factor on the learning rate for each stage towards the input. "auto" is 1 with two
        exceptions for ``lr="auto"``. If all stages of a network with batch normalization are
        trained, it lies between 1 and 0.8, by the fourth power of the same similarity. For
        transformers for images it is 0.75 (He et al., 2022, "Masked autoencoders are scalable
        vision learners", table 9).
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
        Copies are added to the training loop; ``net_.callbacks_`` holds them. A learning rate
        scheduler (``LRScheduler``) among them replaces the built-in schedule, in which the rate
        rises in the first tenth of the steps and then falls as a half cosine. A rate that another
        callback sets is kept. ``EarlyStopping(patience=3)`` stops, ``GradientNormClipping(1.0)``
        clips.
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
        Bytes up to which the outputs of the frozen stages, or resized images if nothing is frozen,
        are kept in memory. Above it, outputs are kept in a temporary file or computed again in each
        epoch, whichever is expected to be faster after a timing of some samples.
    memory : None, str, Path, FeatureStore or object with a location, default=None
        Store of the outputs of the frozen stages, shared by folds, candidates and processes.
    checkpoint : str, Path or None, default=None
        Folder for the state of a training of ``fit``, which is written after each epoch. If the
        process is killed, the next ``fit`` with the same data and parameters goes on, and ends
        bit for bit where it would have ended on a CPU; with others it raises an error, but for a
        larger ``max_epochs``, with which a finished training goes on. "{key}" in the
        name becomes a digest of data and parameters, for searches: "folder/{key}".
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
        again = self._continues()
        check_given(X_val, y_val, self.validation_fraction)
        samples = self._start_fit(X, y)
        y = check_numbers(y, len(samples))
        weight = check_weights(sample_weight, len(samples))
        if again:  # in the same units
            self._target = self._target.in_the_form_of(y)
        else:
            self._target = NumericTarget(y, weight)
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
