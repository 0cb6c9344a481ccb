import signal
import subprocess
import sys

import pytest

import sktransfer
from sktransfer import TransferClassifier
from sktransfer.cli import app as cli
from sktransfer.cli.commands import COMMANDS, make_app
from tests.cli.running import run, testing, words
from tests.data.test_interrupts import dropped_interrupt
from tests.support import TESTS, run_python

NAMES = [command.__name__ for command in COMMANDS]
COMMAND = [sys.executable, "-m", "sktransfer"]


def process(*arguments, **settings):
    """Run a command in a process of its own."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=TESTS.parent,
        timeout=120,
        **settings,
    )


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_every_command(option):
    assert set(NAMES) <= set(words(run(option).output))


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_every_command_has_a_help_text(command):
    first = command.__doc__.partition("\n")[0]
    assert words(first)[0] in words(run(command.__name__, "--help").output)


def test_no_command_shows_the_help():
    assert "backbones" in testing.CliRunner().invoke(make_app(), []).output


def test_the_version_is_that_of_the_package():
    assert run("--version").output == f"{sktransfer.__version__}\n"


def test_completion_can_be_installed():
    assert "--install-completion" in run("--help").output


def test_errors_are_one_message_and_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sktransfer", "cache", "missing"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    captured = capsys.readouterr()
    assert "'missing'" in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_bugs_keep_their_traceback(monkeypatch):
    def broken(folder):
        raise RuntimeError("a bug")

    monkeypatch.setattr("sktransfer.cli.files.FeatureStore", broken)
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
    done = process("cache", "missing")
    assert done.returncode == 1
    assert "no feature store in 'missing'" in done.stderr
    assert done.stderr.count("\n") <= 2


def test_progress_is_on_standard_error_and_results_are_on_standard_output(classes):
    done = process("predict", classes, "-k", 1)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 25
    assert done.stderr == ""


def test_a_reader_that_stops_early_is_answered_by_the_exit_code_alone(classes):
    shell = f"{' '.join(COMMAND)} predict {classes} --csv | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, cwd=TESTS.parent, timeout=120
    )
    assert done.stdout.splitlines() == ["sample,prediction,probability", "1"]
    assert done.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_an_interrupted_training_leaves_no_file(classes, tmp_path, interrupts):
    (tmp_path / "out").mkdir()
    command = [*COMMAND, "train", str(classes), "-o", str(tmp_path / "out" / "m.skt")]
    running = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TESTS.parent
    )
    assert "Training on" in running.stderr.readline()
    running.send_signal(signal.SIGINT)
    out, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Traceback" not in errors
    assert "saved" not in out
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
@pytest.mark.parametrize("place", ["before", "after"])
def test_an_interrupt_that_python_drops_leaves_no_file(
    place, classes, tiny, tmp_path, monkeypatch, capsys, interrupts
):
    fit, fitted = TransferClassifier.fit, []

    def pressed(self, X, y):
        if place == "before":
            dropped_interrupt()
        fitted.append(fit(self, X, y))
        if len(fitted) == 2:  # of all samples: nothing but the file follows
            dropped_interrupt()
        return self

    monkeypatch.setattr(TransferClassifier, "fit", pressed)
    file = tmp_path / "out" / "m.skt"
    file.parent.mkdir()
    arguments = ["train", str(classes), "-o", str(file), "--backbone", tiny]
    monkeypatch.setattr(sys, "argv", ["sktransfer", *arguments, "--strategy", "features"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 130
    assert len(fitted) == (0 if place == "before" else 2)  # it ends between two batches
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert "saved" not in captured.out
    assert list(file.parent.iterdir()) == []
