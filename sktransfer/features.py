"""Samples -> preprocessing -> stages -> features, batch by batch, on a device, through the store.

The one place where a network is run to get features is :class:`Engine`: another way of running
the same stages goes there and nowhere else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from sklearn.utils.parallel import Parallel, delayed
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .backbones import Backbone
from .backbones.base import describe
from .cache import FeatureStore
from .layers import _Tracer, pool, stages_of
from .samples import UnreadableSamplesError, digest, open_image

__all__ = ["Engine", "Recipe", "compute_features", "resolve_device"]

# A fresh memory page costs 2.5 µs, and the C library gives blocks over 32 MB back after each
# use. Activations that stay under this many bytes are not faulted in anew for each batch.
_BYTES = 20e6
_BYTES_GPU = 1e9
# Past these sizes a batch is no faster, and a single sample pays for a whole one.
_BATCH = {"image": 4, "array": 64}
_BATCH_GPU = 256
_CHUNK = 128  # samples opened, computed and stored at a time
_ENGINES: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_ENGINES_KEPT = 2  # for each network: a list of layers and the next candidate's


def resolve_device(device: str) -> torch.device:
    """Turn "auto" into the device there is; anything else must be there.

    Parameters
    ----------
    device : str
        "auto" or a name that ``torch.device`` takes. "auto" is the current accelerator, or the
        CPU where there is none.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If the named device is not on this machine.
    """
    if device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"device={device!r} cannot be used on this machine: {why}") from None
    return found


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that decides a sample's features, except the sample.

    Parameters
    ----------
    backbone : Backbone
    layers : tuple of str
        Where to cut, in any order.
    pooling : str, callable or None, default=None
        See :func:`sktransfer.layers.pool`; "none" keeps whole activations.
    precision : {"float32", "bfloat16"}, default="float32"
        What the network computes in. Features are float32 in either case.
    """

    backbone: Backbone
    layers: tuple[str, ...]
    pooling: str | Callable | None = None
    precision: str = "float32"

    def key(self, layer: str) -> str:
        """Describe all that decides the features of one layer, for the store."""
        backbone = self.backbone
        parts = ("v1", backbone.fingerprint, layer, describe(self.pooling), self.precision)
        return "|".join((*parts, backbone.kind, describe(backbone.preprocess)))


