import io
import sys

import pytest

from sktransfer.data import progress


def last_state(text: str) -> str:
    return text.rstrip().rpartition("\r")[2]


def test_a_bar_on_standard_error_counts_and_names_its_unit(capsys):
    with progress("features", 100, 1) as advance:
        for _ in range(10):
            advance(10)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert last_state(captured.err).startswith("features: 100%|")
    assert " 100/100 [" in last_state(captured.err)
    assert last_state(captured.err).endswith(" samples/s]")


def test_a_total_may_be_unknown_and_a_failure_leaves_the_state_before_it(capsys):
    with pytest.raises(RuntimeError), progress("training", None, 1, "epochs") as advance:
        advance(3)
        raise RuntimeError
    assert last_state(capsys.readouterr().err).startswith("training: 3 epochs [")


@pytest.mark.parametrize("stderr", ["stream", None])
def test_without_verbose_or_standard_error_nothing_is_shown(stderr, capsys, monkeypatch):
    if stderr is None:
        monkeypatch.setattr(sys, "stderr", None)  # as in programs with windows
    with progress("features", 3, int(stderr is None)) as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")


def test_a_file_keeps_two_states_of_a_short_bar(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with progress("features", 1000, 1) as advance:
        for _ in range(1000):
            advance(1)
    assert log.getvalue().count("features") == 2


def test_control_characters_in_a_title_do_not_reach_the_terminal(capsys):
    with progress("\x1b[31mred\x1b[0m", 3, 1) as advance:
        advance(3)
    text = capsys.readouterr().err
    assert "\x1b" not in text
    assert r"\x1b[31mred" in text
