"""Read and check the JSON files in the folder of a sentence encoder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from .weights import first_line

__all__ = ["SentenceSettings", "max_length", "read_json", "sentence_settings"]

_JSON_TYPES = {dict: "object", list: "list", str: "text", int: "number", bool: "boolean"}


@dataclasses.dataclass
class SentenceSettings:
    """How a folder makes one vector of a text.

    Parameters
    ----------
    path : str, default=""
        Where in the folder the network and its tokenizer are.
    pooling : {"mean", "cls", "max"}, default="mean"
    normalise : bool, default=False
        Whether the vector is scaled to length one.
    prompt : str, default=""
        Is put before every text.
    """

    path: str = ""
    pooling: str = "mean"
    normalise: bool = False
    prompt: str = ""


def read_json(path: Path, kind: type[Any] = dict) -> Any:
    """Read a JSON file whose content must be of one type.

    Parameters
    ----------
    path : Path
    kind : type, default=dict

    Returns
    -------
    object of ``kind`` or None
        None if there is no such file.

    Raises
    ------
    ValueError
        If the file is no JSON, or holds another type.
    """
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not a JSON file ({first_line(error)})") from error
    return _checked(found, kind, f"{str(path)!r}")


def _checked(value, kind: type, where: str):
    """Return a value of a JSON file, or raise ValueError if it is of another type."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        found = _JSON_TYPES.get(type(value), repr(value)[:40])
        raise ValueError(f"{where} must hold a JSON {_JSON_TYPES[kind]}, and holds: {found}")
    return value


def sentence_settings(folder: Path) -> SentenceSettings:
    """Read the configuration for sentence-transformers, where a folder has one.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    SentenceSettings

    Raises
    ------
    ValueError
        Naming the file that is damaged or asks for what is not supported.
    """
    settings, file = SentenceSettings(), folder / "modules.json"
    for module in read_json(file, list) or []:
        module = _checked(module, dict, f"{str(file)!r}: each module")
        kind, path = (
            _checked(module.get(key), str, f"{str(file)!r}: {key!r}") for key in ("type", "path")
        )
        _add_module(settings, kind.rpartition(".")[2], folder, path)
    settings.prompt = _prompt(folder / "config_sentence_transformers.json")
    return settings


def _add_module(settings: SentenceSettings, kind: str, folder: Path, path: str) -> None:
    if kind == "Transformer":
        settings.path = path
    elif kind == "Pooling":
        settings.pooling = _pooling(folder / path / "config.json")
    elif kind == "Normalize":
        settings.normalise = True
    else:
        raise ValueError(
            f"{str(folder)!r} ends with a {kind!r} of sentence-transformers, which is not "
            "supported. Without modules.json the folder gives the mean over tokens."
        )


def _prompt(file: Path) -> str:
    config = read_json(file) or {}
    prompts = _checked(config.get("prompts") or {}, dict, f"{str(file)!r}: 'prompts'")
    name = config.get("default_prompt_name")
    prompt = prompts.get(name) if isinstance(name, str) else None
    return _checked(prompt or "", str, f"{str(file)!r}: the default prompt")


def _pooling(file: Path) -> str:
    config = read_json(file) or {}
    modes = config.get("pooling_mode") or [
        key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for key, value in config.items()
        if key.startswith("pooling_mode_") and value is True
    ]
    modes = modes if isinstance(modes, list) else [modes]
    if len(modes) != 1 or modes[0] not in ("mean", "cls", "max"):
        raise ValueError(f"{str(file)!r} asks for the pooling {modes}: not mean, cls or max.")
    if config.get("include_prompt") is False:
        raise ValueError(f"{str(file)!r} pools without the prompt, which is not supported.")
    return modes[0]


def max_length(folder: Path) -> tuple[int | None, bool]:
    """Read how many tokens a text may have, and whether texts are turned into lower case.

    Parameters
    ----------
    folder : Path
        That of the network and its tokenizer.

    Returns
    -------
    (int or None, bool)
        None if no file says it.
    """
    for file in sorted(folder.glob("sentence_*_config.json")):
        if config := read_json(file):
            longest = config.get("max_seq_length")
            if longest is not None and _checked(longest, int, f"{str(file)!r}: max_seq_length") < 1:
                raise ValueError(f"{str(file)!r}: max_seq_length={longest} is less than 1")
            return longest, bool(config.get("do_lower_case"))
    return None, False
