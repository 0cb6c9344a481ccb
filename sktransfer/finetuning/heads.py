"""The head of a fine-tuned network: build, initialize, extend and describe it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch import nn

from .._compat.torch import DropoutBase
from ..backbones import seeded
from ..transferability import PROBE_C, GlobalScaler


def make_head(
    head: str | Callable[..., Any], n_features: int, n_outputs: int, seed: int
) -> nn.Module:
    """Build a head in float32, its random weights drawn from a seed.

    Parameters
    ----------
    head : {"linear", "mlp"} or callable
        "mlp" has one hidden layer of half the features, at least 64 and at most 512 units. A
        callable is given ``(n_features, n_outputs)`` and returns a module.
    n_features, n_outputs : int
    seed : int
    """
    with seeded(seed):
        if callable(head):
            return _call_head(head, n_features, n_outputs).float()
        steps: OrderedDict[str, nn.Module] = OrderedDict()
        if head == "mlp":
            hidden = min(512, max(64, n_features // 2))
            steps["hidden"] = nn.Linear(n_features, hidden)
            steps["act"] = nn.ReLU()
            n_features = hidden
        steps["linear"] = nn.Linear(n_features, n_outputs)
        return nn.Sequential(steps).float()  # torch's default type may be another


def _call_head(head: Callable, n_features: int, n_outputs: int) -> nn.Module:
    """Call the function that the user gives as ``head``."""
    if isinstance(head, nn.Module):
        raise TypeError(
            "head must be a function that makes a module for numbers of features and outputs, not "
            "a module: def head(n_in, n_out): return torch.nn.Sequential("
            "torch.nn.Linear(n_in, 256), torch.nn.ReLU(), torch.nn.Linear(256, n_out))"
        )
    call = f"head={head!r:.80} called with ({n_features}, {n_outputs})"
    try:
        module = head(n_features, n_outputs)
    except Exception as error:  # of any type, since the user wrote it
        raise ValueError(f"{call} failed: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise TypeError(f"{call} must return a torch.nn.Module, got {type(module).__name__}.")
    return deepcopy(module)  # the user may use the module elsewhere


# The arguments that rebuild a layer of each type.
_DESCRIBED = {
    nn.Linear: lambda layer: (layer.in_features, layer.out_features, layer.bias is not None),
    nn.ReLU: lambda layer: (layer.inplace,),
    nn.Dropout: lambda layer: (layer.p, layer.inplace),
}


def describe_module(module: nn.Module) -> tuple[Any, ...] | nn.Module:
    """Describe the layers of a module by names and numbers, without tensors.

    Returns
    -------
    tuple or torch.nn.Module
        ``(name of the class, settings)`` for the layers that :func:`make_head` uses; for
        ``Sequential`` the settings are ``(name, description)`` of each layer. The module itself
        if it has any other layer.
    """
    if type(module) in _DESCRIBED:
        return type(module).__name__, _DESCRIBED[type(module)](module)
    if type(module) is not nn.Sequential:
        return module
    layers = tuple((name, describe_module(layer)) for name, layer in module.named_children())
    if any(isinstance(description, nn.Module) for _, description in layers):
        return module
    return "Sequential", layers


def build_module(description: tuple[Any, ...] | nn.Module) -> nn.Module:
    """Build a module from its description, with uninitialized tensors.

    Parameters
    ----------
    description : tuple or torch.nn.Module
        What :func:`describe_module` returned. A module is copied.
    """
    if isinstance(description, nn.Module):
        return deepcopy(description)
    name, settings = description
    if name == "Sequential":
        return nn.Sequential(OrderedDict((key, build_module(layer)) for key, layer in settings))
    (cls,) = (cls for cls in _DESCRIBED if cls.__name__ == name)
    return nn.utils.skip_init(cls, *settings) if cls is nn.Linear else cls(*settings)


def last_linear(head: nn.Module, n_outputs: int) -> nn.Linear:
    """Return the linear layer that computes the outputs.

    Parameters
    ----------
    head : torch.nn.Module
    n_outputs : int
        Number of outputs, by which the layer is found: modules may be registered in another
        order than they are called.

    Raises
    ------
    ValueError
        If the head has no such layer.
    """
    layers = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
    fitting = [layer for layer in layers if layer.out_features == n_outputs]
    if not fitting:
        raise ValueError(
            f"{type(head).__name__} as a head has no torch.nn.Linear with {n_outputs} outputs, "
            "which the rows of labels could be written to."
        )
    return fitting[-1]


def write_rows(head: nn.Module, coef: np.ndarray, intercept: np.ndarray) -> None:
    """Write a linear model into the last layer of a head, in place.

    Raises
    ------
    ValueError
        If the head is not one linear layer with a bias (and dropout).
    """
    linear = last_linear(head, len(coef))
    if linear.weight.shape == coef.shape and linear.bias is not None:
        with torch.no_grad():
            linear.weight.copy_(torch.as_tensor(coef))
            linear.bias.copy_(torch.as_tensor(intercept))
    if not _is_one_linear(head, linear, coef.shape[1]):
        raise ValueError(
            "head_init='probe' writes a linear model into the head, which must be one "
            "torch.nn.Linear with a bias. Use head='linear' or head_init='random'."
        )


@torch.no_grad()
def _is_one_linear(head: nn.Module, linear: nn.Linear, n_features: int) -> bool:
    """Tell whether a head computes the same as one of its layers."""
    learned = sum(tensor.numel() for tensor in head.parameters())
    n_own = linear.out_features * (n_features + 1)
    if linear.in_features != n_features or linear.bias is None or learned != n_own:
        return False
    x = 3 * torch.randn(
        8, n_features, generator=torch.Generator().manual_seed(0), dtype=torch.float32
    )
    return torch.allclose(head.eval()(x), linear(x), rtol=1e-4, atol=1e-6)


def grow(head: nn.Module, sources: list[int | None], n_old: int) -> nn.Module:
    """Add, remove or reorder the rows of the last layer, in place.

    Parameters
    ----------
    head : torch.nn.Module
        Its last layer is linear.
    sources : list of int or None
        For each new row the index of the old row that is copied, bit for bit, or None for a
        new label: its weights are 0 and its intercept is the mean of the old ones.
    n_old : int
        Number of old rows.

    Returns
    -------
    torch.nn.Module
        The same head.
    """
    linear = last_linear(head, n_old)
    weight = linear.weight.detach()
    bias = None if linear.bias is None else linear.bias.detach()
    known = [i for i, source in enumerate(sources) if source is not None]
    old = [sources[i] for i in known]
    new_weight = weight.new_zeros(len(sources), weight.shape[1])
    new_weight[known] = weight[old]
    linear.weight = nn.Parameter(new_weight)
    if bias is not None:
        new_bias = bias.new_full((len(sources),), float(bias.mean()))
        new_bias[known] = bias[old]
        linear.bias = nn.Parameter(new_bias)
    linear.out_features = len(sources)
    return head


def carry_rows(old: nn.Module, head: nn.Module, sources: list[int | None], n_old: int) -> None:
    """Initialize a head with the tensors of another head of the same kind, in place.

    Parameters
    ----------
    old : torch.nn.Module
        It is not changed.
    head : torch.nn.Module
    sources : list of int or None
        As in :func:`grow`.
    n_old : int
        Number of rows of the old head.

    Raises
    ------
    ValueError
        If the heads differ in more than dropout and the number of rows.
    """
    if _steps(old, n_old) != _steps(head, len(sources)):
        raise ValueError(
            "The model given as backbone has a head of another kind, so that its rows cannot be "
            "copied for the labels that both know. Give the same head= to both, or "
            "head_init='random' (or 'probe', for a linear head) to start with a new head."
        )
    grown = grow(deepcopy(old), sources, n_old)
    pairs = zip(head.state_dict().values(), grown.state_dict().values(), strict=True)
    for tensor, value in pairs:
        tensor.copy_(value)


def _steps(head: nn.Module, n_outputs: int) -> list[tuple] | None:
    """List the layers of a head without dropout, with shapes except for the number of rows."""
    if not any(isinstance(m, nn.Linear) and m.out_features == n_outputs for m in head.modules()):
        return None
    last = last_linear(head, n_outputs)
    steps: list[tuple] = []
    for module in head.modules():
        if isinstance(module, nn.Sequential | DropoutBase | nn.Identity):
            continue
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        shapes = [tuple(tensor.shape[int(module is last) :]) for tensor in tensors]
        steps.append((type(module), shapes))
    return steps


def solve_new_rows(
    features: np.ndarray,
    codes: np.ndarray,
    weight: np.ndarray,
    head: nn.Module,
    new: list[int],
    n_outputs: int,
) -> None:
    """Fit the rows of new labels, in place, while the rows of known labels are fixed.

    The loss is the penalised multinomial loss of the linear probe, minimised over the new rows.

    Parameters
    ----------
    features : ndarray of shape (n, n_features)
    codes : ndarray of shape (n,)
        The row of each sample's label.
    weight : ndarray of shape (n,)
    head : torch.nn.Module
        One linear layer with a bias; any other head is not changed.
    new : list of int
        Rows to fit.
    n_outputs : int
        Number of all rows.
    """
    linear = last_linear(head, n_outputs)
    if not _is_one_linear(head, linear, features.shape[1]):
        return
    scaler = GlobalScaler().fit(features, sample_weight=weight)
    X = scaler.transform(features)
    old = linear(torch.as_tensor(features)).detach().double().numpy()  # (n, n_outputs)
    hit = codes[:, None] == np.array(new)  # (n, n_new)

    def loss(flat):
        rows = flat.reshape(len(new), -1)
        logits = old.copy()
        logits[:, new] = X @ rows[:, 1:].T + rows[:, 0]
        log_p = log_softmax(logits, axis=1)
        residual = (np.exp(log_p[:, new]) - hit) * weight[:, None]
        value = -(weight * np.take_along_axis(log_p, codes[:, None], 1)[:, 0]).sum()
        gradient = np.column_stack([residual.sum(0), residual.T @ X + rows[:, 1:] / PROBE_C])
        return value + (rows[:, 1:] ** 2).sum() / (2 * PROBE_C), gradient.ravel()

    start = np.zeros((len(new), X.shape[1] + 1))
    solution = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    rows = solution.x.reshape(start.shape)
    coef = rows[:, 1:] / scaler.scale_
    with torch.no_grad():
        linear.weight[new] = torch.as_tensor(coef, dtype=linear.weight.dtype)
        bias = rows[:, 0] - coef @ scaler.mean_
        linear.bias[new] = torch.as_tensor(bias, dtype=linear.bias.dtype)
