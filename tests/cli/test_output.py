import warnings

import pytest

from tests.cli.running import words

output = pytest.importorskip("sktransfer.cli.output")
ROWS = [("a file.jpg", "ant", "0.9"), ("a file.jpg", "bee\n", "0.1"), ("[red]", "bee", "1.0")]


def test_a_pipe_receives_whole_lines_without_markup(capsys):
    output.print_rows(("sample", "class", "p"), ROWS * 20, right=(2,), grouped=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 61
    assert lines[:4] == [
        "sample\tclass\tp",
        "a file.jpg\tant\t0.9",
        "a file.jpg\tbee\t0.1",
        "[red]\tbee\t1.0",
    ]


def test_a_terminal_shows_a_table_whose_groups_have_one_name(capsys, monkeypatch):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    output.print_rows(("sample", "class", "p"), ROWS, grouped=True)
    text = capsys.readouterr().out
    assert text.count("file.jpg") == 1
    assert "[red]" in words(text)


def test_notes_and_warnings_are_on_standard_error_without_places(capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", output._show_warning)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = output._show_warning
        warnings.warn("too [few] labels", UserWarning, stacklevel=1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "Warning: too [few] labels\n"
