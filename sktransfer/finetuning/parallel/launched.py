"""Fit in all processes that a launcher, such as ``accelerate launch``, has started."""

from __future__ import annotations

import atexit
import contextlib
import functools
import pickle
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch.distributed as dist

from ...engines import resolve_device
from ...features import code_pickler
from .choice import check_launched, count_launched, is_launched, local_device
from .follower import END, Follower, Message
from .link import PATIENCE, Link, ProcessLostError

__all__ = ["launched_link", "on_all_processes"]

Fit = TypeVar("Fit", bound=Callable[..., Any])

# What scikit-learn keeps in an estimator during a fit, for callbacks: of one process alone.
_OF_CALLBACKS = ("_callback_fit_ctx", "_skl_callbacks_to_teardown")


@functools.cache
def launched_link() -> Link:
    """Return the place of this process among those that a launcher has started."""
    check_launched()
    if not dist.is_initialized():
        dist.init_process_group(timeout=PATIENCE)
        atexit.register(_leave)
    return Link(dist.get_rank(), count_launched())


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def on_all_processes(fit: Fit) -> Fit:
    """Decorate a fit that several processes call at the same time, started by a launcher.

    The first process fits. The others compute a part of each step, and become what it becomes:
    fitted, or the same error is raised.

    Parameters
    ----------
    fit : callable
        A method of a fine-tuned estimator.

    Returns
    -------
    callable
    """

    @functools.wraps(fit)
    def run(self, *args, **kwargs):
        if self.devices is None or not is_launched():
            return fit(self, *args, **kwargs)
        link = launched_link()
        if link.rank:
            return _followed(self, link)
        return _led(functools.partial(fit, self, *args, **kwargs), link)

    return cast(Fit, run)


def _led(fit: Callable, link: Link) -> Any:
    try:
        fitted = fit()
        state = fitted.__getstate__()
        result: tuple = ({k: v for k, v in state.items() if k not in _OF_CALLBACKS}, None)
    except Exception as error:
        with contextlib.suppress(ProcessLostError):
            _send(link, (None, error))
        raise
    _send(link, result)
    return fitted


def _send(link: Link, result: tuple) -> None:
    payload = code_pickler().dumps(result)
    link.scatter([Message(END, (payload,))] * (link.size - 1))


def _followed(estimator, link: Link) -> Any:
    device = local_device(resolve_device(estimator.device))
    state, error = pickle.loads(Follower(link, device).run())
    if error is not None:
        raise error
    estimator.__setstate__(state)
    return estimator
