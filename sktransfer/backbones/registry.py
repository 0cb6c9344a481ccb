"""Backbones by name or of a module, and a function to add a name."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import importlib.util
import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data import Modality, get_modality, shorten
from .backbone import Backbone, keep_last
from .behavior import check_behavior
from .lite import LITE, load_lite
from .preprocessing import as_preprocessing, usual_modality
from .weights import first_convolutions, load_weights


def load_backbone(
    backbone: str | nn.Module | Callable[..., Any] | Backbone,
    *,
    weights: str | Path | None = "default",
    image_size: int | None = None,
    channels: int | Sequence[tuple[float, float]] | None = None,
    long_texts: str | None = None,
    prompt: str | None = None,
    prompts: Mapping[Any, Any] | None = None,
    preprocess: Callable[..., Any] | None = None,
    stages: Sequence[nn.Module] | Mapping[str, nn.Module] | None = None,
    classes: Sequence[str] | None = None,
    modality: str | Modality | None = None,
    prefix_tokens: int | None = None,
    name: str | None = None,
    download: bool = True,
) -> Backbone:
    """Build a backbone from a name, a module or a factory of modules.

    Parameters
    ----------
    backbone : str, torch.nn.Module, callable, Backbone or fitted estimator
        A name from :func:`list_backbones`, ``"timm:<name>"``, ``"hf:<folder or name>"`` for a
        network for images or texts in the format of transformers, your own network, a function
        without arguments that returns one, or a fitted :class:`FineTunedClassifier`. A module is
        copied; the original is not changed.
    weights : str, Path, word vectors or None, default="default"
        For names: "default" for the recommended published weights, the name of another
        published set, the path of a file of tensors, or None for random initialisation
        (with a warning). For "word-vectors" all that :func:`load_word_vectors` takes.
    image_size : int, default=None
        Side of the square given to the network, in pixels, at most 4096; by default the size that
        its weights were trained with.
    channels : int or sequence of (float, float), default=None
        For networks by name: the number of channels of the images, as ``in_chans`` of timm; or for
        each channel its mean and standard deviation, with values in [0, 1]. Samples are then
        arrays ``(height, width, channels)``, ``.npy`` or TIFF files, of which nothing is converted
        to RGB. See :meth:`Backbone.with_channels`.
    long_texts : {"truncate", "chunk"}, default=None
        What happens to a text of more tokens than the network takes: "truncate" cuts it off,
        "chunk" divides it into chunks of the greatest length, which run through the network one
        by one, so that pooling covers all tokens. None is "truncate" for names, and for a
        :class:`Backbone` or fitted estimator what it does.
    prompt : str, default=None
        For sentence encoders: what is put before each text. A name that the network's folder knows,
        such as "query", or a text; "" for none. By default what the folder says.
    prompts : mapping of label to str or list of str, default=None
        Texts that describe classes, as in :class:`PretrainedClassifier`: the last stage of the
        network scores them. A network at another input size, or with another ``prompt``, keeps
        them.
    preprocess : callable, default=None
        For modules: a function of one sample that returns a tensor without a batch axis. For
        images, its argument is a ``PIL.Image.Image`` in RGB, and the tensor has the shape
        ``(channels, height, width)``. For texts, it returns ids of tokens, and 0 is padding. An
        :class:`ImagePreprocessing` with other than three means takes images of that many channels.
        Without it, samples are numeric arrays, which are the input of the module as float32.
    stages : sequence or mapping of torch.nn.Module, default=None
        For modules that cannot be traced: the same network as modules run in order.
    classes : sequence of str, default=None
        For modules that are classifiers: the names of the outputs.
    modality : {"image", "multichannel", "text", "array"}, another name or Modality, default=None
        For modules: the type of the samples. By default "image" with ``preprocess``, else
        "array". The argument of ``preprocess`` is for "multichannel" an array
        ``(height, width, channels)``, uint8 or float32 in [0, 1].
        ``sktransfer.data.register_modality`` registers other types.
    prefix_tokens : int, default=None
        For modules that are vision transformers: how many tokens, a class token and registers, come
        before the patches; poolings other than "cls" leave them out. None is what networks of timm
        and torchvision say; for others it is not known, and all tokens count as patches.
    name : str, default=None
        For modules: the name in feature names; by default that of the class.
    download : bool, default=True
        Whether published weights may be downloaded.

    Returns
    -------
    Backbone
        The same object for a name that is one of the last two loaded.

    Raises
    ------
    ValueError
        For an unknown name (the nearest ones are listed), weights that do not fit, an
        ``image_size`` out of bounds, ``channels`` that the network cannot be adapted to,
        ``long_texts`` or ``prompt`` for samples that are no texts, or ``prompts`` for a network
        that reads no texts.
    TypeError
        For a ``prompt`` that is no text, or ``prompts`` that are no dictionary.
    FileNotFoundError
        For weights that are not on this machine and cannot be downloaded.

    Examples
    --------
    >>> from sktransfer import load_backbone
    >>> load_backbone("efficientnet_lite0")
    <Backbone 'efficientnet_lite0': Sequential, 1000 classes>
    """
    own: dict[str, Any] = {"preprocess": preprocess, "stages": stages, "classes": classes}
    own |= {"modality": modality, "name": name, "prefix_tokens": prefix_tokens}
    _check_source(backbone, weights, own)
    if hasattr(backbone, "to_backbone"):  # a fitted estimator of ours
        backbone = backbone.to_backbone()
    if isinstance(backbone, Backbone):
        network = backbone
    elif not isinstance(backbone, str):
        network = from_module(backbone, **own)
    elif isinstance(weights, str | Path | None):
        path_or_name = None if weights is None else os.path.expanduser(weights)
        network = _load_shared(backbone, path_or_name, download)
    elif backbone == "word-vectors":
        from .wordvectors import load_word_vectors

        network = load_word_vectors(weights)
    else:
        raise TypeError(f"weights of backbone {backbone!r}: a name or a file, got {type(weights)}")
    network = network.with_channels(channels).with_image_size(image_size)
    network = network.with_long_texts(long_texts).with_prompt(prompt)
    if prompts is not None:
        from .zero_shot import with_prompts

        network = with_prompts(network, prompts)
    if isinstance(backbone, str) and weights is None and backbone != "word-vectors":
        warnings.warn(
            f"weights=None: backbone {backbone!r} is initialised at random and knows nothing. "
            "Its features are a baseline, not transfer learning.",
            stacklevel=2,
        )
    return network


def _check_source(backbone: Any, weights: Any, own: Mapping[str, Any]) -> None:
    """Check that what is given is for this kind of backbone."""
    given = sorted(key for key, value in own.items() if value is not None)
    if given and (isinstance(backbone, str | Backbone) or hasattr(backbone, "to_backbone")):
        raise ValueError(f"{', '.join(given)}: for modules only; {backbone!r} brings its own.")
    if not isinstance(backbone, str) and not (isinstance(weights, str) and weights == "default"):
        raise ValueError(
            f"weights={str(weights)!r} is for backbones given by name; load them into your module "
            "with load_state_dict before giving it."
        )


# -- by name ---------------------------------------------------------------------------------------


# The last two backbones loaded by name. Estimators share them, since they are never changed. A
# grid search deletes each fitted estimator before it fits the next one; without this table the
# weights would be read again for each fit.
_SHARED: dict[tuple[Any, ...], Backbone] = {}


def _load_shared(name: str, weights: str | None, download: bool) -> Backbone:
    """Load a backbone once for all estimators of this process; keep the last two."""

    @torch.inference_mode(False)  # others train it, although this caller may not
    def load() -> Backbone:
        backbone = _load_named(name, weights, download)
        if weights and Path(weights).is_file():  # of a network that was trained on more channels
            layers = first_convolutions(backbone.module).values()
            n = next((layer.in_channels for layer in layers), 3)
            backbone = backbone if n == 3 else backbone.with_channels(n)
        if backbone.loaded_by is not None:
            backbone.reference = Reference(*backbone.loaded_by)
        return backbone

    return keep_last(_SHARED, (name, weights, _stamp(name, weights)), 2, load)


def _stamp(name: str, weights: str | None) -> tuple:
    """Return the state of local files, so that a file that has changed is read again.

    Its size and time may be those of before, as after ``cp -p``; the time of its last change of any
    kind cannot be set, and a file that takes its place has another number.
    """
    path, files = Path(weights or ""), []
    if path.is_file():
        files = [path]
    elif name.startswith("hf:"):
        from .model_folders import files_of_folder

        files = files_of_folder(name)
    versions = ((file, file.stat()) for file in files)
    return tuple((str(file), s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for file, s in versions)


def _load_named(name: str, weights: str | None, download: bool) -> Backbone:
    if name.startswith("timm:"):
        from .timm import load_timm

        return load_timm(name, weights, download=download)
    if name.startswith("hf:"):
        from .huggingface import load_hf

        return load_hf(name, weights, download=download)
    if name not in _REGISTRY and name not in _with_torchvision():
        raise unknown_backbone(name, _REGISTRY)
    return _REGISTRY[name](name, weights, download=download)


def _with_torchvision() -> dict[str, Callable[..., Backbone]]:
    """Add the networks of torchvision to the registry, and return it."""
    from .torchvision import load_torchvision, torchvision_names

    for name in torchvision_names():
        _REGISTRY.setdefault(name, load_torchvision)
    return _REGISTRY


def _load_text(name: str, weights, *, download: bool = True) -> Backbone:
    from .e5 import load_e5
    from .text_folders import load_minilm
    from .wordvectors import load_glove, load_word_vectors_named

    loaders = (load_e5, load_glove, load_minilm, load_word_vectors_named)
    return dict(zip(_TEXT, loaders, strict=True))[name](name, weights, download=download)


_TEXT = ("e5_small", "glove_6b_50d", "minilm_l6_v2", "word-vectors")
# name: a loader taking (name, weights, *, download) and returning a Backbone; those of torchvision
# are added when one is asked for, because its import takes half as long as those of torch and
# scikit-learn, and those of texts are imported then
_REGISTRY: dict[str, Callable[..., Backbone]] = dict.fromkeys(LITE, load_lite)
_REGISTRY |= dict.fromkeys(_TEXT, _load_text)
# name: modality; those of images are not listed
_MODALITY_OF: dict[str, str | Modality] = dict.fromkeys(_TEXT, "text")


def unknown_backbone(name: str, known: Iterable[str]) -> ValueError:
    """Make the error for an unknown name, with the nearest names or the prefix that is missing."""
    unknown = f"backbone {shorten(name, 80)!r} is not known."
    if "/" in name:
        return ValueError(
            f"{unknown} A network of the Hugging Face hub, or in a folder, is "
            f"'hf:{shorten(name, 80)}'. Networks for images are also those of torchvision and "
            "'timm:<name>', such as 'timm:vit_base_patch16_224'."
        )
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
    nearest = f"Nearest: {near}; all" if near else "All"
    return ValueError(
        f"{unknown} {nearest}: sktransfer.list_backbones(). A name of your own needs "
        "sktransfer.register_backbone first."
    )


# -- of a module -----------------------------------------------------------------------------------


@torch.inference_mode(False)  # the copy can be trained later
def from_module(
    module: nn.Module | Callable[..., Any],
    *,
    name: str | None = None,
    preprocess: Callable[..., Any] | None = None,
    stages: Sequence[nn.Module] | Mapping[str, nn.Module] | None = None,
    classes: Sequence[str] | None = None,
    modality: str | Modality | None = None,
    prefix_tokens: int | None = None,
) -> Backbone:
    """Make a backbone of a copy of a module, or of what a function returns.

    All else is as in :func:`load_backbone`. A ``TypeError`` if it is no module and returns none; a
    ``ValueError`` if the call of the function fails.
    """
    if not isinstance(module, nn.Module):
        if not callable(module) or (inspect.isclass(module) and not issubclass(module, nn.Module)):
            raise TypeError(f"backbone: a name, a torch.nn.Module or a factory, got {module!r}")
        module = _call_factory(module)
    # In one call, so that stages taken out of the module stay parts of its copy.
    module, stages = deepcopy((module, stages))
    for parameter in module.parameters():
        parameter.grad = None
    module.float()  # samples are float32
    modality = get_modality(modality or usual_modality(preprocess))
    named: Any = stages
    if stages is not None and not hasattr(stages, "items"):
        named = {f"stage{i}": stage for i, stage in enumerate(stages)}
    return Backbone(
        name or type(module).__name__.lower(),
        module,
        modality=modality,
        preprocess=as_preprocessing(preprocess, modality),
        classes=classes,
        stages=None if named is None else dict(named.items()),
        prefix_tokens=prefix_tokens,
    )


def _call_factory(factory: Callable) -> nn.Module:
    try:
        made = factory()
    except Exception as error:  # it may raise anything
        raise ValueError(f"backbone={factory!r:.80}: the call failed: {error}") from error
    if not isinstance(made, nn.Module):
        raise TypeError(
            f"backbone={factory!r:.80} must return a torch.nn.Module, got {type(made).__name__}."
        )
    return made


# -- names -----------------------------------------------------------------------------------------


def register_backbone(
    name: str, factory: Callable[..., Any] | None = None, **settings: Any
) -> Callable[..., Any]:
    """Give a network a name, so that estimators know it and pickle it by reference.

    Parameters
    ----------
    name : str
        The name to register. A name that exists is replaced in this process.
    factory : callable, default=None
        Called without arguments, returns the pretrained ``torch.nn.Module`` or a
        :class:`Backbone`. Without it, a decorator is returned.
    **settings
        ``preprocess``, ``classes``, ``stages``, ``modality`` and ``prefix_tokens`` as in
        :func:`load_backbone`, for a factory that returns a module.

    Returns
    -------
    callable
        The factory.

    Examples
    --------
    >>> from torch import nn
    >>> from sktransfer import load_backbone, register_backbone
    >>> @register_backbone("tiny")
    ... def tiny():
    ...     return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> load_backbone("tiny")
    <Backbone 'tiny': Sequential>
    """
    if factory is None:
        return lambda function: register_backbone(name, function, **settings)

    def load(name: str, weights, *, download: bool = True) -> Backbone:
        if weights is None:
            raise ValueError(
                f"weights=None: backbone {name!r} was registered as a function that returns a "
                "network with its weights. Register one that returns it without, by another name."
            )
        made = factory()
        if not isinstance(made, Backbone):
            made = from_module(made, name=name, **settings)
        made.is_registered = True
        if weights == "default":
            made.loaded_by = (name, weights)
        else:  # the file may not be there where a pickle is opened
            load_weights(made.module, weights)
        return made

    _REGISTRY[name] = load
    usual = usual_modality(settings["preprocess"]) if settings.get("preprocess") else "image"
    _MODALITY_OF[name] = settings.get("modality") or usual
    _SHARED.clear()
    return factory


def list_backbones(pattern: str = "*") -> list[str]:
    """List the names that :func:`load_backbone` knows.

    Parameters
    ----------
    pattern : str, default="*"
        Shell-style, as in ``fnmatch``. Names of timm are listed for patterns that begin with
        "timm:", if timm is installed.

    Returns
    -------
    list of str

    Examples
    --------
    >>> from sktransfer import list_backbones
    >>> list_backbones("vgg1?")
    ['vgg11', 'vgg13', 'vgg16', 'vgg19']
    """
    names = list(_with_torchvision())
    if pattern.startswith("timm:") and importlib.util.find_spec("timm"):
        from .timm import timm_names

        names += timm_names()
    return sorted(fnmatch.filter(names, pattern))


def modality_of(backbone: Any) -> Modality:
    """Return the modality of a backbone before it is loaded, of several that of the first.

    It is "array" for a function that makes the network.
    """
    if isinstance(backbone, list) and backbone:
        return modality_of(backbone[0])
    if isinstance(backbone, dict) and backbone:
        return modality_of(next(iter(backbone.values())))
    if isinstance(backbone, str):
        if backbone.startswith("hf:"):
            from .huggingface import modality_of_hf

            return get_modality(modality_of_hf(backbone))
        return get_modality(_MODALITY_OF.get(backbone, "image"))
    if hasattr(backbone, "to_backbone"):  # an estimator of ours
        return modality_of(getattr(backbone, "backbone_", backbone.backbone))
    return getattr(backbone, "modality", None) or get_modality("array")


# -- in pickles and files --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Reference:
    """The arguments of :func:`load_backbone` for a backbone, which a pickle holds in its place.

    ``prompt`` is the text itself, and never its name.
    """

    name: str
    weights: str
    image_size: int | None = None
    long_texts: str | None = None
    prompt: str | None = None
    channels: Sequence[tuple[float, float]] | None = None

    def load(self, fingerprint: str, behavior: dict[str, Any] | None = None) -> Backbone:
        """Load the backbone from files on this machine, and check what it is and computes.

        A ``ValueError`` if it has another fingerprint than the backbone that was pickled, or
        another output on a fixed sample (:attr:`Backbone.behavior`).
        """
        arguments = dataclasses.asdict(self)
        name, prompt = arguments.pop("name"), arguments.pop("prompt")
        backbone = load_backbone(name, **arguments, download=False)
        backbone = backbone.with_prompt(prompt, is_text=True)
        if backbone.fingerprint != fingerprint:
            raise ValueError(
                f"The weights of backbone {self.name!r} (weights={self.weights!r}) on this machine "
                "are not those that the saved estimator was fitted with: fingerprint "
                f"{backbone.fingerprint[:12]}, expected {fingerprint[:12]}. Install the same "
                "weights, or fit again."
            )
        if behavior is not None and behavior != backbone.behavior:
            check_behavior(backbone, behavior)
        return backbone


def architecture(name: str) -> Backbone:
    """Build a published network with random weights, for tensors that are loaded into it.

    It is not shared. A ``ValueError`` if the name is not known, or is that of a network of the
    user's.
    """
    return _load_named(name, None, download=False)
