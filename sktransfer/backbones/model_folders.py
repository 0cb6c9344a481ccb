"""Folders in the format of transformers: find one, read its files, build its network."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from .imagenet import unique_names
from .weights import check_finite, first_line, licence_of_folder, random_weights

_SUFFIXES = (".json", ".txt", ".model", ".safetensors")  # files of a folder that are read
IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")  # settings of images


def find_folder(name: str, download: bool) -> Path:
    """Return the local folder of a name, downloaded from the hub if necessary."""
    if not name.removeprefix("hf:").strip():
        raise ValueError(f"backbone {name!r}: give a folder or a name of the hub, 'hf:<folder>'.")
    transformers_library()
    local = local_folder(name)
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


def local_folder(name: str) -> Path | None:
    """Return the local folder of a name, or None for a name on the hub."""
    given = name.removeprefix("hf:")
    folder = Path(given).expanduser()
    there = name.startswith("hf:") and given.strip() != "" and folder.is_dir()
    return Path(os.path.abspath(folder)) if there else None


def origin_of(name: str, folder: Path, weights: str | None) -> dict[str, Any]:
    """Return the arguments of a backbone that say where it comes from.

    They are "name", "loaded_by" and "licence". ``name`` is "hf:" and the path of a folder or its
    name on the hub, or a name of the registry.
    """
    local = local_folder(name)
    # A pickle may be opened in another working directory, so that it needs the absolute path.
    full = name if local is None else f"hf:{local}"
    is_trained = weights == "default"
    return {
        "name": name if local is None else f"hf:{local.name}",
        "loaded_by": (full, "default") if is_trained else None,
        "licence": licence_of_folder(folder) if is_trained else None,
    }


def files_of_folder(name: str) -> list[Path]:
    """List the files of a local folder, "hf:<path>", that determine its backbone."""
    folder = local_folder(name)
    inside = [] if folder is None else chain(folder.glob("*"), folder.glob("*/*"))
    return sorted(path for path in inside if path.suffix in _SUFFIXES and path.is_file())


def modality_of_folder(folder: Path) -> str:
    """Tell whether the network of a folder takes "image" or "text".

    It is "image" if the folder has the settings of an image processor, and no modules of
    sentence-transformers.
    """
    of_images = any((folder / file).is_file() for file in IMAGE_FILES)
    return "image" if of_images and not (folder / "modules.json").is_file() else "text"


def read_json(path: Path, kind: type[Any] = dict) -> Any:
    """Read a JSON file whose content must be of one type; None if there is no such file."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not a JSON file ({first_line(error)})") from error
    return checked(found, kind, f"{str(path)!r}")


