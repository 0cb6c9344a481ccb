"""Extract fixed features: a pretrained network as a scikit-learn transformer."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from .._compat.sklearn import Interval, StrOptions, num_samples, safe_indexing, validate_parameters
from ..backbones import Backbone, pooled_width
from ..data import (
    UnreadableSamplesError,
    check_target,
    is_lazy,
    named_among,
    split_columns,
    without_missing,
)
from ..data.types import RandomState, Samples
from .base import BackboneEstimator, Count, reported
from .choices import (
    LayerChoice,
    SizeChoice,
    candidate_layers,
    candidate_sizes,
    choose_layer,
    choose_size,
    layer_for,
    layer_of_tokens,
)
from .function import first_sample, transform_lazily
from .output import Output, layers_of, prepare_probe
from .word_weights import (
    ALL_POOLINGS,
    TokenWeights,
    check_poolings,
    is_learned,
    takes_weights,
    unlearned,
)

_OF_SAMPLES = ("n_features_in_", "feature_names_in_", "oov_rate_", "truncated_rate_")


class PretrainedFeatureExtractor(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, BackboneEstimator
):
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
        penultimate one unless another is clearly better. It needs a target; whole numbers are
        labels.
    pooling : str, callable, list or tuple, default="avg"
        How an activation becomes a vector: "avg" is the mean over positions, "max"
        the maximum, "grid" the means of the four quadrants of an image, "flatten" every number,
        "cls" the class token of a transformer, whose positions are its patches. A callable is given
        the activation, a tensor ``(n, channels, height, width)`` or ``(n, tokens, channels)``, and
        returns ``(n, k)``.
        For word vectors also "idf", "sif" and "zipf": means weighted by how rare a word is, which
        ``fit`` counts, or which its place in the table tells (see Notes). A list or tuple gives
        several, side by side. For texts and ``layer=None``, "avg" is the output of the encoder, and
        the others pool the tokens of the last layer that has tokens. For images, "avg" alone is
        what the network's classifier takes; with another pooling, a transformer's tokens are
        pooled behind its last norm.
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
    missing : {"error", "zero", "nan"}, default="error"
        What a missing cell of a table, None or NaN, becomes: an error, or a row of zeros or NaN.
    on_error : {"raise", "nan"}, default="raise"
        What ``transform`` does about samples that cannot be read. "raise" names all of them in an
        error. "nan" returns a row of NaN for each, for which the next estimator needs a rule: an
        imputer, or trees that take missing values. ``fit`` leaves out texts that are missing.
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

    backbone_: Backbone
    bad_samples_: dict[int, str]
    columns_: tuple[Any, ...]
    image_size_: int | list[int] | None
    layer_choice_: LayerChoice
    layers_: list[str]
    pca_: list[Any]
    size_choice_: SizeChoice
    token_weights_: dict[str, TokenWeights]
    # The position of the size, the layer, the pooling and the width of each output.
    _outputs: list[tuple[int, str, Any, int]]

    _parameter_constraints: dict[str, Any] = {
        **BackboneEstimator._parameter_constraints,
        "image_size": [Count(1), list, StrOptions({"auto"}), None],
        "layer": [str, Integral, list, None],
        "pooling": [StrOptions(set(ALL_POOLINGS)), callable, list, tuple],
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
        pooling: Any = "avg",
        n_components: int | float | None = None,
        image_size: int | Sequence[int] | str | None = None,
        image_shape: tuple[int, ...] | None = None,
        missing: str = "error",
        on_error: str = "raise",
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
        self.layer = layer
        self.pooling = pooling
        self.n_components = n_components
        self.image_size = image_size
        self.image_shape = image_shape
        self.missing = missing
        self.on_error = on_error
        self.batch_size = batch_size
        self.device = device
        self.engine = engine
        self.precision = precision
        self.memory = memory
        self.n_jobs = n_jobs
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
        if is_lazy(X):
            X = X.compute() if learns_from_samples(self) else first_sample(X)
        self._fit(X, y)
        return self

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
        columns = self._fit(X, y)
        return self.transform(X) if columns is None else self._side_by_side(columns)

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
        check_is_fitted(self)
        if is_lazy(X):
            return transform_lazily(self, X)
        columns = split_columns(X, self.image_shape)
        known, given = self.columns_, tuple(columns)
        named = all(isinstance(name, str) for name in (*known, *given))
        if len(known) != len(given) or (named and known != given):
            raise ValueError(
                f"X has {len(given)} columns of samples, {list(given[:10])}, and in fit it had "
                f"{len(known)}, {list(known[:10])}."
            )
        bad: dict[int, str] = {}
        features = [self._run_column(column, bad, name) for name, column in columns.items()]
        if self.on_error == "nan":
            self.bad_samples_ = dict(sorted(bad.items()))
        return self._side_by_side(features)

    # -- fit -----------------------------------------------------------------------------------

    @reported()
    def _fit(self, X, y) -> list[_Column] | None:
        """Fit to the first column that has samples; return all columns if they have been run."""
        validate_parameters(self)
        columns = split_columns(X, self.image_shape)
        for name in ("pca_", "token_weights_", "layer_choice_", "size_choice_"):  # of earlier fits
            self.__dict__.pop(name, None)
        self.columns_ = tuple(columns)
        present = [self._present(column) for column in columns.values()]
        with_samples = [j for j, (_, rows, _) in enumerate(present) if rows is None or len(rows)]
        first = with_samples[0] if with_samples else 0
        given, rows, _ = present[first]
        y = y if rows is None or y is None else safe_indexing(y, rows)
        samples, y = self._fit_readable(given, y)
        self._find_outputs(samples, y)
        if self.n_components is None:
            for j in with_samples if self.on_error == "raise" else ():
                if j != first:  # columns that the fit does not use; nothing is opened
                    self._check_samples(present[j][0])
            return None
        features = [self._run_column(column) for column in columns.values()]
        self.pca_ = [self._learn_components(column.features) for column in features]
        return features

    def _fit_readable(self, X, y) -> tuple:
        """Load the backbone and check X; return the samples, and y for them."""
        if self.on_error == "raise":
            self.__dict__.pop("bad_samples_", None)  # of an earlier fit
            return self._fit_backbone(X), y
        samples, rows, bad = without_refused(self._fit_backbone, X)
        if not len(rows):
            self._fit_backbone(X)  # raises an error with all causes
        self.bad_samples_ = {}
        return samples, safe_indexing(y, rows) if bad and y is not None else y

    def _find_outputs(self, samples, y) -> None:
        """Find what is read from the network; nothing learns from samples that are None."""
        self._find_sizes(samples)
        check_poolings(self._poolings(), self.backbone_)
        of_size = self._find_size(samples, y) if self.image_size == "auto" else None
        outputs = self._find_layers(samples, y) if of_size is None else of_size
        learned = [p for p in self._poolings() if is_learned(p)]
        if learned:
            run: dict[str, Any] = {"batch_size": self.batch_size, "device": self.device}
            self.token_weights_ = {
                p: TokenWeights.learn(p, samples, self.backbone_, **run) for p in learned
            }
        self.layers_ = list(dict.fromkeys(layer for layer, _ in outputs))
        infos = [layers_of(backbone, samples) for backbone in self._sized]
        self._outputs = [
            (i, layer, p, pooled_width(info[layer], unlearned(p)))
            for i, info in enumerate(infos)
            for layer, p in outputs
        ]

    def _find_size(self, samples, y) -> list[tuple[str, Any]]:
        """Choose the input size by a linear probe, and find the layers at the native one."""
        native = self.backbone_
        sizes = candidate_sizes(native)
        for backbone in sizes:
            layers_of(backbone, samples)
        outputs = self._find_layers(samples, y)

        def compute(backbones: Sequence[Backbone], rows: np.ndarray) -> list[np.ndarray]:
            wanted = [Output(backbone, x, p) for backbone in backbones for x, p in outputs]
            tables, n = self._compute(samples, wanted, rows), len(outputs)
            return [np.hstack(tables[i : i + n]) for i in range(0, len(tables), n)]

        self.size_choice_ = choose_size(
            sizes,
            check_target(y, len(samples)),
            compute,
            default=native,
            random_state=0,
        )
        self.image_size_ = self.size_choice_.size
        self.backbone_ = native.with_image_size(self.image_size_)
        return outputs

    def _find_layers(self, samples, y) -> list[tuple[str, Any]]:
        """List each pooling of each layer that is asked for; "auto" chooses the layer."""
        asked: list[Any] = self.layer if isinstance(self.layer, list) else [self.layer]
        if not asked:
            raise ValueError("layer=[] names no layer: give at least one, or None.")
        if self.layer == "auto":
            self.layer_choice_ = self._probe_layers(samples, y)
            asked = [self.layer_choice_.layer]
        tokens = self._layers_of_tokens(samples)
        poolings = self._poolings()
        asked = self._behind_tokens(asked, poolings, samples)
        return [(layer_for(self.backbone_, x, p, tokens), p) for x in asked for p in poolings]

    def _behind_tokens(self, asked: list[Any], poolings: list[Any], samples) -> list[Any]:
        """Replace None by the last layer with a transformer's tokens, where they are pooled."""
        is_image = not self.backbone_.modality.has_tokens
        if not is_image or all(p == "avg" or callable(p) for p in poolings):
            return asked
        last = layer_of_tokens(self.backbone_, layers_of(self.backbone_, samples))
        return [last if layer is None else layer for layer in asked]

    def score_layers(
        self,
        X: Samples,
        y: object,
        layers: Sequence[str | int | None] | None = None,
        random_state: RandomState = None,
        task: str = "auto",
    ) -> LayerChoice:
        """Score layers by a linear model on their features, after a fit.

        Parameters
        ----------
        X, y
            As in :meth:`fit`.
        layers : sequence of str, int or None, default=None
            None are those that ``layer="auto"`` compares.
        random_state : int, RandomState instance or None, default=None
            For the folds, and for the choice of rows, where there are more than 600.
        task : {"auto", "classification", "regression"}, default="auto"
            What y is. "auto" takes whole numbers as labels.

        Returns
        -------
        LayerChoice
        """
        return self._probe_layers(self._transform_samples(X), y, layers, random_state, task)

    def _probe_layers(self, samples, y, layers=None, random_state=0, task="auto") -> LayerChoice:
        poolings = [unlearned(p) for p in self._poolings()]
        strictest = next((p for p in poolings if p != "avg"), "avg")
        tokens = self._layers_of_tokens(samples)
        candidates = candidate_layers(self.backbone_)[:-1]
        if tokens is None and "cls" in poolings:  # the first layers may have patches alone
            infos = layers_of(self.backbone_, samples)
            candidates = [name for name in candidates if infos[name].prefix_tokens != 0]
        asked: list[Any] = [*candidates, None] if layers is None else list(layers)
        asked = self._behind_tokens(asked, poolings, samples)

        def compute(names: Sequence[str], rows: np.ndarray) -> dict[str, np.ndarray]:
            kinds = [(backbone, pooling) for backbone in self._sized for pooling in poolings]
            wanted = [Output(backbone, x, p) for x in names for backbone, p in kinds]
            tables, n = self._compute(samples, wanted, rows), len(kinds)
            return {x: np.hstack(tables[i * n : (i + 1) * n]) for i, x in enumerate(names)}

        return choose_layer(
            self.backbone_,
            check_target(y, len(samples)),
            compute,
            layers=[layer_for(self.backbone_, layer, strictest, tokens) for layer in asked],
            task=task,
            random_state=random_state,
        )

    def _poolings(self) -> list[Any]:
        return list(self.pooling) if _is_several(self.pooling) else [self.pooling]

    def _layers_of_tokens(self, samples) -> list[str] | None:
        """Return the layers with a vector for each token, or None if samples have no tokens."""
        if not self.backbone_.modality.has_tokens:
            return None
        infos = layers_of(self.backbone_, samples)
        return [name for name, layer in infos.items() if layer.has_tokens]

    def _learn_components(self, features: np.ndarray) -> Any:
        """Learn the principal components of the rows that could be computed."""
        features = features[~np.isnan(features).any(axis=1)]
        # Both give the same components, without random numbers.
        solver = "covariance_eigh" if len(features) > features.shape[1] else "full"
        most = min(features.shape)
        if self.n_components > most:
            raise ValueError(
                f"n_components={self.n_components}: {features.shape[0]} samples of "
                f"{features.shape[1]} features have at most {most} components."
            )
        from sklearn.decomposition import PCA  # not when the package is imported

        from ..transferability import one_thread_if_small

        with one_thread_if_small(features):
            return PCA(self.n_components, svd_solver=solver).fit(features)

    # -- transform -----------------------------------------------------------------------------

    def _present(self, column) -> tuple[Any, np.ndarray | None, int | None]:
        """Return the samples of a column that are there, their rows, and the number of rows."""
        return (column, None, None) if self.missing == "error" else without_missing(column)

    def _run_column(self, column, bad: dict[int, str] | None = None, name: Any = 0) -> _Column:
        """Compute the features of the samples that are there; causes of others go to ``bad``."""
        samples, rows, n = self._present(column)
        if rows is not None and not len(rows):
            return _Column(np.empty((0, self._width), np.float32), rows, n)
        if self.on_error != "nan":
            with contextlib.nullcontext() if rows is None else named_among(rows):
                return _Column(self._run(self._transform_samples(samples)), rows, n)
        features, causes = self._run_readable(samples)
        for i, cause in causes.items():
            place = i if rows is None else int(rows[i])
            label = f"column {name!r}: " if len(self.columns_) > 1 else ""
            (bad if bad is not None else {}).setdefault(place, label + cause)
        return _Column(features, rows, n)

    def _run_readable(self, X) -> tuple[np.ndarray, dict[int, str]]:
        """Compute the features of the samples that can be read, and NaN for the others."""
        samples, rows, bad = without_refused(self._transform_samples, X)
        n, n_refused = len(rows) + len(bad), len(bad)
        unreadable: dict[int, Exception] = {}
        features = self._run(samples, unreadable) if len(rows) else np.empty((0, 0))
        bad |= {int(rows[i]): why for i, why in unreadable.items()}
        causes = {i: str(bad[i]) or type(bad[i]).__name__ for i in sorted(bad)}
        if not n_refused and len(bad) < n:
            return features, causes
        table = np.full((n, self._width), np.nan, np.float32)
        if len(bad) < n:
            table[rows] = features
        return table, causes

    def _run(self, samples, bad: dict[int, Exception] | None = None) -> np.ndarray:
        """Compute the outputs of samples, side by side."""
        if takes_weights(self.backbone_):  # each pass is cheap, and "avg" alone is faster
            run: dict[str, Any] = {"batch_size": self.batch_size, "device": self.device}
            blocks = [
                output.pooling.transform(samples, output.backbone, **run)
                if isinstance(output.pooling, TokenWeights)
                else self._compute(samples, [output])[0]
                for output in self.outputs_
            ]
        else:
            blocks = self._compute(samples, self.outputs_, bad=bad)
        # A single block is not copied, which would need twice the memory of the output.
        return blocks[0] if len(blocks) == 1 else np.hstack(blocks)

    def _side_by_side(self, columns: list[_Column]) -> np.ndarray:
        """Return the features of all columns, with a row for each missing cell."""
        parts = []
        for j, (features, rows, n_samples) in enumerate(columns):
            part = _components(features, self.pca_[j]) if hasattr(self, "pca_") else features
            if rows is not None:
                fill = 0 if self.missing == "zero" else np.nan
                full = np.full((n_samples or 0, part.shape[1]), fill, np.float32)
                full[rows] = part
                part = full
            parts.append(part)
        return parts[0] if len(parts) == 1 else np.hstack(parts)

    # -- what is returned ----------------------------------------------------------------------

    @property
    def outputs_(self) -> list[Output]:
        learned, sized = getattr(self, "token_weights_", {}), self._sized
        return [
            Output(sized[i], layer, learned[p] if is_learned(p) else p, width)
            for i, layer, p, width in self._outputs
        ]

    @property
    def output_names_(self) -> list[str]:
        names = []
        for output, (*_, pooling, _) in zip(self.outputs_, self._outputs, strict=True):
            name = "features" if self.layer is None else output.layer
            if isinstance(self.image_size, list | str):
                name = f"{output.image_size}_{name}"
            if _is_several(self.pooling):
                name = f"{name}_{getattr(pooling, '__name__', pooling)}"
            names.append(name)
        return names

    @property
    def n_features_out_(self) -> int:
        if hasattr(self, "pca_"):
            return sum(pca.n_components_ for pca in self.pca_)
        return self._width * len(self.columns_)

    @property
    def _width(self) -> int:
        """The number of features of a column."""
        return sum(width for *_, width in self._outputs)

    @property
    def _n_features_out(self) -> int:  # the name that scikit-learn reads
        return self.n_features_out_

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
        names = []
        for j, column in enumerate(self.columns_):
            label = f"{column}_" if len(self.columns_) > 1 else ""
            if hasattr(self, "pca_"):
                parts = [("pca", self.pca_[j].n_components_)]
            else:
                widths = [width for *_, width in self._outputs]
                parts = list(zip(self.output_names_, widths, strict=True))
            for name, width in parts:
                names += [f"{label}{self.backbone_.name}_{name}_{i}" for i in range(width)]
        return np.asarray(names, dtype=object)

    def _usual_run(self):
        backbone = self.outputs_[0].backbone
        outputs = [output for output in self.outputs_ if output.backbone is backbone]
        learned = isinstance(outputs[0].pooling, TokenWeights)
        return [dataclasses.replace(outputs[0], pooling="avg")] if learned else outputs, {}

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # always float32
        tags.target_tags.required = "auto" in (self.layer, self.image_size)
        return tags


