"""Report the progress of a fit to scikit-learn's callbacks."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from sklearn.callback import CallbackSupportMixin, with_callbacks

__all__ = ["ReportsFit", "reported"]

Fit = TypeVar("Fit", bound=Callable[..., Any])


class ReportsFit(CallbackSupportMixin):
    """Base of estimators that scikit-learn's callbacks can follow."""

    @contextlib.contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Report a phase of a fit that is decorated by :func:`reported`.

        Parameters
        ----------
        name : str
        """
        root = getattr(self, "_callback_fit_ctx", None)
        if root is None or not root.max_subtasks:
            yield
            return
        task = root.subcontext(task_name=name)
        task.call_on_fit_task_begin(estimator=self)
        yield
        task.call_on_fit_task_end(estimator=self)

    def _in_phase(self, name: str, function: Callable, *args) -> Any:
        """Call a function in a phase of its own."""
        with self._phase(name):
            return function(*args)


def reported(n_phases: int = 0) -> Callable[[Fit], Fit]:
    """Decorate a fit, so that callbacks are told when it begins and ends.

    Parameters
    ----------
    n_phases : int, default=0
        How often it calls ``_phase``.

    Returns
    -------
    callable
        The decorator.
    """

    def decorate(fit: Fit) -> Fit:
        @with_callbacks
        @functools.wraps(fit)
        def run(self, *args, **kwargs):
            root = self._init_callback_context(max_subtasks=n_phases)
            root.call_on_fit_task_begin(estimator=self)
            result = fit(self, *args, **kwargs)
            root.call_on_fit_task_end(estimator=self)
            return result

        return cast(Fit, run)

    return decorate
