"""Run the contestants of a benchmark, each in a process of its own, as users run them.

A contestant is a function of a benchmark, and settings for it that JSON can hold. Its process is
started fresh, calls the function once, and runs what it returns once as a warm-up. Then all
processes wait, and run in turns when they are told: one after another, in rotating order.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Contestant", "race", "timed"]


def timed(
    function: Callable[[], Any], clock: Callable[[], float] = time.perf_counter
) -> tuple[float, int]:
    """Return the seconds and the number of page faults of a call."""
    start, before = clock(), resource.getrusage(resource.RUSAGE_SELF)
    function()
    seconds, after = clock() - start, resource.getrusage(resource.RUSAGE_SELF)
    return seconds, after.ru_minflt - before.ru_minflt


class Contestant:
    """A process that waits for its turns.

    Parameters
    ----------
    make : callable
        A function of a benchmark. It returns what is timed: a function of no arguments that returns
        an array.
    **settings
        Passed to it in the process.

    Attributes
    ----------
    result : ndarray
        What the warm-up has returned.
    first : float
        Seconds that the warm-up took.
    """

    def __init__(self, make: Callable[..., Callable[[], Any]], clock: str, **settings: Any):
        script = make.__code__.co_filename
        order = json.dumps([script, make.__name__, settings, clock], default=str)
        self._process = subprocess.Popen(
            [sys.executable, __file__, order],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "result.npy"
            self.first, _ = self._ask(str(file))
            self.result = np.load(file)

    def run(self) -> tuple[float, int]:
        """Return the seconds and the page faults of one run."""
        return self._ask("")

    def _ask(self, line: str) -> tuple[float, int]:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, as the next line notices
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            code = self._process.wait()
            self.close()
            raise RuntimeError(f"a contestant ended with exit code {code}")
        return tuple(json.loads(answer))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        with contextlib.suppress(ValueError):  # it is closed
            self._process.communicate()


def race(
    variants: dict[str, tuple[Callable[..., Callable[[], Any]], dict[str, Any]]],
    rounds: int,
    clock: Callable[[], float],
    check: Callable[[dict[str, np.ndarray]], Any],
) -> tuple[dict[str, list[float]], Any]:
    """Time contestants in turns, each in a process of its own.

    Parameters
    ----------
    variants : dict of str to (callable, dict)
        Functions of a benchmark, and their settings.
    rounds : int
    clock : time.perf_counter or time.process_time
    check : callable
        Asserts that the results of the warm-ups are equal. It is called before anything is timed.

    Returns
    -------
    dict of str to list of float
        The seconds of each contestant, one value a round.
    object
        What ``check`` returns.
    """
    times: dict[str, list[float]] = {name: [] for name in variants}
    with contextlib.ExitStack() as stack:
        contestants = {}
        for name, (make, settings) in variants.items():  # one after another: they need the cores
            contestants[name] = Contestant(make, clock.__name__, **settings)
            stack.callback(contestants[name].close)
        checked = check({name: one.result for name, one in contestants.items()})
        first = "; ".join(f"{name} {one.first:.3g} s" for name, one in contestants.items())
        print(f"  first run of each process: {first}", flush=True)
        names = list(variants)
        for r in range(rounds):
            k, parts = r % len(names), []
            for name in names[k:] + names[:k]:
                seconds, faults = contestants[name].run()
                times[name].append(seconds)
                parts.append(f"{name} {seconds:.4g} s ({faults / 1e3:.0f}k faults)")
            print(f"  round {r + 1}, load {os.getloadavg()[0]:.1f}: {'; '.join(parts)}", flush=True)
    return times, checked


def _serve(script: str, function: str, settings: dict[str, Any], clock: str) -> None:
    """Make a contestant in this process, and run it for each line of the standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the contestant prints does not reach the benchmark
    sys.path.insert(0, str(Path(script).parent))
    run = getattr(importlib.import_module(Path(script).stem), function)(**settings)
    results: list[Any] = []
    for line in sys.stdin:
        results.clear()
        answer = timed(lambda: results.append(run()), getattr(time, clock))
        if line.strip():
            np.save(line.strip(), results[0])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _serve(*json.loads(sys.argv[1]))