class Engine:
    """A network up to the last of some layers, prepared to run fast and not to be trained.

    Batch norm is folded into the convolution before it, activations overwrite their input,
    images lie channels-last in memory. The first sample goes through the plain stages too, and
    if the two disagree the plain ones are used, with a warning.

    Parameters
    ----------
    recipe : Recipe
    device : torch.device
    """

    def __init__(self, recipe: Recipe, device: torch.device):
        self.recipe = recipe
        self.device = device
        stages = stages_of(recipe.backbone)
        names = list(stages)
        # In the order of the network; what follows the last one does not run at all.
        self.layers = sorted(set(recipe.layers), key=names.index)
        bounds = [0, *(names.index(layer) + 1 for layer in self.layers)]
        slices = [list(stages.values())[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
        self.plain = [nn.Sequential(*part) for part in slices]
        self.segments = [_prepared(part).to(device) for part in self.plain]
        self._bytes: int | None = None  # of the largest activation of one sample
        self._widths: dict[str, int] = {}

    def run(self, tensors: Sequence[torch.Tensor], batch_size: int | str) -> dict[str, np.ndarray]:
        """Run samples in batches of one size and return each layer's features, as float32.

        A last batch that is too short is filled up with its last sample: a matrix product of
        another height takes another kernel, and its last bits would tell how many samples
        there were.
        """
        size = self.batch_size(tensors[0]) if batch_size == "auto" else int(batch_size)
        parts = []
        for start in range(0, len(tensors), size):
            batch = list(tensors[start : start + size])
            parts.append(self(torch.stack(batch + batch[-1:] * (size - len(batch)))))
        n = len(tensors)
        return {
            layer: torch.cat([part[layer] for part in parts])[:n].numpy() for layer in self.layers
        }

    @torch.inference_mode()
    def __call__(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run a batch ``(n, …)`` and return each layer's features, on the CPU, as float32."""
        self._check_once(batch[:1])
        return self._run(self.segments, batch)

    @torch.inference_mode()
    def widths(self, probe: torch.Tensor) -> dict[str, int]:
        """Return the number of features of each layer, measured once on a probe batch."""
        self._check_once(probe)
        return self._widths

    @torch.inference_mode()
    def batch_size(self, sample: torch.Tensor) -> int:
        """Return how many samples to run at a time: as many as stay cheap in memory.

        It depends on shapes and the device alone, never on a timing, so that the same samples
        meet the same batches each time.
        """
        self._check_once(sample[None])
        if self.device.type != "cpu":
            return int(np.clip(_BYTES_GPU // self._bytes, 1, _BATCH_GPU))
        return int(np.clip(_BYTES // self._bytes, 1, _BATCH[self.recipe.backbone.kind]))

    def _run(self, segments: Sequence[nn.Module], batch: torch.Tensor) -> dict[str, torch.Tensor]:
        x = batch.to(self.device, non_blocking=True)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        features = {}
        with self._autocast():
            for layer, segment in zip(self.layers, segments, strict=True):
                x = segment(x)
                # A copy, since the next stage may overwrite its input.
                features[layer] = self._pooled(x).to("cpu", torch.float32, copy=True)
        return features

    def _pooled(self, x: torch.Tensor) -> torch.Tensor:
        if self.recipe.pooling == "none":
            return x
        if _channels_are_last(x, self.recipe.backbone):
            x = x.movedim(-1, 1)
        return pool(x, self.recipe.pooling)

    def _autocast(self):
        if self.recipe.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.recipe.precision))

    def _check_once(self, probe: torch.Tensor) -> None:
        """Measure the activations and compare with the plain stages, on the first sample."""
        if self._bytes is not None:
            return
        with _largest_activation(self.segments) as largest:
            fast = self._run(self.segments, probe)
        self._widths = {layer: features.shape[-1] for layer, features in fast.items()}
        comparable = self.device.type == "cpu" and self.recipe.precision == "float32"
        if comparable and not _agree(fast, self._run(self.plain, probe)):
            warnings.warn(
                f"The fast form of backbone {self.recipe.backbone.name!r} does not give the same "
                "features as its stages; the stages themselves are used, which is slower.",
                stacklevel=2,
            )
            self.segments = self.plain
        self._bytes = max(1, largest[0] // len(probe))


def _agree(fast: dict, plain: dict, tolerance: float = 1e-4) -> bool:
    pairs = [(fast[layer].double(), plain[layer].double()) for layer in plain]
    return all((a - b).norm() <= tolerance * b.norm() + 1e-12 for a, b in pairs)


def _channels_are_last(x: torch.Tensor, backbone: Backbone) -> bool:
    """Tell ``(n, h, w, channels)`` from ``(n, channels, h, w)``: a square image has h equal to w.

    Swin's blocks work channels-last, nearly everything else channels-first.
    """
    square = backbone.input_shape is not None and x.ndim == 4
    return square and x.shape[1] == x.shape[2] != x.shape[3]


@contextlib.contextmanager
def _largest_activation(segments: Sequence[nn.Module]) -> Iterator[list[int]]:
    """Collect the size in bytes of the largest output of any module that is called meanwhile."""
    largest = [1]

    def note(module, args, output):
        if isinstance(output, torch.Tensor):
            largest[0] = max(largest[0], output.numel() * output.element_size())

    hooks = [m.register_forward_hook(note) for part in segments for m in part.modules()]
    try:
        yield largest
    finally:
        for hook in hooks:
            hook.remove()


def _prepared(segment: nn.Sequential) -> nn.Module:
    """Return the fast form of some stages: tensors that change are copied, others shared."""
    try:
        graph = _Tracer().trace(segment)
    except Exception:  # a network that cannot be traced runs as it is
        return segment
    modules = dict(segment.named_modules(remove_duplicate=False))
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls.setdefault(node.target, []).append(node)
    once = {target for target, nodes in calls.items() if len(nodes) == 1}
    for node in list(graph.nodes):
        if node.op == "call_module":
            _fold_batch_norm(node, modules, once)
    for target, nodes in calls.items():
        _use_channels_last(target, modules)
        _overwrite_input(target, nodes, modules)
    graph.lint()
    return fx.GraphModule(_Root(modules, segment), graph).eval()


class _Root(dict):
    """Modules by path, and parameters by path, as ``GraphModule`` wants them."""

    def __init__(self, modules: dict[str, nn.Module], segment: nn.Module):
        super().__init__(dict(segment.named_parameters()) | dict(segment.named_buffers()) | modules)


def _fold_batch_norm(node: fx.Node, modules: dict, once: set[str]) -> None:
    """Fold a batch norm into the convolution that alone feeds it (subclasses included)."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) > 1:
        return
    conv, norm = modules[source.target], modules[node.target]
    kinds = isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    if not kinds or not {source.target, node.target} <= once or norm.running_mean is None:
        return
    modules[source.target] = fuse_conv_bn_eval(conv, norm)
    node.replace_all_uses_with(source)
    node.graph.erase_node(node)


def _use_channels_last(target: str, modules: dict) -> None:
    if isinstance(modules[target], nn.Conv2d):
        conv = _shallow(modules[target])
        for name, parameter in conv.named_parameters(recurse=False):
            if parameter.ndim == 4:
                laid_out = parameter.detach().contiguous(memory_format=torch.channels_last)
                conv._parameters[name] = nn.Parameter(laid_out, requires_grad=False)
        modules[target] = conv


_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.ELU)


def _overwrite_input(target: str, nodes: list[fx.Node], modules: dict) -> None:
    """Let an activation overwrite its input where nobody else reads it."""
    alone = all(_is_own_memory(node.args[0], modules) for node in nodes)
    if isinstance(modules[target], _ACTIVATIONS) and alone:
        activation = _shallow(modules[target])
        activation.inplace = True
        modules[target] = activation


def _is_own_memory(source, modules: dict) -> bool:
    if not isinstance(source, fx.Node) or len(source.users) > 1 or source.op != "call_module":
        return False
    return isinstance(modules[source.target], nn.Conv2d | nn.Linear | nn.BatchNorm2d)


def _shallow(module: nn.Module) -> nn.Module:
    """Copy a module without children, its tensors shared."""
    copy = object.__new__(type(module))
    copy.__dict__.update(module.__dict__)
    copy._parameters = dict(module._parameters)
    return copy


def engine_for(recipe: Recipe, device: torch.device) -> Engine:
    """Return a prepared engine, the same again while its network lives and it is in use."""
    engines = _ENGINES.setdefault(recipe.backbone.module, {})
    key = (recipe, device)
    found = engines.pop(key, None) or Engine(recipe, device)
    engines[key] = found  # the newest last
    while len(engines) > _ENGINES_KEPT:
        engines.pop(next(iter(engines)))
    return found


def compute_features(
    samples: Sequence,
    recipe: Recipe,
    *,
    batch_size: int | str = "auto",
    device: str = "auto",
    store: FeatureStore | None = None,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> dict[str, np.ndarray]:
    """Compute features of samples, each distinct one once.

    Parameters
    ----------
    samples : sequence
        As :func:`sktransfer.samples.as_samples` returns them, or an array of rows.
    recipe : Recipe
    batch_size : int or "auto", default="auto"
    device : str, default="auto"
    store : FeatureStore, default=None
        Where features are looked up first and kept afterwards.
    n_jobs : int, default=None
        Threads that open and preprocess samples.
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    dict of str to ndarray of shape (n_samples, n_features)
        For each layer of the recipe, float32.

    Raises
    ------
    UnreadableSamplesError
        Naming the samples that cannot be read.
    """
    # Whoever cannot be opened, all who cannot are named.
    try:
        digests = [_digest(sample) for sample in samples]
        distinct, scatter = _distinct(digests)
        source = _Source(recipe, batch_size, device, n_jobs)
        parts = []
        for start in _progress(range(0, len(distinct), _CHUNK), recipe, verbose):
            chosen = distinct[start : start + _CHUNK]
            chunk = [samples[i] for i in chosen]
            parts.append(_through_store(chunk, [digests[i] for i in chosen], source, store))
    except _SampleError as error:
        raise UnreadableSamplesError(_problems(samples, recipe.backbone)) from error.__cause__
    tables = {layer: np.concatenate([part[layer] for part in parts]) for layer in recipe.layers}
    return tables if scatter is None else {k: table[scatter] for k, table in tables.items()}


class _SampleError(Exception):
    """A sample could not be opened."""


def _digest(sample) -> bytes:
    try:
        return digest(sample)
    except Exception as error:
        raise _SampleError from error


def _distinct(digests: list[bytes]) -> tuple[list[int], np.ndarray | None]:
    """Return one position of each distinct sample, and each sample's place among those."""
    place: dict[bytes, int] = {}
    for d in digests:
        place.setdefault(d, len(place))
    if len(place) == len(digests):
        return list(range(len(digests))), None
    scatter = np.array([place[d] for d in digests])
    return np.unique(scatter, return_index=True)[1].tolist(), scatter


def _through_store(
    samples: list, digests: list[bytes], source: _Source, store: FeatureStore | None
) -> dict[str, np.ndarray]:
    """Look features up, compute those that are missing, keep them."""
    recipe = source.recipe
    if store is None:
        return source.compute(samples)
    found = {layer: store.get(recipe.key(layer), digests) for layer in recipe.layers}
    columns = zip(*found.values(), strict=True)
    missing = [i for i, row in enumerate(columns) if any(value is None for value in row)]
    if missing:
        new = source.compute([samples[i] for i in missing])
        for layer, table in new.items():
            store.put(recipe.key(layer), [digests[i] for i in missing], table)
            for i, value in zip(missing, table, strict=True):
                found[layer][i] = value
    return {layer: np.stack(values) for layer, values in found.items()}


class _Source:
    """Opens samples and runs them through the network, which is prepared when first needed."""

    def __init__(self, recipe: Recipe, batch_size, device: str, n_jobs: int | None):
        self.recipe = recipe
        self.batch_size = batch_size
        self.device = device
        self.n_jobs = n_jobs

    @functools.cached_property
    def engine(self) -> Engine:
        return engine_for(self.recipe, resolve_device(self.device))

    def compute(self, samples: list) -> dict[str, np.ndarray]:
        tensors = self._open(samples)
        _check_shapes(tensors)
        return self.engine.run(tensors, self.batch_size)

    def _open(self, samples: list) -> list[torch.Tensor]:
        if self.n_jobs in (None, 1):
            return [_open(sample, self.recipe.backbone) for sample in samples]
        opened = Parallel(self.n_jobs, prefer="threads")(
            delayed(_open)(sample, self.recipe.backbone) for sample in samples
        )
        return list(opened)


def _open(sample, backbone: Backbone) -> torch.Tensor:
    """Open and preprocess one sample."""
    try:
        return open_sample(sample, backbone)
    except Exception as error:
        raise _SampleError from error


def open_sample(sample, backbone: Backbone) -> torch.Tensor:
    """Open one sample as its backbone wants it.

    Parameters
    ----------
    sample : object
    backbone : Backbone

    Returns
    -------
    Tensor
        Without a batch axis.
    """
    if backbone.kind == "array":
        return torch.tensor(sample)
    return backbone.preprocess(open_image(sample))


def _problems(samples: Sequence, backbone: Backbone) -> list[tuple[int, object, Exception]]:
    problems = []
    for i, sample in enumerate(samples):
        try:
            open_sample(sample, backbone)
        except Exception as error:
            problems.append((i, sample, error))
    return problems


def _check_shapes(tensors: list[torch.Tensor]) -> None:
    shapes = {tuple(t.shape) for t in tensors}
    if len(shapes) > 1:
        raise ValueError(
            f"The preprocessing returns tensors of different shapes, {sorted(shapes)[:3]}; a "
            "network needs one shape: add a resize and a crop to it."
        )


def _progress(steps: range, recipe: Recipe, verbose: int):
    if not verbose:
        return steps
    try:
        from rich.progress import track
    except ImportError:
        raise ImportError(
            "verbose=1 draws its bar with rich: pip install 'sktransfer[cli]'"
        ) from None
    return track(steps, description=f"{recipe.backbone.name} features")
