"""Extract fixed features: a pretrained network as a scikit-learn transformer."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from ..data.types import Samples
from .base import Count
from .lazy import first_sample, is_lazy, transform_lazily
from .output_choice import ChosenOutputs
from .poolings import ALL_POOLINGS, is_learned
from .sizes import SeveralSizes

__all__ = ["PretrainedFeatureExtractor", "learns_from_samples"]


class PretrainedFeatureExtractor(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ChosenOutputs):
    """Turn images or texts into vectors with a pretrained network.

    Parameters
    ----------
    backbone : str, torch.nn.Module, callable or Backbone, default="efficientnet_lite0"
        A name of :func:`sktransfer.list_backbones`, your own network or a function that makes
        one, or what :func:`sktransfer.load_backbone` returns. The default needs no download.
    weights : str, Path, word vectors or None, default="default"
        "default" for the recommended published weights, the name of another published set,
        the path of a file, or None for random ones. For names only. For "word-vectors" also
        vectors in memory, in every form that :func:`sktransfer.load_word_vectors` takes;
        ``clone`` copies such an object, so that a search copies it for each fit. It shares what
        that function returns, if this is given as ``backbone``.
    layer : str, int, list of those, or None, default=None
        The layer whose output is used: a name of :func:`sktransfer.list_layers` or a position
        among them (-1 is the network's output). A list gives several layers in one pass, side by
        side. None is the penultimate layer, the input of the network's own classifier. "auto"
        compares layers in ``fit`` by a linear model in cross-validation, and takes the
        penultimate one unless another is clearly better. It needs a target.
    task : {"auto", "classification", "regression"}, default="auto"
        With ``layer="auto"`` or ``image_size="auto"``, whether y has labels or regression targets.
        "auto" takes whole numbers as labels.
    pooling : str, callable or list, default="avg"
        How an activation becomes a vector: "avg" is the mean over positions, "max"
        the maximum, "grid" the means of the four quadrants of an image, "flatten" every number,
        "cls" the first token of a transformer. A callable is given the activation, a tensor
        ``(n, channels, height, width)`` or ``(n, tokens, channels)``, and returns ``(n, k)``.
        For word vectors also "idf", "sif" and "zipf": means weighted by how rare a word is, which
        ``fit`` counts, or which its place in the table tells (see Notes). A list gives several,
        side by side. For texts and ``layer=None``, "avg" is the output of the encoder, and the
        others pool the tokens of the last layer that has tokens.
    n_components : int, float or None, default=None
        The number of principal components of the features to return, which ``fit`` learns; a
        number between 0 and 1 is the share of their variance to keep. With numeric columns beside
        images, a thousand features would outweigh them. None returns the features. ``memory``
        keeps the features.
    image_size : int, list of int, "auto" or None, default=None
        Side of the square given to the network, in pixels. None is what its weights were
        trained with. A list gives the features of several sizes, side by side: each image is
        opened once, and passes the network once at each size. "auto" compares 0.57, 1, 1.29 and
        1.43 times the native size in ``fit`` by a linear model in cross-validation, and takes
        the native one unless another is clearly better. It needs a target.
    image_shape : tuple of int, default=None
        ``(h, w)`` or ``(h, w, channels)`` of flattened images, where X is a table of them.
    long_texts : {"truncate", "chunk"}, default=None
        What happens to a text of more tokens than the network takes: "truncate" cuts it off,
        "chunk" divides it into chunks of the greatest length, which run through the network one
        by one, so that pooling covers all tokens. None is "truncate" for names, and for a
        :class:`Backbone` or fitted estimator what it does.
    batch_size : int or "auto", default="auto"
        Samples run at a time. "auto" keeps activations under about 20 MB, which is fastest on
        a CPU. It changes the features by no more than the rounding of float32.
    device : str, default="auto"
        "auto", "cpu", "cuda", "cuda:1", "mps". Resolved when used and never stored.
    engine : {"auto", "torch", "openvino", "onnxruntime", "compile"}, default="auto"
        The library that runs the network. "auto" is "torch". "openvino" and "onnxruntime" run on
        the CPU, are often faster, and need 2 to 30 seconds to convert the network; with ``memory``
        the result is kept on disk. "compile" is ``torch.compile``, for many images on a GPU, where
        it has not been run yet. All give the same features up to the rounding of float32. A
        network that cannot be converted is an error.
    precision : {"float32", "bfloat16"}, default="float32"
        The type in which the network computes. "bfloat16" is faster on processors that support
        it. The features of an image then differ by some per cent (relative L2 distance), with
        EfficientNet-Lite0 by up to 7 %.
    memory : None, str, Path, FeatureStore or object with a location, default=None
        Where features are kept by sample, so that a grid search runs every sample through the
        network once. A folder, which may be the target of :func:`sktransfer.extract_to`, a
        :class:`sktransfer.FeatureStore`, or a ``joblib.Memory``.
    n_jobs : int, "auto" or None, default="auto"
        Threads that read, open and preprocess samples while the network runs. "auto" is the number
        of cores that it does not use, at least one and at least a quarter of all. None and 1 are no
        threads. A negative number counts back from the number of cores, as in joblib.
    missing : {"error", "zero", "nan"}, default="error"
        What a missing cell of a table, None or NaN, becomes: an error, or a row of zeros or NaN.
    on_error : {"raise", "nan"}, default="raise"
        What ``transform`` does about samples that cannot be read. "raise" names all of them in an
        error. "nan" returns a row of NaN for each, for which the next estimator needs a rule: an
        imputer, or trees that take missing values. ``fit`` leaves out texts that are missing.
    verbose : int, default=0
        1 shows a progress bar for each call.

    Attributes
    ----------
    backbone_ : Backbone
        The loaded network, shared with every estimator that uses the same.
    layers_ : list of str
        The layers that are returned, each once.
    layer_choice_ : LayerChoice
        With ``layer="auto"``, the score of a linear probe on each layer.
    image_size_ : int, list of int or None
        The size or sizes given to the network; None where its input is not a square image.
    size_choice_ : SizeChoice
        With ``image_size="auto"``, the score of a linear probe at each size.
    outputs_ : list of Output
        What is read from the network, in the order of the features: a record for each size, layer
        and pooling, with its number of features. For each column of samples the same.
    output_names_ : list of str
        A name for each of them, of which the names of the features are made.
    columns_ : tuple
        The names of the columns of samples; ``(0,)`` where X is no table of several.
    n_features_out_ : int
        The number of features.
    pca_ : list of PCA
        With ``n_components``, the principal components of each column of samples.
    token_weights_ : dict of str to TokenWeights
        The weights of words under the poolings "idf", "sif" and "zipf".
    oov_rate_ : float
        For word vectors: the share of words in the texts of ``fit`` that have no vector.
    truncated_rate_ : float
        For sentence encoders: the share of tokens that is cut off from the texts of ``fit``.
    bad_samples_ : dict of int to str
        With ``on_error="nan"``: the positions of the samples that the last call of ``transform``
        could not read, and the causes.
    n_features_in_ : int
        Numbers in a sample, where X is a table.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where X is a table with names.
    execution_ : dict
        How the network is run now: "engine", "device", "precision", "layout" (of images in
        memory) and "batch_size", None where it depends on the samples.

    See Also
    --------
    PretrainedClassifier : Predict the network's own classes, or yours without training.
    probe_layers : Score the layers that ``layer="auto"`` compares.

    Notes
    -----
    ``fit`` trains nothing: it loads the weights, finds the layers and checks X. Labels are
    ignored. There are three exceptions, which use the training samples alone, so that nothing
    leaks from test samples: the poolings "idf" and "sif" count the words of the texts;
    ``n_components`` computes the features of all samples; ``layer="auto"`` and
    ``image_size="auto"`` compute those of up to 600 samples and use their labels. With ``memory``,
    ``transform`` does not compute these again.

    "idf" weights a word by ``ln((1 + n) / (1 + df)) + 1``, as scikit-learn does; "sif" by
    ``a / (a + p)``, and removes the first singular vector of the training texts (Arora et al.
    2017). A word that ``fit`` has not seen counts as the rarest. "zipf" has the weights of "sif",
    where p follows from the rank of a word by Zipf's law: ``1 / (rank (ln n + 0.5772))``, if the n
    words of the table are sorted by frequency, as in files of word vectors.

    The features of a sample depend on that sample alone. Its batch and its place in X change them
    by no more than the rounding of float32: a relative L2 distance of 1e-5.

    References
    ----------
    Arora, Liang, Ma (2017). A simple but tough-to-beat baseline for sentence embeddings. ICLR.

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

    _parameter_constraints: dict[str, Any] = {
        **SeveralSizes._parameter_constraints,
        "image_size": [*SeveralSizes._parameter_constraints["image_size"], StrOptions({"auto"})],
        "layer": [str, Integral, list, None],
        "task": [StrOptions({"auto", "classification", "regression"})],
        "pooling": [StrOptions(set(ALL_POOLINGS)), callable, list],
        "n_components": [Count(1), Interval(Real, 0, 1, closed="neither"), None],
        "missing": [StrOptions({"error", "zero", "nan"})],
        "on_error": [StrOptions({"raise", "nan"})],
    }

    def __init__(
        self,
        backbone: Any = "efficientnet_lite0",
        *,
        weights: Any = "default",
        layer: int | str | Sequence[int | str | None] | None = None,
        task: str = "auto",
        pooling: Any = "avg",
        n_components: int | float | None = None,
        image_size: int | Sequence[int] | str | None = None,
        image_shape: tuple[int, ...] | None = None,
        long_texts: str | None = None,
        batch_size: int | str = "auto",
        device: str = "auto",
        engine: str = "auto",
        precision: str = "float32",
        memory: Any = None,
        n_jobs: int | str | None = "auto",
        missing: str = "error",
        on_error: str = "raise",
        verbose: int = 0,
    ):
        self.backbone = backbone
        self.weights = weights
        self.layer = layer
        self.task = task
        self.pooling = pooling
        self.n_components = n_components
        self.image_size = image_size
        self.image_shape = image_shape
        self.long_texts = long_texts
        self.batch_size = batch_size
        self.device = device
        self.engine = engine
        self.precision = precision
        self.memory = memory
        self.n_jobs = n_jobs
        self.missing = missing
        self.on_error = on_error
        self.verbose = verbose

    def fit(self, X: Samples, y: object | None = None) -> Self:
        """Load the network and find the layers. Nothing is trained.

        Parameters
        ----------
        X : list, array, Series or DataFrame of n_samples samples
            Paths, encoded images, PIL images, arrays ``(h, w)`` or ``(h, w, channels)`` (uint8,
            or float in [0, 1]), tensors ``(channels, h, w)``; texts; for an own module without
            preprocessing, an array ``(n_samples, …)`` of numbers. The columns of a table give the
            features of each, side by side.
        y : array-like of shape (n_samples,), default=None
            Used with ``layer="auto"`` and ``image_size="auto"`` only.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For an unknown backbone or layer (the nearest names are in the message), and for an
            X that is no list of samples.
        FileNotFoundError
            For weights that are not on this machine and cannot be fetched.
        """
        self._fit_columns(self._needed(X) if is_lazy(X) else X, y)
        return self

    def _needed(self, X):
        """Return the samples of a collection of Dask that a fit uses."""
        return X.compute() if learns_from_samples(self) else first_sample(X)

    def fit_transform(self, X: Samples, y: object | None = None) -> Any:
        """Fit to samples and transform them; with ``n_components`` they are run once.

        Parameters
        ----------
        X, y
            As in :meth:`fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_features), float32
        """
        if is_lazy(X):
            return self.fit(X, y).transform(X)
        tables = self._fit_columns(X, y)
        return self.transform(X) if tables is None else self._side_by_side(tables)

    def transform(self, X: Samples) -> Any:
        """Run samples through the network up to the layer and pool its output.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples
            As in :meth:`fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_features), float32
            The sizes side by side, and the layers of each size, in the order in which they were
            asked for. For a collection of Dask, a collection of the same kind, and nothing is
            computed yet.

        Raises
        ------
        UnreadableSamplesError
            A ``ValueError`` that names the samples that cannot be read, and why. Not with
            ``on_error="nan"``.
        """
        if is_lazy(X):
            check_is_fitted(self)
            return transform_lazily(self, X)
        return self._transform_columns(X)

    def get_feature_names_out(
        self, input_features: Sequence[str] | np.ndarray | None = None
    ) -> np.ndarray:
        """Name the features after the backbone, the size and the layer.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray of str, shape (n_features,)
            ``efficientnet_lite0_features_0`` and on; with ``layer``, its name instead of
            "features"; with several sizes or "auto", ``efficientnet_lite0_128_features_0``; with
            ``n_components``, ``efficientnet_lite0_pca_0``. With several columns of samples, their
            names stand before.
        """
        check_is_fitted(self)
        return np.asarray(self._names_out(), dtype=object)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # always float32
        tags.target_tags.required = "auto" in (self.layer, self.image_size)
        return tags


def learns_from_samples(extractor: PretrainedFeatureExtractor) -> bool:
    """Tell whether an extractor learns from samples, so that its fit uses more than the first.

    Parameters
    ----------
    extractor : PretrainedFeatureExtractor

    Returns
    -------
    bool
    """
    poolings = extractor.pooling if isinstance(extractor.pooling, list) else [extractor.pooling]
    chooses = "auto" in (extractor.layer, extractor.image_size)
    return chooses or extractor.n_components is not None or any(map(is_learned, poolings))