class _Column(NamedTuple):
    """Features of the samples of a column, their rows, and the number of rows.

    The last two are None if no cell is missing.
    """

    features: np.ndarray
    rows: np.ndarray | None
    n_samples: int | None


def _components(features: np.ndarray, pca: Any) -> np.ndarray:
    """Return the components of each row; NaN for rows with NaN."""
    readable = ~np.isnan(features).any(axis=1)
    components = np.full((len(features), pca.n_components_), np.nan, np.float32)
    if readable.any():
        components[readable] = pca.transform(features[readable])
    return components


def without_refused(
    check: Callable[[Any], Any], X: Any
) -> tuple[Any, np.ndarray, dict[int, Exception]]:
    """Call a function that checks samples, again without those that it refuses.

    Returns the samples (an empty list if all are refused), their positions in X, and the causes of
    the others by position.
    """
    try:
        samples = check(X)
        return samples, np.arange(len(samples)), {}
    except UnreadableSamplesError as error:
        bad = {i: why for i, _, why in error.problems}
    rows = np.setdiff1d(np.arange(num_samples(X)), list(bad))
    if not len(rows):
        return [], rows, bad
    samples, kept, others = without_refused(check, safe_indexing(X, rows))
    return samples, rows[kept], bad | {int(rows[i]): why for i, why in others.items()}