def checked(value: Any, kind: type, where: str) -> Any:
    """Return a value of a JSON file, or raise ValueError if it is of another type."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        found = _JSON_TYPES.get(type(value), repr(value)[:40])
        wanted = _JSON_TYPES.get(kind, "number")
        raise ValueError(f"{where} must hold a JSON {wanted}, and holds: {found}")
    return value


_JSON_TYPES = {dict: "object", list: "list", str: "text", int: "number", bool: "boolean"}


def is_classifier_folder(folder: Path) -> bool:
    """Tell whether a folder holds a classifier of sequences with at least two classes."""
    file = folder / "config.json"
    config = read_json(file) or {}
    of = checked(config.get("architectures") or [], list, f"{str(file)!r}: 'architectures'")
    labels = checked(config.get("id2label") or {"0": "", "1": ""}, dict, f"{str(file)!r}: labels")
    return len(labels) > 1 and any(str(name).endswith("ForSequenceClassification") for name in of)


def class_names(config: Any) -> Sequence[str] | None:
    """Return the names of a classifier's outputs; equal names get their position.

    None if the outputs do not become probabilities that sum to one.
    """
    if config.problem_type not in (None, "single_label_classification"):
        return None
    names = [str(label) for _, label in sorted(config.id2label.items())]
    return unique_names(names, [str(i) for i in range(len(names))])


def load_network(
    name: str,
    folder: Path,
    weights: str | None,
    auto_class: str = "AutoModel",
    keeps_pooler: bool = False,
) -> nn.Module:
    """Build the network of a folder with random weights or with the tensors of the folder.

    ``auto_class`` is the class of transformers that chooses that of the network, or that of the
    network. A pooler whose weights are in the folder belongs to the network if ``keeps_pooler``;
    one that ``AutoModel`` adds does not. The network is in float32 and in ``eval`` mode. A
    ``ValueError`` names the backbone and the file that is damaged, missing or not supported.
    """
    import transformers

    file = folder / "config.json"
    settings = read_json(file) or {}
    family = settings.get("model_type")
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"backbone {name!r}: {str(folder)!r} holds an adapter of peft. Save the network with "
            "it: AutoModel.from_pretrained(folder).merge_and_unload().save_pretrained(other)."
        )
    own = "of its own is not run" if "auto_map" in settings else "from elsewhere is not run"
    problem = (
        f"{str(file)!r}, of the family {family!r:.40}, cannot be read by transformers, and code "
        f"{own}. Give the network itself: load_backbone(module, preprocess=…, modality=…)"
    )
    # The configuration of a network for images and texts contains that of its part for images.
    of_network = getattr(getattr(transformers, auto_class), "config_class", None)
    with quiet(), explained(name, problem):
        config = (of_network or transformers.AutoConfig).from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    texts = transformers.MODEL_FOR_TEXT_ENCODING_MAPPING
    has_decoder = config.is_encoder_decoder or hasattr(config, "num_decoder_layers")
    if auto_class == "AutoModel" and has_decoder and type(config) in texts:
        auto_class = "AutoModelForTextEncoding"  # the encoder of T5
    if auto_class == "AutoModel" and type(config) not in transformers.MODEL_MAPPING:
        raise ValueError(
            f"backbone {name!r}: a network of the family {family!r:.40} cannot be used, since "
            f"transformers has no AutoModel of it. Give its encoder itself: load_backbone(module, "
            "preprocess=…, modality=…)."
        )
    cls = getattr(transformers, auto_class)
    if weights is not None:
        made = _pretrained(name, folder, config, cls)
    else:
        problem = f"{str(file)!r} is no network that transformers can build"
        with quiet(), explained(name, problem):
            made = random_weights(lambda: getattr(cls, "from_config", cls)(config))
    return _without_unused(made, settings, keeps_pooler)


def load_tokenizer(name: str, folder: Path) -> Any:
    """Read the tokenizer of a folder with transformers; errors name the backbone."""
    from transformers import AutoTokenizer

    problem = f"{str(folder / 'tokenizer.json')!r} cannot be read by transformers"
    with quiet(), explained(name, problem):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def make_bert(**settings: Any) -> nn.Module:
    """Build the encoder of BERT with random weights, by settings of transformers' ``BertConfig``.

    It is in ``eval`` mode, and without the layers of BERT behind its blocks.
    """
    transformers_library()
    from transformers import BertConfig, BertModel

    config = BertConfig(**settings)
    made = random_weights(lambda: BertModel(config, add_pooling_layer=False))
    return _without_unused(made, settings)


def _pretrained(name: str, folder: Path, config: Any, cls: Any) -> nn.Module:
    """Build the network with the tensors of the folder, every one of them there and finite."""
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
    with quiet(), explained(name, problem):
        model, info = cls.from_pretrained(folder, **options)
    absent = sorted(info["missing_keys"])
    missing = [key for key in absent if not key.startswith("pooler")]
    if missing:
        raise ValueError(
            f"backbone {name!r}: {len(missing)} tensors are missing in {str(files[0])!r}, the "
            f"first of them {missing[0]!r}. Is the folder that of another network?"
        )
    if absent:  # many folders have an encoder without it
        model.pooler = None
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


def _without_unused(model: Any, settings: dict, keeps_pooler: bool = False) -> nn.Module:
    """Remove from a network what is not used, and what depends on the path of its files."""
    can_lack_it = "add_pooling_layer" in inspect.signature(type(model)).parameters
    if can_lack_it and not keeps_pooler:
        model.pooler = None
    # Every block holds the configuration, with the folder and the version of transformers. The
    # fingerprint gets the hash of the rest.
    ours = {k: v for k, v in settings.items() if not k.startswith(("_", "transformers_version"))}
    digest = hashlib.sha256(json.dumps(ours, sort_keys=True).encode()).hexdigest()
    for module in model.modules():
        if hasattr(module, "config"):
            module.config.content_digest = digest
        if "name_or_path" in vars(module):
            module.name_or_path = ""
    return model.float().eval()


@contextlib.contextmanager
def quiet():
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


@contextlib.contextmanager
def explained(name: str, problem: str):
    """Turn what transformers raises into a ValueError that names the backbone and the problem."""
    try:
        yield
    except Exception as error:  # it raises nearly everything
        why = first_line(error)
        why = why if type(error).__name__ in why else f"{type(error).__name__}: {why}"
        raise ValueError(f"backbone {name!r}: {problem} ({why})") from error


def transformers_library() -> Any:
    """Return the module transformers, or raise ImportError with the line that installs it."""
    try:
        import transformers
    except ImportError:
        raise ImportError(
            "Networks of transformers need that library: pip install 'sktransfer[transformers]'"
        ) from None
    return transformers
