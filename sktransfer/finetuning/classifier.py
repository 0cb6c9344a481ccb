"""Fine-tune the end of a pretrained network, or put a new classifier on top of it."""

from __future__ import annotations

from numbers import Real

from sklearn.base import ClassifierMixin
from sklearn.callback import with_callbacks
from sklearn.utils._param_validation import Interval, StrOptions

from ..data import check_labels
from ..features import Count, all_or_nothing
from .labels import LabelTraining

__all__ = ["FineTunedClassifier"]


class FineTunedClassifier(ClassifierMixin, LabelTraining):
    """Train a new classifier on a pretrained network, and as much of the network as you like.

    Parameters
    ----------
    backbone : str, torch.nn.Module, callable, Backbone or fitted model, \
default="efficientnet_lite0"
        As in :class:`PretrainedFeatureExtractor`; or a fitted model of this class, whose tuned
        weights are then the beginning, with its head's rows for labels that both know. Its
        head must be of the kind that ``head`` names.
    weights : str, Path or None, default="default"
        As in :class:`PretrainedFeatureExtractor`.
    trainable : "head", "all", int or str, default="head"
        What is trained. "head": the new classifier only; the network computes each sample
        once. A number: that many of the last stages with weights. The name of a layer: from
        there up. "all": everything.
    head : {"linear", "mlp"} or callable, default="linear"
        "mlp" has one hidden layer. A callable takes ``(n_features, n_outputs)`` and returns a
        module.
    dropout : float, default=0.0
        Probability for each feature before the head's last layer.
    head_init : {"auto", "probe", "random"}, default="auto"
        "probe" solves regularised logistic regression on the frozen features first, so that
        training begins where :class:`PretrainedFeatureExtractor` and a linear classifier end
        (LP-FT, Kumar et al. 2022). "auto" is that for a linear head, "random" otherwise, and
        where the backbone is a fitted model its head for the labels that both know.
    train_batch_norm : bool, default=False
        Whether batch norm in the trained stages adapts its statistics.
    augment : {"light", "strong"}, callable or None, default=None
        Random changes to training images. "light" crops and mirrors; "strong" adds colour,
        geometry and erasing. A callable is given a uint8 tensor ``(3, h, w)``, as torchvision's
        v2 transforms are.
    n_views : int or None, default=4
        With ``augment``: how many fixed views of each image there are; their frozen part is
        computed once. None makes new ones in each epoch, through the whole network.
    lr : float or "auto", default=1e-4
        The highest learning rate. "auto" runs a range test on training rows. A head that
        begins at random learns ten times as fast.
    layer_decay : float, default=1.0
        Factor on the learning rate for each stage towards the input.
    weight_decay : float, default=1e-4
        Of the optimizer.
    optimizer : {"adamw", "adam", "sgd"} or class, default="adamw"
        "sgd" has a momentum of 0.9.
    warmup : float, default=0.1
        Share of the steps in which the learning rate rises; then it falls as a half cosine.
    label_smoothing : float, default=0.0
        As in ``torch.nn.CrossEntropyLoss``.
    clip_norm : float, default=None
        Bound on the norm of the gradient.
    gradual_unfreezing : bool, default=False
        Train the head alone in the first epoch, and one more stage in each further one.
    max_epochs : int, default=10
        Passes over the training rows. With 0 the model is the probe.
    validation_fraction : float, default=0.0
        Share of rows set aside, of each class. The best epoch on them is restored, and the state
        before training is a candidate. With 0 all rows train.
    patience : int, default=None
        Epochs without a better validation loss after which training stops.
    class_weight : dict, list of dict, "balanced" or None, default=None
        As in scikit-learn: a list, with one for each column, for an indicator matrix.
    rehearsal : int, default=0
        Training activations per class kept from each call with their weights, to be mixed into
        later calls of ``partial_fit``, so that old classes do not fade. They are part of a
        pickle. Not for an indicator matrix.
    warm_start : bool, default=False
        Whether a second ``fit`` goes on from the first one's weights.
    callbacks : list of skorch callbacks, default=None
        Copies are added to the loop; ``net_.callbacks_`` has them. A learning rate
        scheduler (``LRScheduler``) among them replaces the schedule that ``warmup`` belongs to, and
        a rate that another callback sets stays.
    net_params : dict, default=None
        More parameters of the ``skorch.NeuralNetClassifier``, such as
        ``{"optimizer__betas": (0.9, 0.99)}``. Those that have a parameter here are refused.
    image_size : int, default=None
        As in :class:`PretrainedFeatureExtractor`.
    image_shape : tuple of int, default=None
        As in :class:`PretrainedFeatureExtractor`.
    batch_size : int or "auto", default="auto"
        Rows in a training step; "auto" is 32, or all if they are fewer.
    device : str, default="auto"
        As in :class:`PretrainedFeatureExtractor`.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        What the network computes in. "auto" is bfloat16 on a CUDA device, else float32.
    cache_dtype : {"float32", "float16"}, default="float32"
        What activations at the cut are kept in.
    memory : None, str, Path, FeatureStore or object with a location, default=None
        Where activations at the cut are kept, by sample: shared by folds, candidates and
        processes.
    n_jobs : int, default=None
        Threads that open and preprocess samples.
    random_state : int, RandomState instance or None, default=None
        Seed of the head, the order of rows, dropout, and the split for validation.
    verbose : int, default=0
        1 shows progress bars, 2 skorch's table.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels; for an indicator matrix the numbers of its columns.
    backbone_ : Backbone
        The pretrained network, unchanged.
    net_ : skorch.NeuralNetClassifier
        What trained the stages above the cut.
    frozen_layers_, trained_layers_ : list of str
        The stages below and above the cut.
    history_ : list of dict
        One entry an epoch: losses, durations.
    best_epoch_ : int
        The epoch whose weights are used; 0 is the state before training.
    validation_indices_ : ndarray of int
        Positions of the rows that were set aside.
    lr_ : float
        The learning rate used.
    n_features_in_ : int
        Numbers in a sample, where X is a table.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X is a table with names.

    See Also
    --------
    FineTunedRegressor : The same for numbers.
    PretrainedFeatureExtractor : Fixed features for any estimator.

    Notes
    -----
    The frozen stages run once for each sample, in ``eval`` mode and without gradients, before
    training begins; the loop sees only what they computed. So they cannot change, and ten
    epochs cost no more passes through them than one.

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

    _parameter_constraints: dict = {
        **LabelTraining._parameter_constraints,
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
        "rehearsal": [Count(0)],
    }

    def __init__(
        self,
        backbone="efficientnet_lite0",
        *,
        weights="default",
        trainable="head",
        head="linear",
        dropout=0.0,
        head_init="auto",
        train_batch_norm=False,
        augment=None,
        n_views=4,
        lr=1e-4,
        layer_decay=1.0,
        weight_decay=1e-4,
        optimizer="adamw",
        warmup=0.1,
        label_smoothing=0.0,
        clip_norm=None,
        gradual_unfreezing=False,
        max_epochs=10,
        validation_fraction=0.0,
        patience=None,
        class_weight=None,
        rehearsal=0,
        warm_start=False,
        callbacks=None,
        net_params=None,
        image_size=None,
        image_shape=None,
        batch_size="auto",
        device="auto",
        precision="auto",
        cache_dtype="float32",
        memory=None,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.backbone = backbone
        self.weights = weights
        self.trainable = trainable
        self.head = head
        self.dropout = dropout
        self.head_init = head_init
        self.train_batch_norm = train_batch_norm
        self.augment = augment
        self.n_views = n_views
        self.lr = lr
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.optimizer = optimizer
        self.warmup = warmup
        self.label_smoothing = label_smoothing
        self.clip_norm = clip_norm
        self.gradual_unfreezing = gradual_unfreezing
        self.max_epochs = max_epochs
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.class_weight = class_weight
        self.rehearsal = rehearsal
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.net_params = net_params
        self.image_size = image_size
        self.image_shape = image_shape
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.cache_dtype = cache_dtype
        self.memory = memory
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    @all_or_nothing
    def fit(self, X, y, sample_weight=None):
        """Train on labelled samples.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples
            As in :meth:`PretrainedFeatureExtractor.fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Labels of any type, or an indicator matrix for several labels a sample.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the loss and in the probe.

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
        before = (self._tuned.tail, self.classes_) if self._goes_on() else None
        samples = self._begin(X, y)
        self._learn(samples, y, sample_weight, None, before)
        return self

    @with_callbacks
    @all_or_nothing
    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Go on training, with labels that may be new.

        A label that was not known gets a row of its own in the head; the rows of the others
        are the same, bit for bit, before training begins. Each call trains ``max_epochs``
        epochs with a new optimizer.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples
        y : array-like of shape (n_samples,)
        classes : array-like, default=None
            Labels to be known from the first call on, where some come later.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If ``backbone``, ``weights``, ``image_size``, ``trainable``, ``head`` or ``dropout`` was
            set anew since the first call.
        """
        before, labels = None, [] if classes is None else [check_labels(classes, name="classes")]
        if hasattr(self, "_tuned"):
            self._check_settings(y)
            self._check_unchanged()
            samples = self._check_samples(X)
            self._announce()
            before = (self._tuned.tail, self.classes_)
            labels.append(self.classes_)
        else:
            samples = self._begin(X, y)
        self._learn(samples, y, sample_weight, labels, before)
        return self

    def predict_proba(self, X):
        """Give the probability of each class.

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

    def predict(self, X):
        """Give the most probable class, or all labels above one half.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_labels)
        """
        outputs = self._outputs(X)
        return self._target.decode(outputs)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
