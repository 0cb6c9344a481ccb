"""Make a backbone of a module of the user's, or of a function that returns one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from torch import nn

from ..data import Modality, get_modality
from .base import Backbone
from .preprocessing import as_preprocessing

__all__ = ["from_module"]


def from_module(
    module: nn.Module | Callable[..., Any],
    *,
    name: str | None = None,
    preprocess: Callable[..., Any] | None = None,
    stages: Sequence[nn.Module] | Mapping[str, nn.Module] | None = None,
    classes: Sequence[str] | None = None,
    modality: str | Modality | None = None,
) -> Backbone:
    """Make a backbone of a copy of a module, or of what a function returns.

    Parameters
    ----------
    module : torch.nn.Module or callable
    name, preprocess, stages, classes, modality
        As in :func:`load_backbone`.

    Returns
    -------
    Backbone

    Raises
    ------
    TypeError
        If it is no module and returns none.
    ValueError
        If the call of the function fails.
    """
    if not isinstance(module, nn.Module):
        if not callable(module) or (inspect.isclass(module) and not issubclass(module, nn.Module)):
            raise TypeError(f"backbone: a name, a torch.nn.Module or a factory, got {module!r}")
        module = _call_factory(module)
    # In one call, so that stages taken out of the module stay parts of its copy.
    module, stages = deepcopy((module, stages))
    for parameter in module.parameters():
        parameter.grad = None
    module.float()  # samples are float32
    modality = get_modality(modality or ("array" if preprocess is None else "image"))
    return Backbone(
        name or type(module).__name__.lower(),
        module,
        modality=modality,
        preprocess=as_preprocessing(preprocess, modality),
        classes=classes,
        stages=None if stages is None else dict(_named_stages(stages)),
    )


def _call_factory(factory: Callable) -> nn.Module:
    try:
        made = factory()
    except Exception as error:  # it may raise anything
        raise ValueError(f"backbone={factory!r:.80}: the call failed: {error}") from error
    if not isinstance(made, nn.Module):
        raise TypeError(
            f"backbone={factory!r:.80} must return a torch.nn.Module, got {type(made).__name__}."
        )
    return made


def _named_stages(stages):
    if hasattr(stages, "items"):
        return stages.items()
    return ((f"stage{i}", stage) for i, stage in enumerate(stages))
