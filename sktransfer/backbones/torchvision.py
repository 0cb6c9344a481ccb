"""Load the classification networks of torchvision with published weights."""

from __future__ import annotations

import contextlib
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import nn
from torchvision import models

from .backbone import Backbone
from .imagenet import imagenet_ids, unique_names
from .preprocessing import ImagePreprocessing
from .weights import check_sha256, load_weights, n_outputs, random_weights

# Arguments that torchvision's builders set if weights are given. The published weights of these two
# were trained with another scale of the input, which the network applies itself, and with auxiliary
# heads, which are in the file and do not run in `eval` mode.
_PRETRAINED = {
    "inception_v3": {"transform_input": True, "aux_logits": True, "init_weights": False},
    "googlenet": {"transform_input": True, "aux_logits": True, "init_weights": False},
}


def torchvision_names() -> list[str]:
    """List the names of the classification networks of ``torchvision.models``."""
    return models.list_models(module=models)


def load_torchvision(name: str, weights: str | None, *, download: bool = True) -> Backbone:
    """Load a network of ``torchvision.models`` with published, local or random weights.

    Parameters
    ----------
    name : str
        As in :func:`torchvision_names`.
    weights : str or None
        "default", the name of published weights such as "IMAGENET1K_V1", the path of a file,
        or None for random weights.
    download : bool, default=True
        Whether a missing file of published weights may be downloaded.
    """
    published = _published(name, weights)
    if weights is None:
        module = random_weights(lambda: _build(name, published))
    else:
        module = _read(name, published, weights, download)
    by_name = weights is not None and not Path(str(weights)).suffix
    categories = published.meta["categories"]
    is_imagenet = categories is not None and n_outputs(module) == len(categories)
    if is_imagenet:
        categories = unique_names(categories, imagenet_ids())
    elif categories is not None:  # the file is of a network that was trained on other classes
        categories = range(n_outputs(module))
    return Backbone(
        name,
        module,
        preprocess=_preprocessing(published),
        classes=categories,
        class_ids=imagenet_ids() if is_imagenet else None,
        loaded_by=(name, published.name) if by_name else None,
        licence=_licence(published) if by_name else None,
    )


def _licence(published) -> str | None:
    """Return what torchvision states about the licence of weights, for some of them."""
    found = published.meta.get("license")
    return None if found is None else f"{found} (metadata of torchvision's {published})"


def _published(name: str, weights):
    """Find the published weights of a name, or those that a local file is a copy of."""
    known = models.get_model_weights(name)
    if weights in (None, "default"):
        return known.DEFAULT
    if Path(str(weights)).suffix:
        same = [w for w in known if _file_name(w) == Path(weights).name]
        return same[0] if same else known.DEFAULT
    if weights not in known.__members__:
        raise ValueError(
            f"weights={weights!r} is not published for {name!r}: choose one of "
            f"{sorted(known.__members__)}, a file ending in .pth, .pt or .safetensors, or None."
        )
    return known[weights]


def _build(name: str, published, **kwargs) -> nn.Module:
    # The position embedding of a ViT has an entry for each patch of the trained image size.
    if name.startswith("vit_"):
        kwargs["image_size"] = published.meta["min_size"][0]
    return models.get_model(name, weights=None, **kwargs)


def _read(name: str, published, weights: str, download: bool) -> nn.Module:
    path = Path(weights) if Path(str(weights)).suffix else _fetch(published, download)
    kwargs = _PRETRAINED.get(name, {})
    # The meta device saves an initialisation that would be overwritten. RegNet computes widths
    # with tensors while it is built, which needs real ones.
    meta = contextlib.nullcontext() if name.startswith("regnet") else torch.device("meta")
    with meta, torch.random.fork_rng(devices=[]):
        module = _build(name, published, **kwargs)
    return load_weights(module, path)


def _file_name(published) -> str:
    return Path(urlparse(published.url).path).name


def _fetch(published, download: bool) -> Path:
    """Return the file of published weights, downloaded if it is missing, and check its hash."""
    name = _file_name(published)
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    sha256 = path.stem.rpartition("-")[2]
    if not path.exists():
        _download(published.url, path, sha256, download)
    check_sha256(path, sha256)
    return path


def _download(url: str, path: Path, sha256: str, allowed: bool) -> None:
    problem = "is not on this machine, and only fit downloads weights"
    if allowed:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256, progress=True)
            return
        except (OSError, RuntimeError) as error:  # no network, or another hash
            problem = f"could not be downloaded ({error})"
    raise FileNotFoundError(
        f"The weights file {path.name!r} {problem}. On a machine with internet access, download "
        f"{url} , whose SHA-256 begins with {sha256}, and copy it to the folder {path.parent} "
        "(set TORCH_HOME to use another folder), or give its path as weights=."
    )


def _preprocessing(published) -> ImagePreprocessing:
    preset = published.transforms()
    return ImagePreprocessing(
        preset.resize_size[0],
        preset.crop_size[0],
        tuple(preset.mean),
        tuple(preset.std),
        preset.interpolation.value,
    )
