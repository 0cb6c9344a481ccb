"""Extract fixed features: a pretrained network as a scikit-learn transformer."""

from __future__ import annotations

from numbers import Integral

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted

from ..backbones import LayerInfo, resolve_layer, stages_of
from ..data import check_target
from ..engines import POOLINGS, pooled_width
from .base import BackboneEstimator
from .layer_choice import LayerChoice, candidate_layers, choose_layer
from .word_weights import LEARNED_POOLINGS, TokenWeights, takes_weights

__all__ = ["PretrainedFeatureExtractor"]

_POOLINGS = (*POOLINGS, *LEARNED_POOLINGS)


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
        penultimate one unless another is clearly better. It needs a target.
    task : {"auto", "classification", "regression"}, default="auto"
        With ``layer="auto"``, whether y has labels or regression targets. "auto" takes whole
        numbers as labels.
    pooling : str, callable or list, default="avg"
        How an activation becomes a vector: "avg" is the mean over positions, "max"
        the maximum, "grid" the means of the four quadrants of an image, "flatten" every number,
        "cls" the first token of a transformer. A callable is given the activation, a tensor
        ``(n, channels, height, width)`` or ``(n, tokens, channels)``, and returns ``(n, k)``.
        For word vectors also "idf" and "sif": means weighted by how rare a word is, which
        ``fit`` counts (see Notes). A list gives several, side by side. For texts and
        ``layer=None``, "avg" is the output of the encoder, and the others pool the tokens of
        the last layer that has tokens.
    image_size : int, default=None
        Side of the square given to the network, in pixels. None is what its weights were
        trained with.
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
    engine : {"auto", "torch", "openvino", "onnxruntime"}, default="auto"
        The library that runs the network. "auto" is "torch". "openvino" and "onnxruntime" run on
        the CPU, are often faster, and need a few seconds to convert the network; with ``memory``
        the result is kept on disk. They give the same features up to the rounding of float32. A
        network that cannot be converted is an error.
    precision : {"float32", "bfloat16"}, default="float32"
        The type in which the network computes. "bfloat16" is faster on processors that support
        it, and features differ by 1 to 5 %.
    memory : None, str, Path, FeatureStore or object with a location, default=None
        Where features are kept by sample, so that a grid search runs every sample through the
        network once. A folder, a :class:`sktransfer.FeatureStore`, or a ``joblib.Memory``.
    n_jobs : int, default=None
        Threads that open and preprocess samples.
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
    token_weights_ : dict of str to TokenWeights
        The weights of words that the poolings "idf" and "sif" learned.
    oov_rate_ : float
        For word vectors: the share of words in the texts of ``fit`` that have no vector.
    truncated_rate_ : float
        For sentence encoders: the share of tokens that is cut off from the texts of ``fit``.
    n_features_in_ : int
        Numbers in a sample, where X is a table.
    feature_names_in_ : ndarray of shape (n_features_in_,)
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
    ignored, and nothing leaks from test samples into training. There are two exceptions: the
    poolings "idf" and "sif" count the words of the training texts, and ``layer="auto"`` runs up
    to 600 training samples through the network and uses their labels. With ``memory``, these are
    not run again.

    "idf" weights a word by ``ln((1 + n) / (1 + df)) + 1``, as scikit-learn does; "sif" by
    ``a / (a + p)``, and removes the first singular vector of the training texts (Arora et al.
    2017). A word that ``fit`` has not seen counts as the rarest.

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

    _parameter_constraints: dict = {
        **BackboneEstimator._parameter_constraints,
        "layer": [str, Integral, list, None],
        "task": [StrOptions({"auto", "classification", "regression"})],
        "pooling": [StrOptions(set(_POOLINGS)), callable, list],
    }

    def __init__(
        self,
        backbone="efficientnet_lite0",
        *,
        weights="default",
        layer=None,
        task="auto",
        pooling="avg",
        image_size=None,
        image_shape=None,
        long_texts=None,
        batch_size="auto",
        device="auto",
        engine="auto",
        precision="float32",
        memory=None,
        n_jobs=None,
        verbose=0,
    ):
        self.backbone = backbone
        self.weights = weights
        self.layer = layer
        self.task = task
        self.pooling = pooling
        self.image_size = image_size
        self.image_shape = image_shape
        self.long_texts = long_texts
        self.batch_size = batch_size
        self.device = device
        self.engine = engine
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
            [0, 1]), tensors ``(channels, h, w)``; texts; for an own module without
            preprocessing, an array ``(n_samples, …)`` of numbers.
        y : array-like of shape (n_samples,), default=None
            Used with ``layer="auto"`` only.

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
        samples = self._fit_backbone(X)
        for name in ("token_weights_", "layer_choice_"):  # of an earlier fit
            self.__dict__.pop(name, None)
        self._check_poolings()
        self._blocks = self._find_blocks(samples, y)
        self.layers_ = list(dict.fromkeys(layer for layer, _ in self._blocks))
        learned = [p for p in self._poolings() if _is_learned(p)]
        if learned:
            run = {"batch_size": self.batch_size, "device": self.device}
            self.token_weights_ = {
                p: TokenWeights.learn(p, samples, self.backbone_, **run) for p in learned
            }
        inspected = self._inspect(samples)
        self._widths = [self._width(inspected[layer], pooling) for layer, pooling in self._blocks]
        return self

    def _find_blocks(self, samples, y) -> list[tuple]:
        """List the blocks of the output: each pooling of each layer that is asked for."""
        asked = self.layer if isinstance(self.layer, list) else [self.layer]
        if not asked:
            raise ValueError("layer=[] names no layer: give at least one, or None.")
        if self.layer == "auto":
            self.layer_choice_ = self._probe_layers(samples, y)
            asked = [self.layer_choice_.layer]
        tokens = self._layers_of_tokens(samples)
        return [(self._resolve(layer, p, tokens), p) for layer in asked for p in self._poolings()]

    def _probe_layers(self, samples, y, layers=None, random_state=0) -> LayerChoice:
        """Score layers by a linear model on their features."""
        poolings = tuple("avg" if _is_learned(p) else p for p in self._poolings())
        pooling = poolings if len(poolings) > 1 else poolings[0]
        strictest = next((p for p in poolings if p != "avg"), "avg")
        tokens = self._layers_of_tokens(samples)
        asked = [*candidate_layers(self.backbone_)[:-1], None] if layers is None else layers
        return choose_layer(
            self.backbone_,
            check_target(y, len(samples)),
            lambda names, rows: self._features(samples, names, pooling, rows),
            layers=[self._resolve(layer, strictest, tokens) for layer in asked],
            task=self.task,
            random_state=random_state,
        )

    def _poolings(self) -> list:
        return self.pooling if isinstance(self.pooling, list) else [self.pooling]

    def _check_poolings(self) -> None:
        asked = self._poolings()
        wrong = [p for p in asked if not callable(p) and p not in _POOLINGS]
        if wrong or not asked:
            raise ValueError(f"pooling={self.pooling!r}: give callables or some of {_POOLINGS}.")
        if any(map(_is_learned, asked)) and not takes_weights(self.backbone_):
            stages = stages_of(self.backbone_).values()
            table = any(hasattr(stage, "with_weights") for stage in stages)
            raise ValueError(
                f"pooling={self.pooling!r} weights words, and backbone {self.backbone_.name!r} has "
                f"{'more stages than its' if table else 'no'} word vectors: use 'avg' or 'max'."
            )
        if "flatten" in asked and self.backbone_.modality.has_tokens:
            raise ValueError("pooling='flatten' of texts gives vectors of different lengths.")

    def _resolve(self, layer, pooling, tokens: list[str] | None) -> str:
        """Find a layer for a pooling; for poolings over tokens, one that has tokens."""
        found = resolve_layer(self.backbone_, layer)
        if tokens is None or pooling == "avg" or found in tokens:
            return found
        if layer is None and tokens:
            return tokens[-1]
        if callable(pooling):  # it may take a vector
            return found
        raise ValueError(
            f"pooling={pooling!r} pools the tokens of a text, and layer {found!r} of backbone "
            f"{self.backbone_.name!r} gives a single vector: use 'avg' there, or a layer with "
            f"tokens: {tokens}."
        )

    def _layers_of_tokens(self, samples) -> list[str] | None:
        """Return the layers with a vector for each token, or None if samples have no tokens."""
        if not self.backbone_.modality.has_tokens:
            return None
        return [name for name, layer in self._inspect(samples).items() if layer.has_tokens]

    def _layers_for(self, pooling) -> tuple[str, ...]:
        return tuple(dict.fromkeys(layer for layer, p in self._blocks if p == pooling))

    def _width(self, layer: LayerInfo, pooling) -> int:
        """Return the number of features of a layer under one pooling."""
        return pooled_width(layer, "avg" if _is_learned(pooling) else pooling)

    def transform(self, X):
        """Run samples through the network up to the layer and pool its output.

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
        found: dict[tuple, np.ndarray] = {}
        for layers, poolings in self._passes():
            found |= self._run_pass(samples, layers, poolings)
        blocks = [found[block] for block in self._blocks]
        # A single block is not copied, which would need twice the memory of the output.
        return blocks[0] if len(blocks) == 1 else np.hstack(blocks)

    def _usual_run(self):
        layers, poolings = self._passes()[0]
        if _is_learned(poolings[0]):
            poolings = ("avg",)
        return self._recipe(layers, poolings if len(poolings) > 1 else poolings[0]), self.batch_size

    def _passes(self) -> list[tuple[tuple[str, ...], tuple]]:
        """Group the poolings of the same layers, which one pass computes."""
        if takes_weights(self.backbone_):  # each pass is cheap, and "avg" alone is faster
            return [((layer,), (pooling,)) for layer, pooling in self._blocks]
        passes: dict[tuple[str, ...], tuple] = {}
        for pooling in dict.fromkeys(pooling for _, pooling in self._blocks):
            layers = self._layers_for(pooling)
            passes[layers] = (*passes.get(layers, ()), pooling)
        return list(passes.items())

    def _run_pass(self, samples, layers: tuple[str, ...], poolings: tuple) -> dict:
        """Compute the blocks of some layers and poolings."""
        if _is_learned(poolings[0]):
            run = {"batch_size": self.batch_size, "device": self.device}
            vectors = self.token_weights_[poolings[0]].transform(samples, self.backbone_, **run)
            return {(layers[0], poolings[0]): vectors}
        tables = self._features(samples, layers, poolings if len(poolings) > 1 else poolings[0])
        widths = dict(zip(self._blocks, self._widths, strict=True))
        found: dict = {}
        for layer in layers:
            ends = np.cumsum([widths[layer, pooling] for pooling in poolings])[:-1]
            parts = np.split(tables[layer], ends, axis=1)
            found |= {(layer, p): part for p, part in zip(poolings, parts, strict=True)}
        return found

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
        names = [
            f"{self.backbone_.name}_{self._name_block(layer, pooling)}_{i}"
            for (layer, pooling), width in zip(self._blocks, self._widths, strict=True)
            for i in range(width)
        ]
        return np.asarray(names, dtype=object)

    def _name_block(self, layer: str, pooling) -> str:
        label = "features" if self.layer is None else layer
        if not isinstance(self.pooling, list):
            return label
        return f"{label}_{getattr(pooling, '__name__', pooling)}"

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # always float32
        tags.target_tags.required = self.layer == "auto"
        return tags


def _is_learned(pooling) -> bool:
    return isinstance(pooling, str) and pooling in LEARNED_POOLINGS
