"""The trained end of a network: the stages above the frozen ones and the head."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch import nn

from .._compat.torch import BatchNormBase, DropoutBase, NormBase
from ..backbones import pool, seeded
from ..data import get_modality
from ..engines import engine_for, resolve_device
from ..features import Stream, check_outputs
from ..transferability import PROBE_C, GlobalScaler
from .adapters import add_adapters, is_adapter, with_merged_adapters
from .dataset import Activations, as_tensor
from .distributed import ONE_PROCESS, Processes

_AT_ONCE = 1024  # rows of activations in one call of an engine
_BYTES_AT_ONCE = 2**26


class Pooling(nn.Module):
    """Pool activations, as the stage between the network and its head."""

    def __init__(self, sides: tuple[int, int] | None, prefix_tokens: int | None, masked: bool):
        super().__init__()
        self.sides = sides
        self.prefix_tokens = prefix_tokens
        self.masked = masked

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        where: dict[str, Any] = {"sides": self.sides, "prefix_tokens": self.prefix_tokens}
        return pool(x, "avg", masked=self.masked, **where)


class TrainableStages(nn.Module):
    """Run the stages above the cache, the pooling and the head.

    Parameters
    ----------
    stages : dict of str to torch.nn.Module
        The stages to train, in order.
    masked : bool
        See :func:`sktransfer.backbones.pool`.
    train_batch_norm : bool
        Whether batch norm in trained stages updates its statistics. If not, it stays in
        ``eval`` mode.
    precision : {"float32", "bfloat16"}
    part : {"all", "norm", "bias", "lora"}, default="all"
        Which parameters of the stages are trained; see :meth:`unfreeze`.
    fixed : collection of str, default=None
        Names of parameters of the stages that are not trained. None is those without
        ``requires_grad``.
    adapters : dict, default=None
        Settings of the low-rank adapters of ``part="lora"``, which :meth:`add_adapters` adds.
    sides, prefix_tokens : default=None
        See :func:`sktransfer.backbones.pool`.

    Attributes
    ----------
    n_trainings : int
        Number of trainings, by which objects computed from earlier tensors are recognised.
    seed : int
        Seed of random numbers in training (dropout), increased by one for each batch.
    """

    body: nn.Sequential
    fixed: frozenset[str]
    names: list[str]

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        head: nn.Module,
        *,
        masked: bool,
        train_batch_norm: bool,
        precision: str,
        part: str = "all",
        fixed: Collection[str] | None = None,
        adapters: dict[str, Any] | None = None,
        sides: tuple[int, int] | None = None,
        prefix_tokens: int | None = None,
    ):
        super().__init__()
        self.names = list(stages)
        self.masked = masked
        self.body = nn.Sequential(*stages.values(), Pooling(sides, prefix_tokens, masked), head)
        self.train_batch_norm = train_batch_norm
        self.precision = precision
        self.part = part
        if fixed is None:
            named = self.body.named_parameters()
            fixed = [name for name, parameter in named if not parameter.requires_grad]
        self.fixed = frozenset(fixed)
        self.adapters = adapters
        self.n_trainings = 0
        # A tensor, since a network would be compiled again for each new Python integer.
        self._seed = torch.zeros((), dtype=torch.int64)

    @property
    def seed(self) -> int:
        return int(self._seed)

    @seed.setter
    def seed(self, seed: int) -> None:
        self._seed.fill_(seed)

    def unfreeze(self, part: str | None = None) -> TrainableStages:
        """Let the parameters that are trained have gradients, and no others.

        Parameters
        ----------
        part : {"all", "norm", "bias", "lora"}, default=None
            Which parameters of the stages are trained besides those of the head: all; scales and
            shifts of normalization layers (Frankle, Schwab, Morcos 2021, arXiv:2003.00152);
            biases, those of normalization layers included (BitFit: Ben Zaken, Ravfogel, Goldberg
            2022, arXiv:2106.10199); or those of low-rank adapters. None is ``part`` of the module.

        Returns
        -------
        TrainableStages
            The same.
        """
        part = self.part if part is None else part
        self.body.requires_grad_(False)
        selected = self.body.parameters() if part == "all" else _partial(self.body, part)
        for parameter in [*selected, *self.head.parameters()]:
            parameter.requires_grad_(True)
        for name, parameter in self.body.named_parameters():
            if name in self.fixed:
                parameter.requires_grad_(False)
        return self

    def add_adapters(self, backbone: str, seed: int) -> TrainableStages:
        """Add the low-rank adapters, if there are to be any and there are none yet."""
        if self.adapters is not None and not any(map(is_adapter, self.state_dict())):
            self.adapters = add_adapters(self.body, self.adapters, backbone, seed)
            self.unfreeze()
        return self

    @property
    def head(self) -> nn.Module:
        return self.body[-1]

    def train(self, mode: bool = True) -> TrainableStages:
        super().train(mode)
        for name, parameter in self.body.named_parameters() if self.fixed else ():
            if name in self.fixed:  # callbacks that unfreeze stages do not know them
                parameter.requires_grad_(False)
        # Batch norm in the new head is always trained: it has no statistics yet.
        for stage in list(self.body)[:-1]:
            learns = self.train_batch_norm and _learns(stage)
            for module in filter(_keeps_statistics, stage.modules()):
                if not (learns and _learns(module)):
                    module.eval()
        return self

    @property
    def learns_statistics(self) -> bool:
        """Whether a batch norm is trained, which needs at least two rows in a batch."""
        where = self if self.train_batch_norm else self.body[-1]
        return any(map(_keeps_statistics, where.modules()))

    @property
    def is_encoder(self) -> bool:
        """Whether it computes vectors of tokens, however many: a user's may take one length."""
        first = self.body[0].modules() if self.names else ()
        return self.masked and any(hasattr(part, "takes_any_length") for part in first)

    def forward(
        self, x: torch.Tensor, weight: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return the outputs, or outputs and weights if weights are given."""
        if x.is_floating_point():  # not ids of tokens
            x = x.to(next(self.parameters(), x).dtype)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        x = x.clone()  # a step that works in place would change the batch, which may be run again
        random: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if self.training:
            random = seeded(self.seed, x.device)
            self._seed += 1
        low = self.precision != "float32"
        with random, torch.autocast(x.device.type, torch.bfloat16, enabled=low):
            output = self.body(x).float()
        return output if weight is None else (output, weight)

    def stage_names(self, frozen: Collection[str] = ()) -> list[str]:
        """Return the names of the stages, of the new pooling and of the new head."""
        names = list(frozen)
        for name in (*self.names, "new_pooling", "new_head"):
            while name in names:  # the network was grown before
                name += "_"
            names.append(name)
        return names[len(frozen) :]


def _learns(stage: nn.Module) -> bool:
    """Tell whether a stage is not frozen; one without parameters never is."""
    parameters = list(stage.parameters())
    return not parameters or any(parameter.requires_grad for parameter in parameters)


def _keeps_statistics(module: nn.Module) -> bool:
    """Tell whether a module looks at a batch as a whole in training, or adapts to it."""
    tracks = isinstance(module, NormBase) and module.track_running_stats
    return isinstance(module, BatchNormBase) or tracks


def copy_state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


# -- the parameters that are trained ---------------------------------------------------------------


def restrict_rows(
    module: TrainableStages, rows: Activations, processes: Processes = ONE_PROCESS
) -> None:
    """Let a table of word vectors train only the rows that some training text uses, in place.

    Parameters
    ----------
    rows : Activations
        The training texts.
    processes : Processes, default=ONE_PROCESS
        Those that share the texts.
    """
    if not rows.is_ragged or not hasattr(module.body[0], "restricted"):
        return
    table: Any = module.body[0]
    used = np.unique(np.concatenate([table.index.numpy(), *(row.ravel() for row in rows[:])]))
    used = np.unique(np.concatenate(processes.everyones(used)))
    module.body[0] = table.restricted(used[used > 0])
    module.unfreeze()


def check_partial(module: TrainableStages, backbone: str) -> None:
    """Check that stages have parameters of the kind that is trained, and some that are not fixed.

    Parameters
    ----------
    backbone : str
        Its name, for the message.

    Raises
    ------
    ValueError
        If there are none.
    """
    stages, part = module.body, module.part
    if part == "lora":  # adapters are added later, to layers of which none may be there
        return
    if part != "all" and next(_partial(stages, part), None) is None:
        noun = {"norm": "normalization layers with parameters", "bias": "biases"}[part]
        raise ValueError(
            f"trainable={part!r}: backbone {backbone!r} has no {noun}. Use 'head', 'all' or a "
            "number of stages."
        )
    named = dict(nn.Sequential(*list(stages)[:-1]).named_parameters())
    free = {id(parameter) for name, parameter in named.items() if name not in module.fixed}
    selected = named.values() if part == "all" else _partial(stages, part)
    if named and free.isdisjoint(map(id, selected)):
        raise ValueError(
            f"No parameter below the head would be trained: those of backbone {backbone!r} that "
            "trainable= selects have requires_grad=False. Set it to True for some of them, or "
            "trainable='head'."
        )


def _partial(stages: nn.Sequential, part: str) -> Iterator[nn.Parameter]:
    """Yield the parameters that ``part`` other than "all" selects below the head."""
    if part == "lora":
        yield from (p for name, p in stages.named_parameters() if is_adapter(name))
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


# -- the head --------------------------------------------------------------------------------------


def make_head(
    head: str | Callable[..., Any], n_features: int, n_outputs: int, seed: int
) -> nn.Module:
    """Build a head in float32, its random weights drawn from a seed.

    Parameters
    ----------
    head : {"linear", "mlp"} or callable
        "mlp" has one hidden layer of half the features, at least 64 and at most 512 units. A
        callable is given ``(n_features, n_outputs)`` and returns a module.
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


@torch.no_grad()
def check_head(module: TrainableStages, row: torch.Tensor, n_outputs: int) -> None:
    """Check the number of outputs of a head.

    Parameters
    ----------
    row : Tensor
        The activations of one sample.
    n_outputs : int
        Number of outputs that is required.

    Raises
    ------
    ValueError
        If the head returns another number, or fails on the features.
    """
    try:
        output = module.eval()(row[None])
        shape = tuple(output.shape)
    except Exception as error:  # of any type, since the user wrote the head
        raise ValueError(f"head= cannot take the features of the network: {error}") from error
    if shape != (1, n_outputs):
        raise ValueError(
            f"head= gives outputs of shape {shape} for one sample: give (1, {n_outputs})."
        )


def last_linear(head: nn.Module, n_outputs: int) -> nn.Linear:
    """Return the linear layer that computes the outputs.

    Parameters
    ----------
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


# -- activations through the stages ----------------------------------------------------------------


def run_rows(
    body: nn.Module,
    activations: np.ndarray | Stream | Activations,
    device: str,
    engines: dict[Any, Any],
    *,
    has_tokens: bool,
    precision: str = "float32",
    positions: Sequence[int] | None = None,
) -> np.ndarray:
    """Run rows of activations through one stage; ``engines`` keeps the engines for it.

    ``positions`` are those of the samples, for messages.
    """
    modality = get_modality("text" if has_tokens else "array")
    engine = engine_for(
        {"output": body},
        {"output": ("output", "none")},
        kept=engines,
        device=resolve_device(device),
        modality=modality,
        precision=precision,
    )
    table = activations if isinstance(activations, Activations) else Activations(activations)
    size, parts = _AT_ONCE, []
    if not table.is_ragged:
        row_bytes = max(1, table.nbytes // len(table))
        size = int(np.clip(_BYTES_AT_ONCE // row_bytes, 1, _AT_ONCE))
    places = np.split(np.arange(len(table)), range(size, len(table), size))
    for rows in table.batches(places):
        tensors = [as_tensor(row) for row in rows]
        inputs = [x.float() if x.is_floating_point() else x for x in tensors]
        parts.append(engine.run_groups(modality.group(inputs))["output"])
    # -1 stands for rows that are kept from other samples.
    own = np.append(table.index, np.full(len(table) - len(table.index), -1))
    at = own if positions is None else np.asarray(positions)
    return check_outputs(np.concatenate(parts), at)


def head_inputs(
    module: TrainableStages, activations: np.ndarray | Stream | Activations, device: str = "cpu"
) -> np.ndarray:
    """Compute the input of the head from activations at the cache."""
    body = nn.Sequential(*list(with_merged_adapters(module).eval().body)[:-1])
    rows = activations if isinstance(activations, Activations) else Activations(activations)
    # Rows of tokens differ in length.
    return run_rows(body, rows, device, {}, has_tokens=rows.is_ragged)
