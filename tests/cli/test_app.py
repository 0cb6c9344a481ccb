import signal
import subprocess
import sys

import pytest

import sktransfer
from sktransfer import TransferClassifier, cli, list_backbones
from sktransfer.cli.app import COMMANDS, make_app
from tests.cli.running import run, testing, words
from tests.data.test_running import dropped_interrupt
from tests.new_process import command_in_new_process
from tests.support import TESTS, run_python

NAMES = [command.__name__ for command in COMMANDS]
COMMAND = [sys.executable, "-m", "sktransfer"]


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


def test_bugs_keep_their_traceback(monkeypatch, capsys):
    def broken(folder):
        raise RuntimeError("a bug")

    monkeypatch.setattr("sktransfer.features.FeatureStore", broken)
    monkeypatch.setattr(sys, "argv", ["sktransfer", "cache", "."])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    errors = capsys.readouterr().err
    assert errors.startswith("Traceback (most recent call last):")
    assert "RuntimeError: a bug" in errors


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


@pytest.mark.slow
def test_the_package_runs_as_a_module():
    for argument, code in (("--version", 0), ("nonsense", 2)):
        command = [*COMMAND, argument]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=TESTS.parent, timeout=120
        )
        assert done.returncode == code
        assert done.stdout == ("" if code else f"{sktransfer.__version__}\n")
        assert ("No such command 'nonsense'" in done.stderr) == (code == 2)
        assert "Traceback" not in done.stderr


# Registers the network "tiny" in a new process.
TINY = """
from sktransfer import register_backbone
from tests.support import tiny_backbone
register_backbone("tiny")(tiny_backbone)
"""


@pytest.mark.slow
def test_progress_is_on_standard_error_and_results_are_on_standard_output(classes):
    arguments = ("predict", classes, "-k", 1, "--backbone", "tiny")
    done = command_in_new_process(*arguments, before=TINY)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 25
    assert done.stderr == ""


def piped(arguments, reader):
    """Run a command whose results another program reads; the last line is the exit code."""
    shell = f"{' '.join(COMMAND)} {arguments} | {reader}; echo ${{PIPESTATUS[0]}}"
    return subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, cwd=TESTS.parent, timeout=120
    )


@pytest.mark.sweep
@pytest.mark.parametrize("command", ["predict {} --csv", "backbones"])
def test_a_reader_that_leaves_early_ends_the_command_without_an_error(command, classes):
    done = piped(command.format(classes), "head -n 1")
    first, code = done.stdout.splitlines()
    assert first in ("sample,prediction,probability", list_backbones()[0])
    assert code == "0"
    assert done.stderr == ""


NO_READER = "import os; read, write = os.pipe(); os.close(read); os.dup2(write, 1)"


@pytest.mark.slow
def test_a_model_is_written_though_its_reader_has_left(classes, tmp_path):
    options = ["-o", f"{tmp_path}/m.skt", "--strategy", "features", "--backbone", "tiny"]
    done = command_in_new_process("train", classes, *options, before=TINY + NO_READER)
    assert done.returncode == 0
    assert (tmp_path / "m.skt").stat().st_size > 0


@pytest.mark.slow
def test_predictions_end_without_an_error_once_their_reader_has_left(classes):
    arguments = ["predict", classes, "--csv", "--backbone", "tiny"]
    done = command_in_new_process(*arguments, before=TINY + NO_READER)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_library_is_imported_before_interrupts_are_answered():
    code = f"""
import __future__, os, sys
sys.path.insert(0, {str(TESTS.parent)!r})
before = set(sys.modules)
import sktransfer.cli
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["sktransfer", "sktransfer.cli"]


PRESSED = """
import sys
class Pressed:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Pressed())
sys.argv[1:] = ["layers", "resnet18"]
from sktransfer.cli import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "sktransfer.cli.app", "torch"])
def test_an_interrupt_while_modules_are_imported_is_the_exit_code_alone(module):
    code = PRESSED.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_interrupt_while_a_command_imports_the_package_is_the_exit_code_alone():
    before = PRESSED.partition("sys.argv")[0].format(module="sktransfer.data")
    done = command_in_new_process("layers", "resnet18", before=before)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


DROPPED = PRESSED.replace(
    "raise KeyboardInterrupt",
    """
            import signal
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:  # as code in other languages may do
                pass
""",
)


@pytest.mark.parametrize("module", ["typer", "torch"])
def test_an_interrupt_ends_imports_even_where_exceptions_are_lost(module):
    code = DROPPED.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["train", "--help"], ["nonsense"]]
)
def test_help_and_wrong_commands_do_not_wait_for_large_libraries(arguments):
    code = f"""
import sys
from sktransfer.cli import main
sys.argv = ["sktransfer", *{arguments!r}]
try:
    main()
except SystemExit as stopped:
    print(stopped.code, {{"torch", "sklearn", "pandas", "numpy"}} & set(sys.modules))
"""
    assert run_python(code).splitlines()[-1] == f"{2 if 'nonsense' in arguments else 0} set()"


def test_a_wrong_option_is_one_message_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sktransfer", "inspect", "a.skt", "b\x1b[31m.skt"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    errors = capsys.readouterr().err
    assert r"Got unexpected extra argument" in errors
    assert r"b\x1b[31m.skt" in errors
    assert "\x1b" not in errors


# Sends an interrupt to its own process once the training is announced.
INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
errors = sys.stderr
class Errors:
    def write(self, text):
        errors.write(text)
        if "Training on" in text:
            os.kill(os.getpid(), signal.SIGINT)
    def __getattr__(self, name):
        return getattr(errors, name)
sys.stderr = Errors()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_a_training_that_is_interrupted_at_its_start_leaves_no_file(classes, tmp_path):
    (tmp_path / "out").mkdir()
    options = ["-o", tmp_path / "out" / "m.skt", "--backbone", "tiny"]
    done = command_in_new_process("train", classes, *options, before=TINY + INTERRUPTED)
    assert (done.returncode, done.stdout) == (130, "")
    assert "Training on" in done.stderr and "Traceback" not in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.sweep
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
