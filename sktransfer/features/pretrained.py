"""Use a pretrained classifier directly, with its own classes or mapped onto yours."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin
from sklearn.utils import Tags
from torch import nn

from .._compat.sklearn import Interval, StrOptions
from ..backbones import Backbone, resolve_layer
from ..data import check_labels, check_weights, sorted_labels
from ..data.types import Samples, Targets
from .base import BackboneEstimator, Count, reported
from .output import Output, check_outputs, layers_of


class PretrainedClassifier(ClassifierMixin, BackboneEstimator):
    """Classify with a pretrained network, without training.

    Parameters
    ----------
    backbone : str, torch.nn.Module, callable or Backbone, default="efficientnet_lite0"
        As in :class:`PretrainedFeatureExtractor`. Its outputs are used as logits.
    weights : str, Path or None, default="default"
        As in :class:`PretrainedFeatureExtractor`.
    class_map : dict, "learn" or None, default=None
        None uses the network's own classes. A dictionary maps each of your labels to the
        network's classes that mean it, by name, position or WordNet id; the probability of a
        label is that of its classes among all classes in the dictionary. "learn" estimates
        p(label | class of the network) from labelled samples.
    prompts : dict or None, default=None
        Instead of ``class_map``, for networks that read texts: maps each of your labels to a text
        that describes it, or to a list of texts. A sample is compared with the texts of each
        label (zero-shot classification). :func:`make_prompts` makes the dictionary by templates.
        For sentence encoders, and networks of transformers for images and texts, such as CLIP and
        SigLIP.
    smoothing : float, default=1.0
        For ``class_map="learn"``: the number of pseudo-samples, distributed as the labels are,
        that each class of the network starts with. 0 is the estimate without smoothing.
    image_size : int, list of int or None, default=None
        Side of the square given to the network, in pixels; None is what its weights were trained
        with. With a list, probabilities are the mean over the sizes.
    image_shape : tuple of int, default=None
        As in :class:`PretrainedFeatureExtractor`, like the parameters below.
    batch_size : int or "auto", default="auto"
        Samples run at a time.
    device : str, default="auto"
        Where the network runs.
    engine : {"auto", "torch", "openvino", "onnxruntime", "compile"}, default="auto"
        The library that runs the network.
    precision : {"float32", "bfloat16"}, default="float32"
        The type in which the network computes.
    memory : None, str, Path, FeatureStore or object with a location, default=None
        Where outputs are kept, by sample.
    n_jobs : int, "auto" or None, default="auto"
        As in :class:`PretrainedFeatureExtractor`.
    verbose : int, default=0
        1 shows a progress bar for each call.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The network's own classes in its order, or your labels, sorted.
    backbone_ : Backbone
        The loaded network.
    image_size_ : int, list of int or None
        The size or sizes given to the network; None where its input is not a square image.
    outputs_ : list of Output
        What is read from the network: its last layer, at each size.
    class_positions_ : dict
        For a dictionary as ``class_map``: each label, with the positions of its classes.
    conditional_ : ndarray of shape (n_classes_of_the_network, n_classes)
        p(label | class of the network), for ``class_map="learn"``.
    truncated_rate_ : float
        For sentence encoders: the share of tokens that is cut off from the texts of ``fit``.
    n_features_in_ : int
        Numbers in a sample, where X is a table.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where X is a table with names.
    execution_ : dict
        As in :class:`PretrainedFeatureExtractor`.

    See Also
    --------
    PretrainedFeatureExtractor : Extract features with the same networks.

    Notes
    -----
    With ``class_map="learn"`` the prediction is the empirical predictor of Nguyen et al.
    (2020), equation 2:

    .. math:: p(y | x) = \\sum_z \\hat p(y | z) \\, \\theta(x)_z

    where theta(x) are the network's probabilities over its classes z and the estimate is

    .. math::
        \\hat p(y | z) = \\frac{\\sum_{i: y_i = y} \\theta(x_i)_z + \\alpha \\pi_y}
                            {\\sum_i \\theta(x_i)_z + \\alpha}

    with pi the labels' frequencies and alpha the ``smoothing``, which is not in the paper.
    Without it, rounding errors would decide for a class that no training sample resembles.

    References
    ----------
    Nguyen, Hassner, Seeger, Archambeau (2020). LEEP: A new measure to evaluate transferability
    of learned representations. ICML. arXiv:2002.12462.

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sktransfer import PretrainedClassifier
    >>> photos = load_sample_images().images
    >>> PretrainedClassifier().fit(photos).predict(photos).tolist()
    ['palace', 'daisy']
    >>> by_hand = PretrainedClassifier(class_map={"plant": ["daisy"], "house": ["palace", 497]})
    >>> by_hand.fit(photos).predict(photos).tolist()
    ['house', 'plant']
    """

    classes_: np.ndarray
    class_positions_: dict[Any, list[int]]
    conditional_: np.ndarray
    _parameter_constraints: dict[str, Any] = {
        **BackboneEstimator._parameter_constraints,
        "image_size": [Count(1), list, None],
        "class_map": [dict, StrOptions({"learn"}), None],
        "prompts": [dict, None],
        "smoothing": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        backbone: Any = "efficientnet_lite0",
        *,
        weights: Any = "default",
        class_map: dict[Any, Any] | str | None = None,
        prompts: dict[Any, Any] | None = None,
        smoothing: float = 1.0,
        image_size: int | list[int] | None = None,
        image_shape: tuple[int, ...] | None = None,
        batch_size: int | str = "auto",
        device: str = "auto",
        engine: str = "auto",
        precision: str = "float32",
        memory: Any = None,
        n_jobs: int | str | None = "auto",
        verbose: int = 0,
    ):
        self.backbone = backbone
        self.weights = weights
        self.class_map = class_map
        self.prompts = prompts
        self.smoothing = smoothing
        self.image_size = image_size
        self.image_shape = image_shape
        self.batch_size = batch_size
        self.device = device
        self.engine = engine
        self.precision = precision
        self.memory = memory
        self.n_jobs = n_jobs
        self.verbose = verbose

    @reported()
    def fit(
        self, X: Samples, y: Targets | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Load the network and find the classes.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples
            As in :meth:`PretrainedFeatureExtractor.fit`. Used only for
            ``class_map="learn"``.
        y : array-like of shape (n_samples,), default=None
            Labels, needed for ``class_map="learn"`` and ignored otherwise.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples for ``class_map="learn"``, ignored otherwise.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For a name in ``class_map`` that the network does not have (the nearest names are in
            the message), a network without classes, or ``prompts`` for one that reads no texts.
        """
        if self.prompts is not None and self.class_map is not None:
            raise ValueError(
                "class_map and prompts both say what your labels are: give one of them. "
                "load_backbone(name, prompts=…) is a network whose classes class_map can map."
            )
        samples = self._fit_backbone(X)
        self._find_sizes(samples)
        for name in ("conditional_", "class_positions_"):  # of an earlier fit
            self.__dict__.pop(name, None)
        declared = self.backbone_.classes
        self._width = n_outputs = list(layers_of(self.backbone_, samples).values())[-1].width
        if declared is not None and len(declared) != n_outputs:
            raise ValueError(
                f"Backbone {self.backbone_.name!r} declares {len(declared)} classes and has "
                f"{n_outputs} outputs."
            )
        if self.class_map is None:
            self.classes_ = np.array(self.backbone_.labels or self._source_classes())
        elif isinstance(self.class_map, str):
            self._learn_classes(samples, y, sample_weight)
        else:
            self.class_positions_ = resolve_class_map(self.class_map, self.backbone_, n_outputs)
            self.classes_ = np.array(list(self.class_positions_))
        return self

    def _source_classes(self) -> tuple[str, ...]:
        if self.backbone_.classes is None:
            raise ValueError(
                f"Backbone {self.backbone_.name!r} declares no classes: give them as "
                "load_backbone(module, classes=[…]), or use class_map='learn'. With a network that "
                "reads texts, describe your classes: prompts={label: text, …}."
            )
        return self.backbone_.classes

    def _learn_classes(self, samples, y, sample_weight) -> None:
        from ..transferability import labels_given_classes  # imports models of scikit-learn

        if y is None:
            raise ValueError("class_map='learn' requires y to be passed, but the target y is None.")
        y = check_labels(y, len(samples), for_training=True)
        self.classes_, codes = np.unique(y, return_inverse=True)
        weight = check_weights(sample_weight, len(samples))
        theta = self._probabilities(samples, ClassProbabilities())  # of the network's classes
        target = np.eye(len(self.classes_))[codes]
        self.conditional_ = labels_given_classes(theta, target, self.smoothing, weight)

    @property
    def outputs_(self) -> list[Output]:
        layer = resolve_layer(self.backbone_, -1)
        return [Output(backbone, layer, "avg", self._width) for backbone in self._sized]

    def _usual_run(self):
        return self.outputs_[:1], {}

    def _probabilities(self, samples, of_logits: ClassProbabilities) -> np.ndarray:
        """Compute probabilities from the network's logits at each size."""
        computed = self._compute(samples, self.outputs_)
        return of_logits([torch.from_numpy(check_outputs(logits)) for logits in computed]).numpy()

    def predict_proba(self, X: Samples) -> np.ndarray:
        """Predict the probability of each class.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            In the order of ``classes_``.
        """
        return self._probabilities(self._transform_samples(X), ClassProbabilities.of(self))

    def predict(self, X: Samples) -> np.ndarray:
        """Predict the most probable class.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]

    def predict_top_k(self, X: Samples, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """Predict the k most probable classes and their probabilities.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples
        k : int, default=5
            At most the number of classes.

        Returns
        -------
        classes : ndarray of shape (n_samples, k)
            The most probable first.
        probabilities : ndarray of shape (n_samples, k)

        Raises
        ------
        ValueError
            If k is not between 1 and the number of classes.
        """
        probabilities = self.predict_proba(X)
        if not 1 <= k <= len(self.classes_):
            raise ValueError(f"k={k}: give 1 to {len(self.classes_)}, the number of classes.")
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
        return self.classes_[order], np.take_along_axis(probabilities, order, axis=1)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.class_map == "learn"
        return tags


# -- the class map ---------------------------------------------------------------------------------


class ClassProbabilities(nn.Module):
    """Turn the network's logits, at one size or several, into probabilities of the classes.

    Parameters
    ----------
    groups : iterable of sequence of int, default=None
        The network's classes that mean each label, by position.
    conditional : ndarray of shape (n_source_classes, n_classes), default=None
        p(label | class of the network).
    """

    conditional: torch.Tensor | None
    groups: list[Sequence[int]] | None

    def __init__(
        self,
        groups: Iterable[Sequence[int]] | None = None,
        conditional: np.ndarray | None = None,
    ):
        super().__init__()
        self.groups: list[Sequence[int]] | None = None if groups is None else list(groups)
        table = None if conditional is None else torch.from_numpy(conditional)
        self.register_buffer("conditional", table)

    @classmethod
    def of(cls, estimator: PretrainedClassifier) -> Self:
        """Return those that a fitted estimator predicts."""
        if estimator.class_map is None:
            return cls()
        if estimator.class_map == "learn":
            return cls(conditional=estimator.conditional_)
        return cls(estimator.class_positions_.values())

    def forward(self, logits: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the mean over sizes, ``(n_samples, n_classes)``, float64."""
        mapped = [x.double() for x in logits]
        if self.groups is not None:
            mapped = [mapped_logits(x, self.groups) for x in mapped]
        mean = torch.stack([x.softmax(1) for x in mapped]).mean(0)
        return mean if self.conditional is None else mean @ self.conditional


