"""The class of backbones: a network with its preprocessing and its classes."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from ..data import Modality, forward_strides, get_modality, is_whole, shorten
from .behavior import observe
from .fingerprint import fingerprint
from .pooling import pool
from .stages import stages_of
from .weights import check_finite, first_convolutions, with_channels

_LARGEST_SIZE = 4096  # pixels: activations of a larger image take gigabytes
_SIZES_KEPT = 4  # input sizes for which a network stays prepared
_TEXTS_KEPT = 8  # prompts and treatments of long texts, for which little is kept
_Kept = TypeVar("_Kept")


class Backbone:
    """A pretrained network whose named stages run in order, its preprocessing and its classes.

    Made by :func:`sktransfer.load_backbone`, never changed afterwards, and shared rather than
    copied: ``sklearn.clone`` returns the same object, so that a grid search holds one copy of
    the weights.

    Parameters
    ----------
    name : str
        Used in feature names and messages.
    module : torch.nn.Module
        The network. It is put into ``eval`` mode and belongs to the backbone from here on.
    modality : {"image", "text", "array"}, another registered name or Modality, default="image"
        What a sample is: an image in any of its forms, a text, or a row of numbers given to
        the network as it is.
    preprocess : callable, default=None
        From one opened sample to one tensor. For texts, ids of tokens, of which 0 is none.
    classes : sequence of str, default=None
        The names of the network's outputs, for networks that are classifiers.
    class_ids : sequence of str, default=None
        A second name for each class: for ImageNet its WordNet id, such as "n02219486".
    stages : mapping of str to torch.nn.Module, default=None
        The network as named steps run in order, for networks that cannot be traced.
    loaded_by : tuple of (str, str), default=None
        Name and weights with which ``load_backbone`` gives this backbone again. The registry
        makes ``reference`` of them.
    opaque : tuple of callable, default=()
        Functions and classes of modules that are one operation when the network is traced.
    heads : tuple of str, default=()
        Paths of the modules that are the classifier, where the source of the network names them.
    penultimate : str, default=None
        The layer whose output a classifier takes, where the network does not show it.
    why_whole : str, default=""
        Why a part of the network that has blocks is a single stage, for messages.
    licence : str, default=None
        What the source of the weights states about their licence, and where.
    resize : callable, default=None
        For networks that hold tensors or numbers for one input size: from the network and the side
        of a square in pixels to the network for images of that size. It shares all tensors that do
        not change, and leaves the network that it is given as it is.
    patch_size : int, default=None
        Sides of images are multiples of this, if all pixels are to be used.
    cutter : callable, default=None
        From this backbone to its stages, for networks that cannot be traced.
    prefix_tokens : int, default=None
        How many tokens (class token, registers) come before the patches. None for networks of timm
        and torchvision is what they say, and for others that it is not known.
    has_class_token : bool, default=None
        Whether the first of these is a class token, which stands for the whole image. None is what
        networks of timm say, and for others whether there are such tokens.
    runtime : str, default=None
        The program that runs the network, where that is not PyTorch: it gives features, and cannot
        be trained or exported.

    Attributes
    ----------
    fingerprint : str
        SHA-256 of everything that decides an output: the tensors by name, and the code.
    labels : list or None
        The labels of classes that texts describe; see ``prompts`` of :func:`load_backbone`.

    Raises
    ------
    ValueError
        If a tensor of the network holds NaN or infinity, or a negative running variance.
    """

    class_ids: tuple[str, ...] | None
    classes: tuple[str, ...] | None
    heads: tuple[str, ...]
    labels: list[Any] | None = None
    modality: Modality
    module: nn.Module
    stages: Mapping[str, nn.Module] | None

    def __init__(
        self,
        name: str,
        module: nn.Module,
        *,
        modality: str | Modality = "image",
        preprocess: Callable[..., Any] | None = None,
        classes: Sequence[str] | None = None,
        class_ids: Sequence[str] | None = None,
        stages: Mapping[str, nn.Module] | None = None,
        loaded_by: tuple[str, str] | None = None,
        opaque: tuple[Callable[..., Any], ...] = (),
        heads: Sequence[str] = (),
        penultimate: str | None = None,
        why_whole: str = "",
        licence: str | None = None,
        resize: Callable[[nn.Module, int], nn.Module] | None = None,
        patch_size: int | None = None,
        cutter: Callable[[Backbone], Any] | None = None,
        prefix_tokens: int | None = None,
        has_class_token: bool | None = None,
        runtime: str | None = None,
    ):
        check_finite(f"backbone {name!r}", module, *(stages or {}).values())
        self.name = name
        self.module = module.eval()
        self.modality = get_modality(modality)
        self.preprocess: Any = preprocess
        self.classes = None if classes is None else tuple(map(str, classes))
        self.class_ids = None if class_ids is None else tuple(class_ids)
        self.stages = stages
        self.loaded_by = loaded_by
        # Set by the registry: an object with load(fingerprint), which a pickle holds instead of the
        # weights.
        self.reference: Any = None
        self.opaque = opaque
        self.heads = tuple(heads)
        self.penultimate = penultimate
        self.why_whole = why_whole
        self.licence = licence
        self.resize = resize
        self.patch_size = patch_size
        self.cutter = cutter
        if prefix_tokens is None:
            prefix_tokens, known = _tokens_before_patches(module)
            has_class_token = known if has_class_token is None else has_class_token
        if prefix_tokens is not None and not (is_whole(prefix_tokens) and prefix_tokens >= 0):
            raise ValueError(f"prefix_tokens={prefix_tokens!r}: give a number of tokens, or None.")
        if has_class_token is None and prefix_tokens is not None:
            has_class_token = prefix_tokens > 0
        self.prefix_tokens = prefix_tokens
        self.has_class_token = has_class_token
        self.runtime = runtime
        # This backbone at the size that its weights were trained with, where another was asked for.
        self.native: Backbone | None = None
        self._fingerprint: str | None = None
        # Whether its code is the user's, so that a file holds its output on a fixed sample. Set by
        # the registry.
        self.is_registered = False
        # Values made from the network: stages, descriptions of layers, engines, copies for other
        # image sizes. They are kept here and not in a global table, so that they are freed with
        # the backbone.
        self.prepared: dict[str, Any] = {}

    @property
    def fingerprint(self) -> str:
        if self.native is not None:  # tensors made for another size follow from these weights
            return self.native.fingerprint
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.module, self.stages)
        return self._fingerprint

    @property
    def behavior(self) -> dict[str, Any] | None:
        """Its output on one fixed sample, computed once; None if it takes no such sample."""
        # Networks for several input sizes share what is prepared.
        known = self.prepared.setdefault("behavior", {})
        key = id(self.preprocess)
        if key not in known or known[key][0] is not self.preprocess or known[key][1] is None:
            known[key] = self.preprocess, observe(self)
        return known[key][1]

    @property
    def is_of_folder(self) -> bool:
        """Whether it is a network of transformers, whose preprocessing its folder describes."""
        return self.name.startswith("hf:")

    @property
    def carries_behavior(self) -> bool:
        """Whether a pickle or file that refers to it holds its output on a fixed sample."""
        return self.is_registered or self.is_of_folder

    def forget_fingerprint(self) -> None:
        """Compute the fingerprint again when it is asked for: something was changed."""
        self._fingerprint = None

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of one preprocessed sample, where the preprocessing fixes it."""
        return getattr(self.preprocess, "input_shape", None)

    @property
    def native_shape(self) -> Any:  # tuple of int or None
        """Shape of the images that the network was made for, where another one was asked for."""
        return None if self.native is None else self.native.input_shape

    def open(self, sample: object) -> torch.Tensor:
        """Open and preprocess a sample.

        Parameters
        ----------
        sample : object
            As returned by the method ``check`` or ``read`` of its modality.

        Returns
        -------
        Tensor
            The input of the first stage, without a batch axis.
        """
        return self.preprocessed(self.modality.open(sample))

    def preprocessed(self, opened: Any) -> torch.Tensor:
        """Preprocess an opened sample, as :meth:`open` does.

        Parameters
        ----------
        opened : object
            As returned by the method ``open`` of the modality.

        Returns
        -------
        Tensor
            The input of the first stage, without a batch axis.
        """
        if self.preprocess is None:
            return torch.tensor(forward_strides(opened))
        return self.preprocess(opened)

    def run(
        self,
        inputs: torch.Tensor,
        outputs: Sequence[tuple[str, Any]],
        *,
        after: str | None = None,
        stages: Mapping[str, nn.Module] | None = None,
    ) -> list[Any]:
        """Run the stages in order, once, up to the last layer that is read, and pool its outputs.

        The stages are run as they are, in the mode and the type that the caller has set in PyTorch:
        with gradients, without (``torch.inference_mode``), in lower precision (``torch.autocast``),
        or while a graph is exported. Engines do the same faster, without gradients.

        Parameters
        ----------
        inputs : Tensor of shape (n, ...)
            Preprocessed samples of one shape, or the output of the layer ``after``. On another
            device than the CPU, each stage is copied there when it is run.
        outputs : sequence of (str, pooling)
            Names of layers, in any order, and how the output of each becomes a vector: "avg",
            "max", "grid", "cls", "flatten", a callable, or a tuple of those side by side. "none"
            keeps it as it is.
        after : str, default=None
            A layer. Only the stages behind it are run.
        stages : mapping of str to torch.nn.Module, default=None
            Run instead of the backbone's own: copies, or the same in another form.

        Returns
        -------
        list of Tensor of shape (n, n_features)
            One for each of ``outputs``. The inputs are not changed.

        Raises
        ------
        ValueError
            For a layer that does not exist or that comes before ``after``.

        Examples
        --------
        >>> import torch
        >>> from sktransfer import load_backbone
        >>> backbone = load_backbone("efficientnet_lite0")
        >>> images = torch.zeros(2, 3, 224, 224)
        >>> with torch.inference_mode():
        ...     low, high = backbone.run(images, [("stem", "max"), ("head", "avg")])
        >>> low.shape, high.shape
        (torch.Size([2, 32]), torch.Size([2, 1280]))
        """
        is_own = stages is None
        stages = stages_of(self) if stages is None else stages
        names = list(stages)
        first = names.index(after) if after in names else 0
        wanted: dict[str, list[int]] = {}
        for i, (layer, _) in enumerate(outputs):
            wanted.setdefault(layer, []).append(i)
        for layer in wanted if after is None else [after, *wanted]:
            if layer not in names[first:]:
                behind = f" from {after!r} on" if first else ""
                raise ValueError(f"Backbone {self.name!r} has no layer {layer!r}{behind}.")
        shape = inputs.shape[1:] if after is None else self.input_shape
        sides = (shape[1], shape[2]) if shape is not None and len(shape) == 3 else None
        where: dict[str, Any] = {"sides": sides, "prefix_tokens": self.prefix_tokens}
        pooled: list[Any] = [None] * len(outputs)
        x: Any = inputs.clone()
        for name in names[first:]:
            if not wanted:
                break
            if name != after:
                stage = stages[name]
                if is_own and inputs.device.type != "cpu":
                    stage = copy.deepcopy(stage).to(inputs.device)
                x = stage(x)
            for i in wanted.get(name, ()):
                pooled[i] = pool(x, outputs[i][1], masked=self.modality.has_tokens, **where)
            if wanted.pop(name, None) and isinstance(x, torch.Tensor):
                # The next stage may work in place, and what was pooled may share memory with it.
                x = x.clone()
        return pooled

    def with_image_size(self, image_size: int | None) -> Backbone:
        """Return this backbone for another input size, sharing the weights.

        Embeddings of positions are interpolated to the size, where the source of the network does
        that (``resize``).

        Parameters
        ----------
        image_size : int or None
            Side of the square, in pixels, 1 to 4096; None changes nothing.

        Returns
        -------
        Backbone
            The same again for the last four sizes.

        Raises
        ------
        ValueError
            For a size that is no integer or out of bounds, or a preprocessing without a size.
            Whether the network takes images of the size shows when it runs.
        """
        shape = self.input_shape
        if image_size is None or (shape and shape[1:] == (image_size, image_size)):
            return self
        if shape is None or not hasattr(self.preprocess, "with_size"):
            raise ValueError(
                f"image_size={image_size!r} cannot be applied: the preprocessing of backbone "
                f"{self.name!r} is {self.preprocess!r}, which has no size to change."
            )
        if not is_whole(image_size) or not 1 <= image_size <= _LARGEST_SIZE:
            raise ValueError(
                f"image_size={image_size!r}: give 1 to {_LARGEST_SIZE} pixels. Backbone "
                f"{self.name!r} was made for {max(shape[1:])}."
            )
        native: Any = self.native or self
        if native.input_shape[1:] == (image_size, image_size):
            return native
        sized = native.prepared.setdefault("sized", {})
        return keep_last(sized, image_size, _SIZES_KEPT, lambda: native._resized(image_size))

    def with_channels(self, channels: int | Sequence[tuple[float, float]] | None) -> Backbone:
        """Return this backbone for images of another number of channels.

        Its first convolution has the weights of the original one, repeated for the channels, as
        those of timm are adapted. Samples are no longer converted to RGB (modality
        "multichannel").

        Parameters
        ----------
        channels : int, sequence of (float, float) or None
            Their number; or the mean and the standard deviation of each, with values in [0, 1]. For
            a number, all have the mean of those that the weights were trained with. None changes
            nothing.

        Returns
        -------
        Backbone
            The same again for the same channels. Tensors that do not change are shared.

        Raises
        ------
        ValueError
            For no positive number, a network that does not begin with a convolution of three
            channels, or a preprocessing without channels.
        """
        if channels is None:
            return self
        native: Any = self.native or self
        shape = native.input_shape
        if shape is None or len(shape) != 3 or not hasattr(native.preprocess, "with_channels"):
            raise ValueError(
                f"channels={channels!r} cannot be applied: the preprocessing of backbone "
                f"{self.name!r} is {self.preprocess!r}, which has no channels to change. Your own "
                "network for more channels is load_backbone(network, preprocess="
                "ImagePreprocessing(…)) with a mean for each of them."
            )
        mean, std = _mean_and_std(channels, native.preprocess)
        changed = native.preprocess.with_channels(mean, std)
        if changed == native.preprocess:
            return self
        kept = native.prepared.setdefault("channels", {})
        if changed not in kept:
            kept.clear()  # of one network, little is shared by several numbers of channels
            kept[changed] = native._of_channels(changed, tuple(zip(mean, std, strict=True)))
        size = None if self.native is None else self.preprocess.input_shape[-1]
        return kept[changed].with_image_size(size)

    @torch.inference_mode(False)
    def _of_channels(self, changed: Any, channels: tuple[tuple[float, float], ...]) -> Backbone:
        n = len(channels)
        other = self._with_preprocess(changed, channels=channels)
        other.modality = get_modality("multichannel")
        other.prepared, other._fingerprint = {}, None
        try:
            if self.stages is not None:
                raise ValueError("it is given as stages")
            if {layer.in_channels for layer in first_convolutions(self.module).values()} != {n}:
                other.module = with_channels(self.module, n).eval()
        except ValueError as error:
            raise ValueError(
                f"channels={n}: the first layer of backbone {self.name!r} cannot be adapted to "
                f"{n} channels: {error}. Adapt a network of your own, and give it as a module."
            ) from None
        return other

    def with_long_texts(self, long_texts: str | None) -> Backbone:
        """Return this backbone with another treatment of texts that are too long for it.

        Parameters
        ----------
        long_texts : {"truncate", "chunk"} or None
            "truncate" cuts a text off after the greatest number of tokens. "chunk" divides it into
            chunks of that number, which run through the network one by one, so that pooling
            covers all tokens. None changes nothing.

        Returns
        -------
        Backbone
            With the same weights; the same object again for the same value.

        Raises
        ------
        ValueError
            For another value, or a preprocessing that does not limit the length of texts.
        """
        if long_texts is None or getattr(self.preprocess, "long_texts", None) == long_texts:
            return self
        if long_texts not in ("truncate", "chunk"):
            raise ValueError(f"long_texts={long_texts!r}: give 'truncate', 'chunk' or None.")
        if not hasattr(self.preprocess, "with_long_texts"):
            raise ValueError(
                f"long_texts={long_texts!r} cannot be applied: the preprocessing of backbone "
                f"{self.name!r} is {self.preprocess!r}, which does not limit the length of texts."
            )
        return self._with_texts(self.preprocess.with_long_texts(long_texts), long_texts=long_texts)

    def with_prompt(self, prompt: str | None, *, is_text: bool = False) -> Backbone:
        """Return this backbone with another text before each sample.

        Parameters
        ----------
        prompt : str or None
            A name that the network knows, or a text; "" for none. None changes nothing.
        is_text : bool, default=False
            Whether it is a text, also if it is the same as a name.

        Returns
        -------
        Backbone
            With the same weights; the same object again for the same prompt.

        Raises
        ------
        TypeError
            For another type.
        ValueError
            For a name that the network does not know, or a preprocessing that takes no prompt.
        """
        if prompt is None:
            return self
        if not isinstance(prompt, str):
            raise TypeError(
                f"prompt={prompt!r:.80}: give a text, or the name of a prompt that the network "
                f"knows, and no {type(prompt).__name__}."
            )
        if not hasattr(self.preprocess, "with_prompt"):
            raise ValueError(
                f"prompt={shorten(prompt, 80)!r} cannot be applied: the preprocessing of backbone "
                f"{self.name!r} is {self.preprocess!r}, which puts nothing before a text."
            )
        changed = self.preprocess.with_prompt(prompt, is_text=is_text)
        if changed.prompt == self.preprocess.prompt:
            return self
        return self._with_texts(changed, prompt=changed.prompt)

    def _with_texts(self, changed: Any, **arguments: str) -> Backbone:
        """Return a backbone with another preprocessing of texts, made once."""
        if changed is self.preprocess:  # word vectors take texts of any length
            return self

        def make() -> Backbone:
            other = self._with_preprocess(changed, **arguments)
            other._pool_behind_prompt()
            return other

        kept = self.prepared.setdefault("texts", {})
        return keep_last(kept, changed.content_digest, _TEXTS_KEPT, make)

    def _pool_behind_prompt(self) -> None:
        """Let the stages that leave out the tokens of the prompt know how many these are."""
        stages: Any = self.stages or {}
        pooling = {k: stage for k, stage in stages.items() if hasattr(stage, "behind_prompt")}
        n = self.preprocess.n_prompt_tokens if pooling else 0
        if all(stage.n_prompt_tokens == n for stage in pooling.values()):
            return
        from .text_stages import in_order

        changed = {name: stage.behind_prompt(n) for name, stage in pooling.items()}
        self.stages = {name: changed.get(name, stage) for name, stage in stages.items()}
        self.module = in_order(dict(self.stages))
        self.prepared = {}
        self._fingerprint = None

    @torch.inference_mode(False)  # others train it, although this caller may not
    def _resized(self, image_size: int) -> Backbone:
        # From the native size, since the resize is rounded to whole pixels.
        changed = self.preprocess.with_size(image_size)
        other = self._with_preprocess(changed, image_size=image_size)
        other.native = self
        if self.resize is not None:
            # A size that its source refuses is refused by the network, too, when it runs.
            with contextlib.suppress(Exception):
                other.module, other.prepared = self.resize(self.module, image_size).eval(), {}
        return other

    def _with_preprocess(self, preprocess, **arguments) -> Backbone:
        """Return a backbone that shares all but the preprocessing, and how it is loaded again."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, preprocess=preprocess)
        if self.reference is not None:
            other.reference = dataclasses.replace(self.reference, **arguments)
        return other

    def __sklearn_clone__(self) -> Backbone:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Backbone:
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return the reference and what it gives, or all attributes without a reference."""
        if self.reference is not None:
            return {"reference": self.reference, "given": self._given()}
        return self.__dict__ | {"_fingerprint": self.fingerprint, "prepared": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A pickle calls the reference itself. Other formats, such as that of skops, keep the state.
        if "module" not in state:
            state = state["reference"].load(*state["given"]).__dict__
        self.__dict__.update(state)

    def __reduce_ex__(self, protocol: Any) -> str | tuple[Any, ...]:
        if self.reference is None:
            return super().__reduce_ex__(protocol)
        return self.reference.load, self._given()

    def _given(self) -> tuple[Any, ...]:
        """Return what the reference compares with the network that it loads."""
        return (self.fingerprint, self.behavior if self.carries_behavior else None)

    def __repr__(self) -> str:
        classes = "" if self.classes is None else f", {len(self.classes)} classes"
        return f"<Backbone {self.name!r}: {type(self.module).__name__}{classes}>"


def keep_last(kept: dict[Any, _Kept], key: Hashable, n: int, make: Callable[[], _Kept]) -> _Kept:
    """Return what is kept under a key, made if need be; the last n that were asked for stay."""
    value = kept.pop(key, None)
    kept[key] = value = make() if value is None else value
    while len(kept) > n:
        kept.pop(next(iter(kept)))
    return value


def _mean_and_std(channels: Any, preprocess: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation of each channel."""
    if is_whole(channels) and channels > 0:
        channels = int(channels)
        if channels == len(preprocess.mean):
            return preprocess.mean, preprocess.std
        pairs: Any = (preprocess.mean, preprocess.std)
        mean, std = (sum(values) / len(values) for values in pairs)
        return (mean,) * channels, (std,) * channels
    try:
        mean, std = zip(*((float(mean), float(std)) for mean, std in channels), strict=True)
        if all(math.isfinite(value) for value in mean) and all(0 < s < math.inf for s in std):
            return mean, std
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"channels={channels!r:.80}: give their number, or a pair (mean, standard deviation) for "
        "each of them."
    )


def _tokens_before_patches(module: Any) -> tuple[int | None, bool | None]:
    """Return how many tokens come before the patches, and whether the first is a class token.

    None, if a network does not say it as those of timm and torchvision do.
    """
    n_tokens = getattr(module, "num_prefix_tokens", None)
    if isinstance(n_tokens, int):  # of timm
        embeds = getattr(module, "embeds", module)  # of networks for several sizes (NaFlex)
        return n_tokens, getattr(embeds, "cls_token", None) is not None
    if type(module).__module__ == "torchvision.models.vision_transformer":
        return 1, True
    return None, None
