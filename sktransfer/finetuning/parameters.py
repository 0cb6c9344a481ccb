"""Which parameters of the stages above the cut are trained: all, those of norms, or biases."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from torch import nn

__all__ = ["PARTIAL", "check_partial", "select_parameters"]


def select_parameters(
    stages: nn.Sequential, part: str, fixed: Collection[str] = frozenset()
) -> None:
    """Set which parameters have gradients, in place.

    Parameters
    ----------
    stages : torch.nn.Sequential
        The head is the last one; all its parameters are trained.
    part : {"all", "norm", "bias"}
        Which parameters of the other stages are trained: all; scales and shifts of
        normalization layers (Frankle, Schwab, Morcos 2021, arXiv:2003.00152); or biases, those
        of normalization layers included (BitFit: Ben Zaken, Ravfogel, Goldberg 2022,
        arXiv:2106.10199).
    fixed : collection of str, default=frozenset()
        Names of parameters that are not trained in any case.
    """
    stages.requires_grad_(False)
    selected = stages.parameters() if part == "all" else _partial(stages, part)
    for parameter in [*selected, *stages[-1].parameters()]:
        parameter.requires_grad_(True)
    for name, parameter in stages.named_parameters():
        if name in fixed:
            parameter.requires_grad_(False)


def check_partial(
    stages: nn.Sequential, part: str, backbone: str, fixed: Collection[str] = frozenset()
) -> None:
    """Check that stages have parameters of a kind, and some that are not fixed.

    Parameters
    ----------
    stages : torch.nn.Sequential
    part : {"all", "norm", "bias"}
    backbone : str
        Its name, for the message.
    fixed : collection of str, default=frozenset()
        As in :func:`select_parameters`.

    Raises
    ------
    ValueError
        If there are none.
    """
    if part != "all" and next(_partial(stages, part), None) is None:
        noun = {"norm": "normalization layers with parameters", "bias": "biases"}[part]
        raise ValueError(
            f"trainable={part!r}: backbone {backbone!r} has no {noun}. Use 'head', 'all' or a "
            "number of stages."
        )
    named = dict(list(stages)[:-1] and nn.Sequential(*list(stages)[:-1]).named_parameters())
    free = {id(parameter) for name, parameter in named.items() if name not in fixed}
    selected = named.values() if part == "all" else _partial(stages, part)
    if named and free.isdisjoint(map(id, selected)):
        raise ValueError(
            f"No parameter below the head would be trained: those of backbone {backbone!r} that "
            "trainable= selects have requires_grad=False. Set it to True for some of them, or "
            "trainable='head'."
        )


def _partial(stages: nn.Sequential, part: str) -> Iterator[nn.Parameter]:
    if part == "all":
        return
    belongs = PARTIAL[part]
    for stage in list(stages)[:-1]:
        for module in stage.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if belongs(module, name) and parameter.is_floating_point():
                    yield parameter


def _of_norm(module: nn.Module, name: str) -> bool:
    # By name, since many networks have norms of their own classes.
    return "norm" in type(module).__name__.lower()


def _is_bias(module: nn.Module, name: str) -> bool:
    return name.endswith("bias")


# The values of ``trainable`` that train some parameters of all stages.
PARTIAL: dict[str, Callable[[nn.Module, str], bool]] = {"norm": _of_norm, "bias": _is_bias}
