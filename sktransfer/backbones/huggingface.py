"""Load networks of transformers from a folder or the Hugging Face hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from .backbone import Backbone
from .image_folders import load_image_folder
from .model_folders import IMAGE_FILES, find_folder, local_folder, modality_of_folder
from .text_folders import load_text_folder


def load_hf(name: str, weights: str | None, *, download: bool = True) -> Backbone:
    """Load a network of transformers from a folder, or by its name on the Hugging Face hub.

    A network for texts becomes a sentence encoder. The vectors of tokens are pooled as the folder's
    configuration for sentence-transformers says. A folder of transformers without one gives the
    mean over tokens, not normalised. A network for images is divided into blocks, and its
    preprocessing is that of its folder.

    ``name`` is "hf:" and the path of a folder, or the name on the hub. A pickle of the backbone
    holds the absolute path of the folder. ``FileNotFoundError`` if there is no such folder and the
    hub does not provide the files; ``ValueError``, with the name of the file, for what is damaged,
    missing or not supported.
    """
    folder = find_folder(name, download)
    if weights not in ("default", None):
        raise ValueError(
            f"weights={weights!r}: a network of transformers is a folder with its configuration "
            "and preprocessing; give it as 'hf:<folder>'."
        )
    if modality_of_folder(folder) == "image":
        return load_image_folder(name, folder, weights)
    return load_text_folder(name, folder, weights)


def modality_of_hf(name: str) -> str:
    """Tell by its name whether a network takes "image" or "text", before it is loaded.

    It is "text" for a name on the hub of which no file is on this machine.
    """
    folder = local_folder(name)
    if folder is not None:
        return modality_of_folder(folder)
    if importlib.util.find_spec("huggingface_hub") is None:
        return "text"
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for file in ("modules.json", *IMAGE_FILES):
        try:
            found = try_to_load_from_cache(name.removeprefix("hf:"), file)
        except HFValidationError:  # no name of the hub
            return "text"
        if isinstance(found, str):
            return modality_of_folder(Path(found).parent)
    return "text"
