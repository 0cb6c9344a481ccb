"""Progress bars in notebooks; those in terminals are tested where they are used."""

import sys
import time
import types

import pytest

from sktransfer.features import progress


@pytest.fixture
def shown(monkeypatch):
    """What a notebook shows: the last state of each output."""
    outputs = []

    class Handle:
        def __init__(self, place):
            self.place = place

        def update(self, item):
            outputs[self.place] = item._repr_html_(), repr(item)

    def display(item, display_id):
        outputs.append((item._repr_html_(), repr(item)))
        return Handle(len(outputs) - 1)

    shell = types.SimpleNamespace(kernel=object())
    package = types.ModuleType("IPython")
    package.get_ipython = lambda: shell
    package.display = types.ModuleType("IPython.display")
    package.display.display = display
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", package.display)
    return outputs


def test_a_notebook_has_one_output_with_the_last_state(shown, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with progress("<features>", 100, 1) as advance:
        for _ in range(10):
            advance(10)
            time.sleep(0.001)
    ((html, text),) = shown
    assert "&lt;features&gt;" in html
    assert '<progress value="100" max="100">' in html
    assert text.startswith("<features>: 100 / 100, ")
    assert text.endswith(" samples/s")


def test_a_failure_leaves_the_state_before_it(shown):
    with pytest.raises(RuntimeError), progress("training", None, 1, "epochs") as advance:
        advance(3)
        raise RuntimeError
    ((html, text),) = shown
    assert "<progress></progress>" in html
    assert text.startswith("training: 3, ")


def test_without_verbose_nothing_is_shown(shown, capsys):
    with progress("features", 3, 0) as advance:
        advance(3)
    assert shown == []
    assert capsys.readouterr() == ("", "")


def test_outside_of_a_kernel_the_bar_is_that_of_a_terminal(shown, monkeypatch, capsys):
    pytest.importorskip("rich")
    sys.modules["IPython"].get_ipython = lambda: None
    with progress("features", 3, 1) as advance:
        advance(3)
    assert shown == []
    assert "3/3" in capsys.readouterr().out
