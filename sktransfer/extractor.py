"""Fixed features: a pretrained network as a scikit-learn transformer."""

from __future__ import annotations

from numbers import Integral

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted

from .base import BackboneEstimator
from .engine import Recipe, engine_for, resolve_device
from .layers import resolve_layer

__all__ = ["PretrainedFeatureExtractor"]


class PretrainedFeatureExtractor(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, BackboneEstimator
):
    """Turn images into vectors with a network that others have trained.

    Parameters
    ----------
    backbone : str, torch.nn.Module, callable or Backbone, default="efficientnet_lite0"
        A name of :func:`sktransfer.list_backbones`, your own network or a function that makes
        one, or what :func:`sktransfer.load_backbone` returns. The default needs no download.
    weights : str, Path or None, default="default"
        "default" for the recommended published weights, the name of another published set,
        the path of a file, or None for random ones. For names only.
    layer : str, int, list of those, or None, default=None
        Where to stop: a name of :func:`sktransfer.list_layers` or a position among them (-1 is
        the network's output). A list gives several layers in one pass, side by side. None is
        the penultimate layer, the input of the network's own classifier.
    pooling : {"avg", "max", "flatten", "cls"} or callable, default="avg"
        How an activation becomes a vector: the mean or maximum over positions, every number,
        or the first token of a transformer. A callable is given the activation, a tensor
        ``(n, channels, height, width)`` or ``(n, tokens, channels)``, and returns ``(n, k)``.
    image_size : int, default=None
        Side of the square given to the network, in pixels. None is what its weights were
        trained with.
    image_shape : tuple of int, default=None
        ``(h, w)`` or ``(h, w, channels)`` of flattened images, where X is a table of them.
    batch_size : int or "auto", default="auto"
        Samples run at a time. "auto" keeps activations under about 20 MB, which is fastest on
        a CPU. The features do not depend on it.
    device : str, default="auto"
        "auto", "cpu", "cuda", "cuda:1", "mps". Resolved when used and never stored.
    precision : {"float32", "bfloat16"}, default="float32"
        What the network computes in. "bfloat16" is faster where the processor has it, and
        features differ by 1 to 5 %.
    memory : None, str, Path, FeatureStore or object with a location, default=None
        Where features are kept, by sample: with it, a grid search runs every image through
        the network once. A folder, a :class:`sktransfer.FeatureStore`, or a ``joblib.Memory``.
    n_jobs : int, default=None
        Threads that open and preprocess samples.
    verbose : int, default=0
        1 shows a progress bar for each call.

    Attributes
    ----------
    backbone_ : Backbone
        The loaded network, shared with every estimator that uses the same.
    layers_ : list of str
        The layers that are returned.
    n_features_in_ : int
        Numbers in a sample, where X is a table.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X is a table with names.

    See Also
    --------
    PretrainedClassifier : The network's own classes, or yours without training.

    Notes
    -----
    ``fit`` trains nothing: it loads the weights, finds the layers and checks X. Labels are
    ignored. So there is nothing that could leak from test samples into training.

    A sample's features depend on that sample alone, not on its batch or its place in X.

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> photos = load_sample_images().images
    >>> extractor = PretrainedFeatureExtractor().fit(photos)
    >>> extractor.transform(photos).shape
    (2, 1280)
    >>> extractor.get_feature_names_out()[0]
    'efficientnet_lite0_features_0'
    >>> PretrainedFeatureExtractor(layer="blocks.4", pooling="max").fit_transform(photos).shape
    (2, 40)
    """

    _parameter_constraints: dict = {
        **BackboneEstimator._parameter_constraints,
        "layer": [str, Integral, list, None],
        "pooling": [StrOptions({"avg", "max", "flatten", "cls"}), callable],
    }

    def __init__(
        self,
        backbone="efficientnet_lite0",
        *,
        weights="default",
        layer=None,
        pooling="avg",
        image_size=None,
        image_shape=None,
        batch_size="auto",
        device="auto",
        precision="float32",
        memory=None,
        n_jobs=None,
        verbose=0,
    ):
        self.backbone = backbone
        self.weights = weights
        self.layer = layer
        self.pooling = pooling
        self.image_size = image_size
        self.image_shape = image_shape
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.memory = memory
        self.n_jobs = n_jobs
        self.verbose = verbose

    def fit(self, X, y=None):
        """Load the network and find the layers. Nothing is trained.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples
            Paths, PIL images, arrays ``(h, w)`` or ``(h, w, channels)`` (uint8, or float in
            [0, 1]), tensors ``(channels, h, w)``; for an own module without preprocessing, an
            array ``(n_samples, …)`` of numbers.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For an unknown backbone or layer (the nearest names are offered), and for an X that
            is no list of samples.
        FileNotFoundError
            For weights that are not on this machine and cannot be fetched.
        """
        samples = self._fit_backbone(X)
        asked = self.layer if isinstance(self.layer, list) else [self.layer]
        if not asked:
            raise ValueError("layer=[] asks for no layer at all.")
        self.layers_ = [resolve_layer(self.backbone_, layer) for layer in asked]
        self._widths = self._measure_widths(self._probe(samples))
        return self

    def _measure_widths(self, probe: torch.Tensor) -> list[int]:
        """Return the number of features of each layer."""
        recipe = Recipe(self.backbone_, tuple(self.layers_), self.pooling, self.precision)
        widths = engine_for(recipe, resolve_device(self.device)).widths(probe)
        return [widths[layer] for layer in self.layers_]

    def transform(self, X):
        """Run samples through the network up to the layer and pool what comes out.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples
            As in :meth:`fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_features), float32
            The layers side by side, in the order in which they were asked for.

        Raises
        ------
        UnreadableSamplesError
            A ``ValueError`` that names the samples that cannot be read, and why.
        """
        samples = self._transform_samples(X)
        tables = self._features(samples, tuple(self.layers_), self.pooling)
        return np.hstack([tables[layer] for layer in self.layers_])

    @property
    def _n_features_out(self) -> int:
        return sum(self._widths)

    def get_feature_names_out(self, input_features=None):
        """Name the features after the backbone and the layer.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray of str, shape (n_features,)
            ``efficientnet_lite0_features_0`` and on; with ``layer``, its name instead of
            "features".
        """
        check_is_fitted(self)
        labels = ["features"] if self.layer is None else self.layers_
        names = [
            f"{self.backbone_.name}_{label}_{i}"
            for label, width in zip(labels, self._widths, strict=True)
            for i in range(width)
        ]
        return np.asarray(names, dtype=object)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # always float32
        return tags
