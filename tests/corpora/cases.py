"""A case of a corpus, and the outcome of running it."""

import dataclasses
import multiprocessing
import resource
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence

RIGHT, ERROR, WRONG, CRASH, SLOW, LARGE = (
    "right",
    "one error",
    "wrong",
    "crash",
    "over 5 s",
    "over 1 GiB",
)
OUTCOMES = (RIGHT, ERROR, WRONG, CRASH, SLOW, LARGE)
ERRORS = (ValueError, TypeError, OSError, MemoryError)
SECONDS, BYTES = 5.0, 2**30  # of processor time, which does not depend on other programs
_LONGEST = 120  # seconds that a case may wait; then its process ends


@dataclasses.dataclass(frozen=True)
class Case:
    """An input and what may happen to it.

    Parameters
    ----------
    name : str
    run : callable
        Gives the input to the package, and returns what comes back.
    is_right : callable
        From what comes back to whether it is right.
    may : str, default="either"
        "right", "error" or "either": which outcomes are right for this input.
    """

    name: str
    run: Callable
    is_right: Callable
    may: str = "either"

    def outcome(self) -> tuple[str, str]:
        """Return the outcome and, for a wrong one, what was wrong."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = self.run()
        except ERRORS as error:
            text = str(error)
            if self.may == "right" or not 0 < len(text) <= 500:
                return WRONG, f"{type(error).__name__}: {text[:200]} ({len(text)} characters)"
            return ERROR, text
        except Exception as error:
            return WRONG, f"{type(error).__name__}: {str(error)[:200]}"
        if self.may == "error" or not self.is_right(found):
            return WRONG, f"gives {str(found)[:200]}"
        return RIGHT, ""


def sample(cases: Sequence[Case], n: int, seed: int) -> list[Case]:
    """Return every k-th case, beginning at one that the seed decides."""
    step = max(1, len(cases) // n)
    return list(cases[seed % step :: step])


def count(cases: Sequence[Case]) -> tuple[Counter, list[str]]:
    """Run cases in another process, and count outcomes; a process that ends is a crash.

    Returns
    -------
    counts : Counter
    failed : list of str
        Names of the cases that are neither right nor one error.
    """
    counts: Counter = Counter()
    failed: list[str] = []
    at = 0
    while at < len(cases):
        for name, outcomes, why in _run_from(cases, at):
            counts.update(outcomes)
            if set(outcomes) - {RIGHT, ERROR}:
                failed.append(f"{name}: {', '.join(outcomes)}. {why}")
            at += 1
    return counts, failed


def _run_from(cases: Sequence[Case], at: int):
    """Yield a name, outcomes and a reason for each case until one ends the process."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_serve, args=(cases, at, sender))
    child.start()
    sender.close()
    try:
        while at < len(cases):
            yield receiver.recv()
            at += 1
    except EOFError:
        yield cases[at].name, [CRASH], f"exit code {child.exitcode}"
    finally:
        child.join()


def _serve(cases: Sequence[Case], at: int, sender) -> None:
    for case in cases[at:]:
        before, start = _peak(), time.process_time()
        signal.alarm(_LONGEST)
        outcome, why = case.outcome()
        signal.alarm(0)
        outcomes = [outcome]
        if time.process_time() - start > SECONDS:
            outcomes.append(SLOW)
        if _peak() - before > BYTES:
            outcomes.append(LARGE)
        sender.send((case.name, outcomes, why))
    sender.close()


def _peak() -> int:
    """The most memory that this process has taken, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