def mapped_logits(logits: torch.Tensor, groups: Iterable[Sequence[int]]) -> torch.Tensor:
    """Return the logit of each label: that of the sum of the probabilities of its classes.

    From ``(n_samples, n_source_classes)`` to ``(n_samples, n_labels)``. A class may be in several
    groups.
    """
    return torch.stack([logits[:, list(group)].logsumexp(1) for group in groups], dim=1)


def resolve_class_map(
    class_map: Mapping[Any, Any], backbone: Backbone, n_outputs: int
) -> dict[Any, list[int]]:
    """Turn names, WordNet ids and positions of classes into positions, and sort the labels.

    A ``ValueError`` for names that the network does not have, a class that two labels name, or
    labels of several types.
    """
    places: dict = {}
    for names in (backbone.class_ids, backbone.classes):
        places = {name.lower(): i for i, name in enumerate(names or ())} | places
    for names in (backbone.class_ids, backbone.classes):  # as written goes before lower case
        places |= {name: i for i, name in enumerate(names or ())}
    resolved = {}
    for label in sorted_labels(class_map, "class_map"):
        sources = class_map[label]
        sources = [sources] if isinstance(sources, str | Integral) else list(sources)
        if not sources:
            raise ValueError(f"class_map[{label!r}] names no class of the network.")
        # A class may be named twice, by its name and its position; it counts once.
        positions = [_position_of(source, label, places, n_outputs) for source in sources]
        resolved[label] = list(dict.fromkeys(positions))
    _check_once(resolved, backbone)
    return resolved


def _check_once(resolved: dict[Any, list[int]], backbone: Backbone) -> None:
    """Raise an error if two labels have a class in common, whose probability would count twice."""
    label_of: dict[int, Any] = {}
    for label, positions in resolved.items():
        for position in positions:
            other = label_of.setdefault(position, label)
            if other != label:
                name = backbone.classes[position] if backbone.classes else position
                raise ValueError(
                    f"class_map gives the class {name!r} of the network to two labels, {other!r} "
                    f"and {label!r}: leave it to one of them."
                )


def _position_of(source, label, places: dict, n_outputs: int | None) -> int:
    if isinstance(source, Integral):
        if 0 <= int(source) and (n_outputs is None or int(source) < n_outputs):
            return int(source)
        raise ValueError(
            f"class_map[{label!r}]: {source} is no class; the network has {n_outputs}."
        )
    for name in (str(source), str(source).lower()):
        if name in places:
            return places[name]
    near = difflib.get_close_matches(str(source).lower(), places, n=5, cutoff=0.4)
    raise ValueError(
        f"class_map[{label!r}]: {source!r} is not a class of the network. Nearest: {near}"
    )
