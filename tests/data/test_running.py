import io
import signal
import sys
import threading
import weakref

import pytest

from sktransfer.data import check_interrupt, kept_interrupts, progress, was_interrupted


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


def interrupt():
    signal.raise_signal(signal.SIGINT)


def dropped_interrupt():
    """Interrupt the program in a callback of a weak reference, where Python drops exceptions."""

    class Thing:
        pass

    thing = Thing()
    reference = weakref.ref(thing, lambda reference: interrupt())
    del thing
    assert reference() is None


@pytest.fixture(autouse=True)
def unchanged(interrupts):
    before = signal.getsignal(signal.SIGINT), sys.unraisablehook
    assert before[0] is signal.default_int_handler
    yield
    assert (signal.getsignal(signal.SIGINT), sys.unraisablehook) == before


def test_a_dropped_interrupt_is_raised_at_the_end_of_the_block(capfd):
    done = []
    with pytest.raises(KeyboardInterrupt), kept_interrupts():
        dropped_interrupt()
        done.append(was_interrupted())
    assert done == [True]
    assert "KeyboardInterrupt" not in capfd.readouterr().err


def test_an_interrupt_stops_at_once_and_so_does_the_second():
    done = []
    with pytest.raises(KeyboardInterrupt), kept_interrupts():
        dropped_interrupt()
        done.append("first")
        interrupt()
        done.append("second")
    assert done == ["first"]


def test_a_dropped_interrupt_is_raised_by_a_check_and_at_the_end_of_an_inner_block():
    with pytest.raises(KeyboardInterrupt), kept_interrupts():
        dropped_interrupt()
        with pytest.raises(KeyboardInterrupt):
            check_interrupt()
        with pytest.raises(KeyboardInterrupt), kept_interrupts():
            pass
        assert was_interrupted()


def test_an_interrupt_while_a_block_begins_does_not_stop_later_ones(monkeypatch):
    install, handlers = signal.signal, []

    def install_and_interrupt(number, handler):
        install(number, handler)
        handlers.append(handler)
        if len(handlers) == 1:
            interrupt()

    monkeypatch.setattr(signal, "signal", install_and_interrupt)
    with pytest.raises(KeyboardInterrupt), kept_interrupts():
        pass
    assert len(handlers) == 2  # the second is that of before
    with kept_interrupts():
        check_interrupt()


def test_without_an_interrupt_nothing_happens():
    check_interrupt()
    with kept_interrupts():
        check_interrupt()
    with pytest.raises(ZeroDivisionError), kept_interrupts():
        1 / 0  # noqa: B018
    with kept_interrupts():  # those of earlier blocks are forgotten
        assert not was_interrupted()


def test_another_error_of_the_block_is_kept():
    with pytest.raises(ZeroDivisionError), kept_interrupts():
        dropped_interrupt()
        1 / 0  # noqa: B018


def test_a_program_that_handles_interrupts_itself_goes_on_doing_so():
    seen = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with kept_interrupts():
            interrupt()
            check_interrupt()
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


def test_an_interrupt_that_a_handler_of_the_program_raises_is_kept():
    seen = []

    def handle(number, frame):
        seen.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handle)
    try:
        with pytest.raises(KeyboardInterrupt), kept_interrupts():
            dropped_interrupt()
            assert was_interrupted()
        assert signal.getsignal(signal.SIGINT) is handle
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


def test_interrupts_that_are_ignored_stay_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with kept_interrupts():
            interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_are_left_alone():
    found = []

    def work():
        with kept_interrupts():
            check_interrupt()
            found.append(was_interrupted())

    with pytest.raises(KeyboardInterrupt), kept_interrupts():
        dropped_interrupt()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert found == [False]


def test_other_dropped_errors_are_printed_as_before(monkeypatch):
    found = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: found.append(unraisable.exc_type))

    class Broken:
        def __del__(self):
            raise ZeroDivisionError

    with kept_interrupts():
        Broken()
    assert found == [ZeroDivisionError]
