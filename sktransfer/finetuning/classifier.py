"""Classify with a pretrained network whose head, last stages or all stages are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from .._compat.sklearn import StrOptions, end_fit, with_callbacks
from ..backbones import Backbone, stages_of
from ..data import (
    IndicatorTarget,
    check_labels,
    check_total,
    check_weights,
    class_target,
    column_names,
    naming,
)
from ..data.types import RandomState, Samples, Targets
from ..features import Count, all_or_nothing
from .augmentation import Augmentation
from .dataset import Activations
from .estimator import KeptRows, TunedEstimator
from .trainable_stages import TrainableStages, carry_rows, grow


class FineTunedClassifier(ClassifierMixin, TunedEstimator):
    """Classifier that trains a new head on a pretrained network, and some or all of its stages.

    Parameters
    ----------
    backbone : str, torch.nn.Module, callable, Backbone or fitted model, \
default="efficientnet_lite0"
        As in :class:`PretrainedFeatureExtractor`; or a fitted model of this class, whose trained
        weights are the initial ones, with the rows of its head for labels that both have. Its
        head must be of the kind of ``head``.
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
    head_init : {"auto", "probe", "random"} or dict, default="auto"
        Initial weights of the head. "probe" is the linear probe: regularised logistic regression
        on the pretrained features, as in LP-FT (Kumar et al. 2022). "auto" is "probe" for a linear
        head and "random" for others; if the backbone is a fitted model, the rows of its head for
        labels that both have. A dictionary is texts that describe the labels, as ``prompts`` of
        :class:`PretrainedClassifier`: the head begins as the zero-shot classifier. Labels without
        a text begin as "auto" says.
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
        Factor on the learning rate for each stage towards the input. "auto" is 1 with three
        exceptions for ``lr="auto"``. If all stages of a network with batch normalization are
        trained, it lies between 1 and 0.8, by the fourth power of the same similarity. For
        transformers for images it is 0.75 (He et al., 2022, "Masked autoencoders are scalable
        vision learners", table 9), for those for texts 0.9 (``benchmarks/text_decay.py``).
    loss : callable or "auto", default="auto"
        A function of outputs and targets, such as a loss of ``torch.nn``. Outputs are those of the
        head, ``(n, n_classes)``, before the softmax; targets are positions in ``classes_``,
        ``(n,)``, or for an indicator matrix numbers of the same shape as the outputs. It returns a
        loss for each row, or their mean; a mean allows no weights. With ``micro_batch_size``, and
        where memory is short, it is called with parts of a batch, so that no other function of a
        batch, such as a sum or a loss of pairs, is allowed. "auto" is the cross entropy.
    class_weight : dict, list of dict, "balanced" or None, default=None
        As in scikit-learn: a list, with one for each column, for an indicator matrix. If this is a
        DataFrame, a dictionary may give the weights of columns by their names: a sample has the
        product of those of its labels.
    max_epochs : int or "auto", default="auto"
        Number of passes over the training samples. With 0 the head keeps its initial weights.
        "auto" makes about 120 steps, in at least 4 and at most 60 passes. Where only a head of more
        than 1,000 classes is trained, at least one pass.
    validation_fraction : float, default=0.0
        Fraction of the samples in the validation set, stratified by class. The epoch with the
        lowest validation loss is restored, epoch 0 (before training) included. With 0 there is
        no validation set.
    rehearsal : int, default=0
        Number of training samples of each class whose activations are kept and trained again in
        later calls of ``partial_fit``, so that old classes are not forgotten. They are part of a
        pickle. Not for an indicator matrix.
    warm_start : bool, default=False
        Whether ``fit`` continues from the weights of the previous ``fit``.
    callbacks : list of skorch callbacks, default=None
        Copies are added to the training loop; ``net_.callbacks_`` holds them. A learning rate
        scheduler (``LRScheduler``) among them replaces the built-in schedule, in which the rate
        rises in the first tenth of the steps and then falls as a half cosine. A rate that another
        callback sets is kept. ``EarlyStopping(patience=3)`` stops, ``GradientNormClipping(1.0)``
        clips.
    net_params : dict, default=None
        More parameters of the ``skorch.NeuralNetClassifier``, such as ``{"optimizer":
        torch.optim.SGD, "optimizer__momentum": 0.9, "callbacks__schedule__warmup": 0.2}``. The
        optimizer is AdamW with ``optimizer__weight_decay=1e-4``. Those that ``fit`` sets are
        refused.
    batch_size : int or "auto", default="auto"
        Samples in a step; "auto" is 16 for up to 1,000 samples, else 32. It is 256 where only a
        head of more than 1,000 classes is trained.
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
    classes_ : ndarray of shape (n_classes,)
        The labels; for an indicator matrix the names of its columns, where it is a DataFrame, and
        else their positions.
    backbone_ : Backbone
        The pretrained network, unchanged.
    net_ : skorch.NeuralNetClassifier
        The net of the trained stages and the head. It takes outputs of the frozen stages and
        positions in ``classes_``. It can be pickled and trained further (``partial_fit``); the
        estimator predicts with the result.
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
    FineTunedRegressor : The same for regression targets.
    PretrainedFeatureExtractor : Fixed features for any estimator.

    Notes
    -----
    The frozen stages run once for each sample, in ``eval`` mode and without gradients, before
    training. The training loop uses only their output, so that they cannot change, and the number
    of epochs does not change the number of passes through them.

    References
    ----------
    Kumar, Raghunathan, Jones, Ma, Liang (2022). Fine-tuning can distort pretrained features and
    underperform out-of-distribution. ICLR. arXiv:2202.10054.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import FineTunedClassifier
    >>> digits = load_digits()
    >>> X, y = digits.images[:40] / 16, digits.target[:40]
    >>> model = FineTunedClassifier(max_epochs=2, random_state=0).fit(X[:30], y[:30])
    >>> model.predict(X[30:]).shape
    (10,)
    """

    classes_: np.ndarray
    _seen: set[Any]

    _parameter_constraints: dict[str, Any] = {
        **TunedEstimator._parameter_constraints,
        "head_init": [StrOptions({"auto", "probe", "random"}), dict],
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
        "rehearsal": [Count(0)],
    }

    def __init__(
        self,
        backbone: Any = "efficientnet_lite0",
        *,
        weights: Any = "default",
        image_size: int | None = None,
        image_shape: tuple[int, ...] | None = None,
        trainable: Any = "head",
        head: str | Callable[..., Any] = "linear",
        head_init: str | dict[Any, Any] = "auto",
        train_batch_norm: bool = False,
        augment: str | Callable[..., Any] | Augmentation | None = None,
        lr: float | str = "auto",
        layer_decay: float | str = "auto",
        loss: str | Callable[..., Any] = "auto",
        class_weight: dict[Any, float] | list[dict[Any, float]] | str | None = None,
        max_epochs: int | str = "auto",
        validation_fraction: float = 0.0,
        rehearsal: int = 0,
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
        self.class_weight = class_weight
        self.max_epochs = max_epochs
        self.validation_fraction = validation_fraction
        self.rehearsal = rehearsal
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
        """Train on labelled samples.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples
            As in :meth:`PretrainedFeatureExtractor.fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Labels of any type, or an indicator matrix for several labels a sample.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the loss and in the probe.
        X_val, y_val : default=None
            A validation set, as X and y, where ``validation_fraction`` would hold out samples of
            X: the epoch with the lowest loss on it is restored.
            Its samples are not trained, and its labels must be among those of y.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For unknown names, unreadable samples or labels that do not fit.
        FloatingPointError
            If the loss or a weight is not finite; the message says what to try.
        """
        samples = self._start_fit(X, y, X_val, y_val)
        self._learn(samples, y, sample_weight, None, self._continues(), (X_val, y_val))
        return self

    @with_callbacks
    @all_or_nothing
    def partial_fit(
        self,
        X: Samples,
        y: Targets,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Train further, with labels that may be new.

        Each new label adds a row to the head; before training, the other rows are the same, bit
        for bit. Each call trains ``max_epochs`` epochs with a new optimizer.

        Parameters
        ----------
        X, y
            As in :meth:`fit`; labels may be new.
        classes : array-like of shape (n_classes,), default=None
            All labels, if some of them come only in later calls.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the loss.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If ``backbone``, ``weights``, ``image_size``, ``trainable`` or ``head``
            changed since the first call.
        """
        labels = [] if classes is None else [check_labels(classes, name="classes")]
        continues = hasattr(self, "_tuned")
        if continues:
            self._check_settings(y)
            self._check_unchanged()
            samples = self._check_samples(X)
            labels.append(self.classes_)
        else:
            samples = self._start_fit(X, y)
        self._learn(samples, y, sample_weight, labels, continues)
        return self

    def predict_proba(self, X: Samples) -> np.ndarray:
        """Predict the probability of each class.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            In the order of ``classes_``. For an indicator matrix each column is the
            probability of that label.
        """
        outputs = self._outputs(X)
        return self._target.probabilities(outputs)

    def predict(self, X: Samples) -> np.ndarray:
        """Predict the most probable class, or all labels with a probability above one half.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_labels)
        """
        outputs = self._outputs(X)
        return self._target.decode(outputs)

    def score(self, X: Samples, y: Targets, sample_weight: ArrayLike | None = None) -> float:
        """Return the accuracy of predictions.

        Of label sets it is the share of samples whose labels are all right.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            True labels. Columns of a DataFrame must be those of ``fit``, in the same order.
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

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    # -- labels -----------------------------------------------------------------------------------

    def _learn(
        self,
        samples,
        y,
        sample_weight,
        labels: list | None,
        continues: bool,
        valid: tuple = (None, None),
    ) -> None:
        """Encode the labels, extend the head for new ones, and train.

        ``labels`` is None in ``fit``, and a list of further labels in ``partial_fit``, where more
        labels may follow. ``valid`` is X_val and y_val.
        """
        known = self.classes_.tolist() if continues else []
        y = self._find_target(samples, y, labels or (), continues)
        weight = check_weights(sample_weight, len(samples))
        self.classes_, target = self._target.classes, self._target.encode(y)
        classes, seen = self.classes_.tolist(), self._target.present(target[weight > 0])
        module: TrainableStages | None = None
        new: list[int] = []
        if continues:
            module = self._copy_module(self._tuned.module)
            rows = {label: i for i, label in enumerate(known)}
            sources = [rows.get(label) for label in classes]
            if sources != list(range(len(known))):
                grow(module.head, sources, len(known))
            # A label given only as classes= has a row in the head that was not trained yet.
            untrained = seen - self._seen
            new = [i for i, k in enumerate(classes) if sources[i] is None or k in untrained]
        total, kept = self._with_class_weight(target, weight, labels is not None)
        if not (total >= 0).all():
            raise ValueError("class_weight times sample_weight must be finite and not negative.")
        check_total(total, "class_weight times sample_weight")
        given = self._check_validation(*valid)
        plain = self._fit_rows(samples, target, total, module, new, kept, labels is None, given)
        # A label that this fit removed loses its row, which is new if the label comes back.
        self._seen = (self._seen | seen) & set(classes) if continues else seen
        self._keep(plain, target, weight)
        end_fit(self)

    def _find_target(self, samples, y, labels, continues: bool) -> np.ndarray:
        """Set the target of this fit and return the checked y."""
        earlier = self._target if continues else None
        names = column_names(y)
        self._target, y = class_target(y, len(samples), labels)
        if earlier is not None and (
            type(self._target) is not type(earlier)
            # Labels may be new; the columns of label sets may not.
            or (self._target.labels is None and self._target.n_outputs != earlier.n_outputs)
        ):
            raise ValueError(
                f"y is {self._target.name} with {self._target.n_outputs} labels, which is not what "
                f"this model was fitted for ({earlier.name}, {earlier.n_outputs} classes)."
            )
        if isinstance(earlier, IndicatorTarget):
            earlier.check_names(names, "y")
            self._target = earlier
        if self._target.labels is None and self.rehearsal:
            raise ValueError(
                "rehearsal= keeps rows of each class; an indicator matrix has no classes."
            )
        return y

    def _load_at(self, image_size: int | None) -> Backbone:
        backbone = super()._load_at(image_size)
        if not isinstance(self.head_init, dict):
            return backbone
        from ..backbones.zero_shot import with_prompts

        return naming("head_init", with_prompts, backbone, self.head_init)

    def _carry_rows(self, head: torch.nn.Module) -> list[int]:
        known: dict[Any, int] = getattr(self.backbone_, "label_rows", {})
        labels = self._target.labels
        if isinstance(self.head_init, dict) and labels is None:
            raise ValueError(
                "head_init describes each label by texts, and y has label sets (an indicator "
                "matrix), whose columns have no texts: give head_init='auto'."
            )
        if isinstance(self.head_init, dict) and known.keys().isdisjoint(labels or ()):
            raise ValueError(
                f"head_init describes the labels {list(known)!r:.200}, and none of them is in y."
            )
        if self.head_init in ("probe", "random") or known.keys().isdisjoint(labels or ()):
            return super()._carry_rows(head)
        sources = [known.get(label) for label in labels]
        old = list(stages_of(self.backbone_).values())[-1]
        try:
            carry_rows(old, head, sources, len(self.backbone_.classes or ()))
        except ValueError:
            if not isinstance(self.head_init, dict):
                raise
            raise ValueError(
                f"head_init describes the labels by texts, which become the rows of one linear "
                f"layer, and head={self.head!r:.80} is no such head: give head='linear', or "
                "head_init='auto' without texts."
            ) from None
        return [i for i, source in enumerate(sources) if source is None]

    def _label_rows(self) -> dict:
        # The row of a label that no sample had predicts that it never occurs.
        return {k: i for i, k in enumerate(self._target.labels or ()) if k in self._seen}

    def _with_class_weight(
        self, target, weight, more_may_come: bool
    ) -> tuple[np.ndarray, KeptRows | None]:
        """Apply ``class_weight`` to the rows of this call and to rows kept from earlier calls."""
        kept, every = None, target
        if self._kept:
            rows, weights = zip(*self._kept.values(), strict=True)
            codes = np.searchsorted(self.classes_, np.asarray(list(self._kept)))
            codes = np.repeat(codes, list(map(len, weights)))
            kept = KeptRows(np.concatenate(rows), codes, np.concatenate(weights))
            every = np.concatenate([target, codes])
        if self.class_weight is None:
            return weight, kept
        factors = self._target.class_factors
        factor = naming("class_weight", factors, self.class_weight, every, more_may_come)
        if kept is not None:
            kept = kept._replace(weight=kept.weight * factor[len(target) :])
        return weight * factor[: len(target)], kept

    def _keep(self, plain, target: np.ndarray, weight: np.ndarray) -> None:
        """Draw training rows of each label, new ones and those kept before, and keep them."""
        if not self.rehearsal:
            return
        trained = np.setdiff1d(np.flatnonzero(weight > 0), self.validation_indices_)
        generator = np.random.RandomState(self._tuned.plan.seed)
        kept: dict[Any, Any] = dict(self._kept or {})
        for code in np.unique(target[trained]):
            label, rows = self.classes_[code], trained[target[trained] == code]
            old_rows, old_weights = kept.get(label, (None, ()))
            table = Activations(plain, rows, old_rows)
            weights = np.concatenate([weight[rows], old_weights])
            chosen = np.sort(generator.permutation(len(table))[: self.rehearsal])
            kept[label] = table[chosen], weights[chosen]
        self._kept = dict(sorted(kept.items()))

    def _output_names(self):
        labels = self._target.labels  # an indicator matrix has no class names
        return None if labels is None else [str(label) for label in labels]
