import csv
import io
import json
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
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", output.show_warning)
        warnings.warn("too [few] labels", UserWarning, stacklevel=1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "Warning: too [few] labels\n"


HOSTILE = ["\x1b]0;title\x07.jpg", "a\x9b31m", "left\u202eright", "two\nlines\r", "byte\udcff"]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("terminal", [False, True])
def test_control_characters_are_escaped(text, terminal, capsys, monkeypatch):
    monkeypatch.setattr("rich.console.Console.is_terminal", terminal)
    output.print_rows(("sample",), [(text,)])
    output.print_columns([text], text)
    output.print_lines(text)
    output.note(text)
    captured = capsys.readouterr()
    for bad in "\x07\x9b\u202e\r\udcff":
        assert bad not in captured.out + captured.err
    assert "\x1b]" not in captured.out + captured.err


@pytest.mark.parametrize("text", HOSTILE)
def test_json_is_escaped_and_read_back_as_it_was(text, capsys):
    output.print_json({"sample": text, "class": "größe"})
    line = capsys.readouterr().out
    assert line.isprintable() or line[:-1].isprintable()
    assert json.loads(line) == {"sample": text, "class": "größe"}
    assert "größe" in line


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-a.jpg", "'-a.jpg"),
        ("a;=1+1", "a;'=1+1"),
        ("\t=1+1", "\\t=1+1"),
        ("-1.5", "-1.5"),
        (-1.5, "-1.5"),
        ("folder/=1.jpg", "folder/=1.jpg"),
        ("\x1b[31m", "\\x1b[31m"),
        ('a, "b"', 'a, "b"'),
    ],
)
def test_csv_has_no_formulas(cell, written, capsys):
    output.print_csv((cell, "b"))
    assert list(csv.reader(io.StringIO(capsys.readouterr().out))) == [[written, "b"]]