def fitted_without_samples(
    extractor: PretrainedFeatureExtractor,
    fitted: BackboneEstimator,
    shape: Sequence[int],
    dtype: str,
) -> PretrainedFeatureExtractor:
    """Fit an extractor that learns nothing from samples for those of an estimator that was fitted.

    What this estimator has learned about its samples holds for the extractor too. ``shape`` and
    ``dtype`` are those of a sample, as for :func:`prepare_probe`. The same object is returned; it
    is not fitted if its network does not take the sample of ones and zeros that describes the
    layers where the shape of the input is not fixed.
    """
    validate_parameters(extractor)
    backbone = extractor._load()
    prepare_probe(backbone, shape, dtype)
    try:
        layers_of(backbone)
    except Exception:  # of the user's network, which may expect other numbers
        return extractor
    extractor.backbone_ = backbone
    for name in _OF_SAMPLES:
        if hasattr(fitted, name):
            setattr(extractor, name, getattr(fitted, name))
    extractor.columns_ = (0,)
    extractor._find_outputs(None, None)
    return extractor


def learns_from_samples(extractor: PretrainedFeatureExtractor) -> bool:
    """Tell whether an extractor learns from samples, so that its fit uses more than the first."""
    chooses = "auto" in (extractor.layer, extractor.image_size)
    learns = any(map(is_learned, extractor._poolings()))
    return chooses or learns or extractor.n_components is not None


def _is_several(pooling: Any) -> bool:
    """Tell whether several poolings are given; a named tuple may be a function."""
    return isinstance(pooling, list | tuple) and not callable(pooling)
