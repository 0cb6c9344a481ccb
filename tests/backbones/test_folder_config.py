import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.backbones.encoder_support import TEXTS, add_sentence, load, run, token_vectors

POOLED = {
    "mean": lambda vectors: vectors.mean(0),
    "cls": lambda vectors: vectors[0],
    "max": lambda vectors: vectors.amax(0),
}


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("pooling", POOLED)
@pytest.mark.parametrize("new", [False, True])
def test_the_folder_says_how_tokens_are_pooled(new, pooling, normalise, folder):
    names = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}
    old = {f"pooling_mode_{key}": mode == pooling for mode, key in names.items()}
    add_sentence(folder, {"pooling_mode": pooling} if new else old, *["Normalize"] * normalise)
    backbone = load(folder)
    for text, row in zip(TEXTS, run(backbone, TEXTS), strict=True):
        expected = POOLED[pooling](token_vectors(folder, text))
        if normalise:
            expected = expected / expected.norm()
        torch.testing.assert_close(row, expected, rtol=1e-5, atol=1e-5)


def test_unknown_modules_after_the_pooling_raise(folder):
    add_sentence(folder, {"pooling_mode": "mean"}, "Dense")
    with pytest.raises(ValueError, match=r"'Dense'.* not supported"):
        load(folder)


def test_a_network_in_a_folder_of_its_own_is_found(folders, tmp_path):
    shutil.copytree(folders["bert"], tmp_path / "0_Transformer")
    add_sentence(tmp_path, {"pooling_mode": "cls"})
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "0_Transformer" / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    backbone = load(tmp_path)
    expected = token_vectors(folders["bert"], TEXTS[0])[0]
    torch.testing.assert_close(run(backbone, TEXTS[:1])[0], expected, rtol=1e-5, atol=1e-5)
    assert backbone.preprocess.max_length == 12


def test_pooling_without_the_prompt_is_refused(folder):
    add_sentence(folder, {"pooling_mode": "mean", "include_prompt": False})
    with pytest.raises(ValueError, match="without the prompt"):
        load(folder)


@pytest.mark.parametrize("mode", ["weightedmean", ["cls", "mean"]])
def test_other_poolings_are_refused(mode, folder):
    add_sentence(folder, {"pooling_mode": mode})
    with pytest.raises(ValueError, match=r"pooling .*: not mean, cls or max"):
        load(folder)


def changed_tensors(change):
    """Write the tensors of a file again, all changed."""

    def write(path):
        tensors = change(load_file(path))
        save_file(tensors, path, metadata={"format": "pt"})

    return write


def first_bytes(n):
    return lambda path: path.write_bytes(path.read_bytes()[:n])


def content(text):
    return lambda path: path.write_text(text, encoding="latin-1")


def setting(**values):
    """Write other values into a JSON file that holds an object."""
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | values))


NO_JSON = {
    "empty": content(""),
    "no UTF-8": content("\xff\xfe"),
    "broken off": content('{"a":'),
    "a list of numbers": content("[1]"),
    "a number": content("3"),
    "deep": content("[" * 100_000),
    "a long number": content('{"max_seq_length": ' + "9" * 5000 + "}"),
}


JSON_FILES = ["config.json", "modules.json", "1_Pooling/config.json", "tokenizer_config.json"]
JSON_FILES += ["sentence_bert_config.json", "config_sentence_transformers.json"]


HOSTILE = {
    "model.safetensors": {
        "empty": first_bytes(0),
        "one byte": first_bytes(1),
        "half a header": first_bytes(300),
        "without its last byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
        "no safetensors": content("hello " * 100),
        "integers": changed_tensors(lambda t: {k: v.long() for k, v in t.items()}),
        "booleans": changed_tensors(lambda t: {k: v > 0 for k, v in t.items()}),
        "NaN": changed_tensors(lambda t: {k: v * torch.nan for k, v in t.items()}),
        "infinity": changed_tensors(lambda t: {k: v / 0 for k, v in t.items()}),
        "other shapes": changed_tensors(lambda t: {k: v[:1].clone() for k, v in t.items()}),
        "other names": changed_tensors(lambda t: {f"x{k}": v for k, v in t.items()}),
    },
    "tokenizer.json": NO_JSON,
    **dict.fromkeys(JSON_FILES, NO_JSON),
    "modules.json ": {
        "a number for a type": content('[{"type": 3, "path": ""}]'),
        "no type": content('[{"path": ""}]'),
        "no path": content('[{"type": "Pooling"}]'),
    },
    "sentence_bert_config.json ": {
        f"max_seq_length={value}": setting(max_seq_length=value)
        for value in ("x", -1, 0, 1.5, [1], True)
    },
    "config_sentence_transformers.json ": {
        "a number for prompts": content('{"prompts": 3, "default_prompt_name": "query"}'),
        "a number for a prompt": content('{"prompts": {"q": 3}, "default_prompt_name": "q"}'),
    },
    "config.json ": {
        "a trillion layers": setting(num_hidden_layers=10**12),
        "no such family": setting(model_type="x"),
        "text for a size": setting(hidden_size="x"),
        "no heads": setting(num_attention_heads=0),
    },
}


@pytest.mark.parametrize(
    ("file", "name"), [(file, name) for file, found in HOSTILE.items() for name in found]
)
def test_hostile_files_of_a_folder_raise_with_the_file_name(folder, file, name):
    add_sentence(folder, {"pooling_mode_mean_tokens": True}, max_seq_length=16)
    HOSTILE[file][name](folder / file.strip())
    with pytest.raises(ValueError, match=re.escape(file.strip())) as refused:
        load(folder)
    assert len(str(refused.value)) < 600


def test_a_huge_max_seq_length_is_limited_by_the_positions(folder):
    add_sentence(folder, {"pooling_mode_mean_tokens": True}, max_seq_length=10**30)
    assert load(folder).preprocess.max_length == 40
