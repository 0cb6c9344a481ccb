"""From samples to features: read, digest, look up, open, run, keep.

:func:`compute_outputs` is the whole way. Its steps follow in the order in which they run:

    samples ── read_chunks ──> chunks that are read and digested, in threads
               look_up     ──> equal samples are found; the store is asked for the others
               open_ahead  ──> what is missing is opened and preprocessed, in threads
               Pass.run    ──> and passes the engine of each network
               Pass.keep   ──> rows go to the store, and to the output

Threads work ahead: while a chunk passes a network, the next one is read, looked up and opened.
:class:`Loader` is at the end of the file.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import torch
from joblib.parallel import get_active_backend
from threadpoolctl import ThreadpoolController

from ..backbones import Backbone
from ..data import Modality, UnreadableSamplesError, check_interrupt, progress
from ..engines import Engine, keep_freed_memory, resolve_device
from .blocks import stacked
from .generations import CheckedStore
from .key_index import KeyIndex, as_keys
from .output import Output, empty_table, engine_for_outputs
from .store import FeatureStore

_BLOCK = 8  # samples that one task reads
_BYTES_READ = 2**26  # bytes of files in one chunk, or one file
_RECENT = 2**13  # digests in a dictionary, with 0.2 kB each, before they are sorted
_MOST = 2**20  # sorted digests, with 24 bytes each
_FEW = 4  # samples for which no threads are started
_MOST_BYTES = 2**27  # of results that wait


def compute_outputs(
    samples: Sequence[Any],
    outputs: Sequence[Output],
    *,
    aside: Sequence[Output] = (),
    batch_size: int | str = "auto",
    device: str = "auto",
    engine: str = "auto",
    precision: str = "float32",
    store: FeatureStore | None = None,
    n_jobs: int | str | None = "auto",
    verbose: int = 0,
    runner: Engine | None = None,
    bad: dict[int, Exception] | None = None,
    then: Callable[..., Any] | None = None,
    in_memory: int | None = None,
) -> list[np.ndarray]:
    """Compute what is read from networks for samples, those of equal samples once.

    Each sample is read, digested and opened once. The outputs of one network at one input size are
    computed in one pass through it, whatever their layers and poolings.

    Parameters
    ----------
    samples : sequence
        As returned by the method ``check`` of their modality.
    outputs : sequence of Output
        Their backbones have one modality.
    aside : sequence of Output, default=()
        Whole activations that go to the store as well, of the samples that are computed.
    engine : {"auto", "torch", "openvino", "onnxruntime", "compile"}, default="auto"
        The library that runs the networks.
    precision : {"float32", "bfloat16"}, default="float32"
        The type in which the networks compute.
    store : FeatureStore, default=None
        Where features are looked up first and kept afterwards.
    n_jobs : int, "auto" or None, default="auto"
        Threads that read, open and preprocess samples while the network runs. "auto" is the number
        of cores that it does not use, at least one; None and 1 are none.
    verbose : int, default=0
        1 shows a progress bar.
    runner : Engine, default=None
        For outputs of one backbone: runs every sample, also those in the store, in place of the
        engine. It returns the outputs, and then those of ``aside``, by their position.
    bad : dict of int to Exception, default=None
        If given, causes are put into it by the position of each sample that cannot be read, and
        the features of these samples are NaN.
    then : callable, default=None
        Applied to the features of some samples, with their positions; its result is returned
        in place of the features, so that large activations need not be kept.
    in_memory : int, default=None
        Bytes of an output above which it is in a temporary file; None is 2 GiB.

    Returns
    -------
    list of ndarray of shape (n_samples, n_features)
        One for each output. Whole activations of texts differ in length: an array of objects, of
        shape ``(length, channels)`` each. Without features if no sample can be read.

    Raises
    ------
    UnreadableSamplesError
        If samples cannot be read or preprocessed, and ``bad`` is None. It lists them.
    """
    how = {"engine": engine, "precision": precision, "device": device}
    passes = make_passes(outputs, aside, how, batch_size, store, runner)
    backbones = [network_pass.backbone for network_pass in passes]
    others = (store, runner, bad, then, in_memory, verbose or None)
    if len(samples) == len(passes) == 1 and all(given is None for given in others):
        alone = _compute_one(samples, passes[0])
        return [alone[i] for i in range(len(outputs))]
    firsts = FirstPositions(len(samples))
    tables: list[np.ndarray | None] = [None] * len(outputs)
    by_value = store is None and not firsts.by_digest
    n_loaders = count_loaders(n_jobs, resolve_device(device), backbones, len(samples))
    n_done = 0
    with (
        Loader(n_loaders) as loader,
        keep_freed_memory(),
        progress(f"{backbones[0].name} features", len(samples), verbose) as advance,
    ):
        read = read_chunks(samples, backbones[0].modality, loader, by_value)
        chunks = (look_up(pairs, firsts, passes) for pairs in read)
        try:
            for chunk, opened in open_ahead(chunks, backbones, loader):
                check_interrupt()
                if bad is not None:
                    opened = leave_out_unreadable(chunk, opened, bad)
                elif chunk.errors:
                    raise chunk.errors[0]
                inputs = inputs_by_pass(chunk, opened, backbones)
                for network_pass, stored, groups in zip(passes, chunk.stored, inputs, strict=True):
                    new = network_pass.run(groups) if stored.missing else {}
                    network_pass.keep(new, stored, chunk.digests)
                    for i in network_pass.returned if chunk.positions else ():
                        rows = stored.rows(i, new)
                        rows = rows if then is None else then(rows, chunk.positions)
                        table = tables[i]
                        if table is None:
                            shape = len(samples), *rows.shape[1:]
                            tables[i] = table = empty_table(shape, rows.dtype, in_memory)
                        table[chunk.positions] = rows
                for table in tables if chunk.repeated else ():
                    if table is not None:
                        table[[*chunk.repeated]] = table[[*chunk.repeated.values()]]
                n_done += chunk.n_samples
                advance(chunk.n_samples)
        except SampleError as error:
            raise unreadable_samples(samples, n_done, backbones, error) from error.cause
    nothing = np.empty((len(samples), 0), np.float32)  # no sample could be read
    results = [nothing if table is None else table for table in tables]
    if bad:
        for result in results:
            result[[*bad]] = np.nan
    return results


def _compute_one(samples: Sequence[Any], network_pass: Pass) -> dict[int, np.ndarray]:
    """Compute the features of a single sample; chunks and threads take longer than a short text."""
    backbone = network_pass.backbone
    with keep_freed_memory():
        try:
            tensor = backbone.open(backbone.modality.read(samples[0]))
        except Exception as error:
            problem = SampleError(0, error)
            raise unreadable_samples(samples, 0, [backbone], problem) from error
        return network_pass.run([(np.arange(1), [tensor])])


# -- read and digest -------------------------------------------------------------------------------


class Sample(NamedTuple):
    """A sample that was read into memory, and its position among all samples."""

    position: int
    content: object


class SampleError(Exception):
    """The sample at a position among all could not be read or opened."""

    cause: Exception
    position: int

    def __init__(self, position: int, cause: Exception):
        super().__init__(position, cause)
        self.position, self.cause = position, cause


def read_chunks(
    samples: Sequence[Any], modality: Modality, loader: Loader, by_value: bool
) -> Iterator[list[tuple[Sample, Any]]]:
    """Read samples into memory, and yield them in chunks of limited size in samples and bytes.

    Beside each sample is its digest, the sample itself where it is hashable and ``by_value`` is
    true, or a :class:`SampleError`.
    """
    by_value = by_value and modality.is_hashable

    def read(positions: range) -> list[tuple[Sample, Any]]:
        pairs: list[tuple[Sample, Any]] = []
        for i in positions:
            try:
                content = modality.read(samples[i])
                key = content if by_value else modality.digest(content)
                pairs.append((Sample(i, content), key))
            except Exception as error:
                pairs.append((Sample(i, None), SampleError(i, error)))
        return pairs

    def is_in_memory(positions: range) -> bool:  # arrays take longer to hand over than to digest
        return all(type(samples[i]) is np.ndarray for i in positions)

    blocks = (range(i, min(i + _BLOCK, len(samples))) for i in range(0, len(samples), _BLOCK))
    if type(modality).read is Modality.read:  # what is in memory is not handed to threads
        pairs: Iterator[list[tuple[Sample, Any]]] = map(read, blocks)
    else:
        ahead = modality.chunk_size // _BLOCK
        pairs = loader.map(read, blocks, ahead, n_bytes=_bytes_read, at_once=is_in_memory)
    chunk, n_bytes = [], 0
    for pair in itertools.chain.from_iterable(pairs):
        chunk.append(pair)
        n_bytes += _bytes_read([pair])
        if len(chunk) == modality.chunk_size or n_bytes >= _BYTES_READ:
            yield chunk
            chunk, n_bytes = [], 0
    if chunk:
        yield chunk


def _bytes_read(pairs: list[tuple[Sample, Any]]) -> int:
    return sum(getattr(sample.content, "bytes_read", 0) for sample, _ in pairs)


# -- look up ---------------------------------------------------------------------------------------


@dataclasses.dataclass
class Chunk:
    """Some samples in a row."""

    n_samples: int
    samples: list[Sample]  # those that equal no earlier one, until they are opened
    positions: list[int]  # theirs, among all samples
    digests: list[bytes]
    repeated: dict[int, int]  # positions of the others, and of the samples that they equal
    errors: list[SampleError]  # of samples that cannot be read
    stored: list[Stored]  # what the store has of ``samples``, for each pass


@dataclasses.dataclass
class Stored:
    """What the store has of the samples of a chunk for the outputs of one pass."""

    found: dict[int, list[Any]]  # by output a row or None for each sample; empty without a store
    missing: list[int]  # places of the samples of which not all outputs are there
    is_ragged: bool  # whether whole activations differ in length

    def rows(self, i: int, new: dict[int, np.ndarray]) -> np.ndarray:
        """Return the rows of an output, after new ones have been kept."""
        if i not in self.found:
            return new[i]
        rows = self.found[i]
        return stacked(rows, self.is_ragged and np.ndim(rows[0]) > 1)


def look_up(pairs: list[tuple[Sample, Any]], firsts: FirstPositions, passes: list[Pass]) -> Chunk:
    """Find samples that equal earlier ones, and ask the store for the others."""
    errors = [key for _, key in pairs if isinstance(key, SampleError)]
    read = [pair for pair in pairs if not isinstance(pair[1], SampleError)]
    places = [sample.position for sample, _ in read]
    first = firsts.find([key for _, key in read], places)
    repeated = {i: k for i, k in zip(places, first, strict=True) if i != k}
    new = [pair for pair in read if pair[0].position not in repeated]
    samples, digests = [sample for sample, _ in new], [key for _, key in new]
    stored = [network_pass.look_up(samples, digests) for network_pass in passes]
    positions = [sample.position for sample in samples]
    return Chunk(len(pairs), samples, positions, digests, repeated, errors, stored)


class FirstPositions:
    """The position of the first of equal samples, in bounded memory.

    The last half a million distinct samples, at least, are known. ``n_samples`` is the number of
    all that will be asked for.
    """

    by_digest: bool

    def __init__(self, n_samples: int):
        #: Whether all keys are digests of 16 bytes, or any that can be in a dictionary.
        self.by_digest = n_samples > _RECENT
        self._recent: dict[Any, int] = {}
        self._earlier = KeyIndex() if self.by_digest else None

    def find(self, keys: Sequence[Any], positions: Sequence[int]) -> list[int]:
        """Return the position of the first sample with each key, and learn the new ones.

        ``positions``, ascending, are those of the samples with these keys.
        """
        known = [-1] * len(keys)
        if self._earlier is not None and len(self._earlier):
            known = self._earlier.find(as_keys(keys)).tolist()
        first = [
            self._recent.setdefault(key, position) if before < 0 else before
            for key, position, before in zip(keys, positions, known, strict=True)
        ]
        if self._earlier is not None and len(self._recent) >= _RECENT:
            recent = np.fromiter(self._recent.values(), np.int64, len(self._recent))
            self._earlier.add(as_keys(list(self._recent)), recent)
            self._recent = {}
            if len(self._earlier) > _MOST:  # the last half stays
                places = self._earlier.places
                self._earlier.retain(places >= np.median(places))
        return first


# -- open and preprocess ---------------------------------------------------------------------------


def open_ahead(
    chunks: Iterator[Chunk], backbones: Sequence[Backbone], loader: Loader
) -> Iterator[tuple[Chunk, Iterator[Any]]]:
    """Yield chunks with what is opened of them, while the next chunk is opened in threads.

    That is, for each backbone (one for each pass) that preprocesses samples together and misses
    some, the groups of these; then for each sample that others miss what :func:`open_for` returns.
    """
    modality = backbones[0].modality
    together = [k for k, backbone in enumerate(backbones) if hasattr(backbone.preprocess, "many")]
    ahead = 4 if together else max(1, modality.chunk_size // 2)
    queue = LoaderQueue(loader, ahead, _bytes_of_tensors)
    waiting: deque[tuple[Chunk, int]] = deque()
    for chunk in chunks:
        n_before = len(queue)
        for k in together:
            contents = [chunk.samples[i].content for i in chunk.stored[k].missing]
            if contents:
                queue.add(backbones[k].preprocess.many, contents)
        users: dict[int, dict[int, Backbone]] = {}  # those that miss a sample, by its place
        for k, stored in enumerate(chunk.stored):
            for i in stored.missing if k not in together else ():
                users.setdefault(i, {})[k] = backbones[k]
        for i in sorted(users):
            queue.add(open_for, chunk.samples[i], users[i])
        waiting.append((chunk, len(queue) - n_before))
        chunk.samples = []  # the contents of files are not needed once they are opened
        if len(waiting) == 2:
            now, n_results = waiting.popleft()
            yield now, queue.results(n_results)
    for now, n_results in waiting:
        yield now, queue.results(n_results)


def open_for(sample: Sample, backbones: Mapping[int, Backbone]) -> Any:
    """Open a sample that was read: a tensor for each backbone of its modality, or SampleError."""
    try:
        opened = next(iter(backbones.values())).modality.open(sample.content)
        return {k: backbone.preprocessed(opened) for k, backbone in backbones.items()}
    except Exception as error:
        return SampleError(sample.position, error)


def _bytes_of_tensors(opened: Any) -> int:
    tensors = opened.values() if isinstance(opened, dict) else ()
    return sum(x.nbytes for x in tensors if isinstance(x, torch.Tensor))


def leave_out_unreadable(
    chunk: Chunk, opened: Iterator[Any], bad: dict[int, Exception]
) -> Iterator[Any]:
    """Leave out the samples of a chunk that cannot be read or opened, and those equal to them.

    The chunk is changed, the causes are put into ``bad``, and what is opened of the others is
    returned.
    """
    results = list(opened)
    errors = [result for result in results if isinstance(result, SampleError)]
    bad |= {error.position: error.cause for error in (*chunk.errors, *errors)}
    bad |= {i: bad[k] for i, k in chunk.repeated.items() if k in bad}
    if errors:
        kept = [i for i, position in enumerate(chunk.positions) if position not in bad]
        place = {i: new for new, i in enumerate(kept)}
        chunk.positions = [chunk.positions[i] for i in kept]
        chunk.digests = [chunk.digests[i] for i in kept]
        for stored in chunk.stored:
            stored.found = {k: [rows[i] for i in kept] for k, rows in stored.found.items()}
            stored.missing = [place[i] for i in stored.missing if i in place]
    return (result for result in results if not isinstance(result, SampleError))


def inputs_by_pass(
    chunk: Chunk, opened: Iterator[Any], backbones: Sequence[Backbone]
) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the inputs of each network in groups of one shape, with their places.

    Samples without tokens have one shape, and are taken when the network asks for them.
    """
    modality = backbones[0].modality
    n_missing = {k: len(stored.missing) for k, stored in enumerate(chunk.stored) if stored.missing}
    groups = {k: next(opened) for k in n_missing if hasattr(backbones[k].preprocess, "many")}
    waiting: dict[int, deque[torch.Tensor]] = {k: deque() for k in n_missing}
    for k in range(len(backbones)):
        n = n_missing.get(k, 0)
        if n and k not in groups:
            tensors = _taken(k, n, opened, waiting, modality)
            groups[k] = modality.group([*tensors]) if modality.has_tokens else [(range(n), tensors)]
        yield groups.pop(k, [])


def _taken(
    k: int,
    n: int,
    opened: Iterator[Any],
    waiting: dict[int, deque[torch.Tensor]],
    modality: Modality,
) -> Iterator[torch.Tensor]:
    """Yield the inputs of one network; those of others wait for their turn."""
    shape = None
    for _ in range(n):
        while not waiting[k]:
            tensors = next(opened)
            if isinstance(tensors, SampleError):
                raise tensors
            for user, tensor in tensors.items():
                waiting[user].append(tensor)
        tensor = waiting[k].popleft()
        if shape not in (None, tensor.shape) and not modality.has_tokens:
            modality.group([torch.empty(shape), tensor])  # tells that a network needs one shape
        shape = tensor.shape
        yield tensor


def unreadable_samples(
    samples: Sequence[Any], start: int, backbones: Sequence[Backbone], error: SampleError
) -> UnreadableSamplesError:
    """Return an error that lists all samples from position ``start`` on that cannot be opened.

    ``error`` is that of one of them, which may not fail again.
    """
    problems, by_number = [], dict(enumerate(backbones))
    for i in range(start, len(samples)):
        sample = samples[i]
        opened = error if i == error.position else open_for(Sample(i, sample), by_number)
        if isinstance(opened, SampleError):
            problems.append((i, sample, opened.cause))
    return UnreadableSamplesError(problems)


# -- run and keep ----------------------------------------------------------------------------------


class Pass:
    """One run of samples through a network, for all outputs that are read from it.

    The outputs are known by their position among all; from ``n_returned`` on they only go to the
    store.
    """

    aside: list[int]
    backbone: Backbone
    batch_size: Any
    conversions: Path | None
    how: dict[str, str]
    returned: list[int]
    runner: Engine | None

    def __init__(
        self,
        outputs: dict[int, Output],
        n_returned: int,
        how: dict[str, str],
        batch_size: Any,
        store: FeatureStore | None,
        runner: Engine | None,
    ):
        self.outputs = outputs
        self.backbone = next(iter(outputs.values())).backbone
        self.returned = [i for i in outputs if i < n_returned]
        self.aside = [i for i in outputs if i >= n_returned]
        self.how, self.batch_size, self.runner = how, batch_size, runner
        self.conversions = None if store is None else store.conversions
        self.store: CheckedStore | None = None
        if store is not None:
            self.store = CheckedStore(store, outputs, **how)

    @functools.cached_property
    def engine(self) -> Engine:
        """Prepared at its first use."""
        if self.runner is not None:
            return self.runner
        device = resolve_device(self.how["device"])
        how: dict[str, Any] = {**self.how, "device": device, "conversions": self.conversions}
        return engine_for_outputs([*self.outputs.values()], **how)

    def look_up(self, samples: Sequence[Sample], digests: list[bytes]) -> Stored:
        """Ask the store for the outputs of samples."""
        missing, is_ragged = list(range(len(digests))), self.backbone.modality.has_tokens
        if self.store is None:
            return Stored({}, missing, is_ragged)
        # It compares some of what it finds with what the code of today computes.
        found = self.store.get([sample.content for sample in samples], digests, self.returned)
        if self.runner is None:
            missing = [i for i in missing if any(rows[i] is None for rows in found.values())]
        return Stored(found, missing, is_ragged)

    def run(self, groups: list[tuple[Any, ...]]) -> dict[int, np.ndarray]:
        """Run preprocessed samples, and return the rows of every output."""
        if self.backbone.modality.has_tokens:
            rows = self.engine.run_groups(groups, self.batch_size)
        else:
            ((_, tensors),) = groups
            rows = self.engine.run(tensors, self.batch_size)
        return {position: rows[i] for i, position in enumerate(self.outputs)}

    def keep(self, new: dict[int, np.ndarray], stored: Stored, digests: Sequence[bytes]) -> None:
        """Put rows that were missing into the store, and beside those that were found."""
        if self.store is None or not stored.missing:
            return
        repeats = self.engine.has_compared
        for i in self.aside:
            missing = [digests[place] for place in stored.missing]
            self.store.put(i, missing, new[i], aside=True, repeats=repeats)
        for i in self.returned:
            rows = stored.found[i]
            absent = [j for j, place in enumerate(stored.missing) if rows[place] is None]
            places = [stored.missing[j] for j in absent]
            absent_digests = [digests[place] for place in places]
            self.store.put(i, absent_digests, new[i][absent], repeats=repeats)
            for j, place in zip(absent, places, strict=True):
                rows[place] = new[i][j]


def make_passes(
    outputs: Sequence[Output],
    aside: Sequence[Output],
    how: dict[str, str],
    batch_size: int | str | None,
    store: FeatureStore | None,
    runner: Engine | None = None,
) -> list[Pass]:
    """Group the outputs that one run through a network computes."""
    groups: dict[int, dict[int, Output]] = {}
    for i, output in enumerate([*outputs, *aside]):
        groups.setdefault(id(output.backbone), {})[i] = output
    return [Pass(group, len(outputs), how, batch_size, store, runner) for group in groups.values()]


def describe_runs(
    outputs: Sequence[Output],
    *,
    batch_size: int | str | None = "auto",
    device: str = "auto",
    engine: str = "auto",
    precision: str = "float32",
    store: FeatureStore | None = None,
) -> dict[Backbone, dict[str, Any]]:
    """Describe how :func:`compute_outputs` runs each network.

    By "engine", "device", "precision", "layout" and "batch_size"; the last is None if it is "auto"
    and depends on the sample.
    """
    how = {"engine": engine, "precision": precision, "device": device}
    runs: dict[Backbone, dict[str, Any]] = {}
    for network_pass in make_passes(outputs, (), how, batch_size, store):
        shape, size = network_pass.backbone.input_shape, batch_size
        if size == "auto":
            size = None if shape is None else network_pass.engine.batch_size(torch.zeros(shape))
        runs[network_pass.backbone] = network_pass.engine.execution() | {"batch_size": size}
    return runs


# -- in threads ------------------------------------------------------------------------------------


def count_loaders(
    n_jobs: int | str | None, device: torch.device, backbones: Sequence[Backbone], n_samples: int
) -> int:
    """Return the number of threads that load samples; 0 for none.

    There are none for a few samples, and if nothing is read, opened or preprocessed. Without
    threads, samples are loaded in the calling thread when they are needed. A negative number counts
    from the number of cores, as in joblib. "auto" is the number of cores that the network does not
    use: on a CPU those that torch has no threads for, at least a quarter; with an accelerator all
    but one. In a process or thread of joblib it is 1.
    """
    modality = backbones[0].modality
    opens = type(modality).open is not Modality.open or type(modality).read is not Modality.read
    opens = opens or any(backbone.preprocess is not None for backbone in backbones)
    if n_jobs in (None, 1) or n_samples <= _FEW or not opens:
        return 0
    cores = joblib.cpu_count()
    if not isinstance(n_jobs, str):
        return min(n_jobs if n_jobs > 0 else max(1, cores + 1 + n_jobs), n_samples)
    if get_active_backend()[0].nesting_level:
        return 1  # other jobs use the other cores
    left = cores - (torch.get_num_threads() if device.type == "cpu" else 1)
    return max(1, left, cores // 4)


class Loader:
    """Apply functions to items ahead of the use of the results, in threads.

    A context manager, at whose end tasks that were not begun are dropped. Threads suffice, because
    the libraries that decode and resize images release Python's lock meanwhile
    (``benchmarks/loading.py`` compares them with processes). With 0 threads, items are processed in
    the calling thread when they are asked for.
    """

    def __init__(self, n_loaders: int):
        self.pool: ThreadPoolExecutor | None = None
        if n_loaders:
            self.pool = ThreadPoolExecutor(n_loaders, "loader", initializer=_use_one_core)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def map(
        self,
        function: Callable[..., Any],
        items: Iterable[Any],
        ahead: int,
        *,
        n_bytes: Callable[..., Any] | None = None,
        at_once: Callable[..., Any] | None = None,
    ) -> Iterator[Any]:
        """Yield the results of a function in the order of the items.

        Items are read in the calling thread. What the function raises is raised where its result is
        asked for. ``ahead`` results, at most, are computed and not yet asked for. This number is
        reduced such that together they have about 128 MiB, if all are as large as the last, by
        ``n_bytes`` of a result. Items of which ``at_once`` is true, as they take no time, are
        processed in the calling thread; their results are yielded before further items are read,
        unless others come first.
        """
        queue = LoaderQueue(self, ahead, n_bytes)
        for item in items:
            if at_once is None or not at_once(item):
                queue.add(function, item)
            elif len(queue):
                queue.add_result(function(item))
            else:
                yield function(item)
            while len(queue) >= queue.ahead:
                yield from queue.results(1)
        yield from queue.results(len(queue))


class LoaderQueue:
    """Calls of functions, of which a limited number runs ahead of the use of the results.

    Without threads, a call runs when its result is taken. ``ahead`` and ``n_bytes`` are as for
    :meth:`Loader.map`.
    """

    ahead: int

    def __init__(self, loader: Loader, ahead: int, n_bytes: Callable[..., Any] | None):
        self._pool, self._n_bytes = loader.pool, n_bytes
        self.ahead = ahead if loader.pool is not None else 1
        self._begun: deque[Future] = deque()
        self._calls: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()

    def __len__(self) -> int:
        return len(self._begun) + len(self._calls)

    def add(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Add a call."""
        self._calls.append((function, arguments))
        self._begin()

    def add_result(self, result: Any) -> None:
        """Add the result of a call that has ended. No call may wait for its turn."""
        future: Future = Future()
        future.set_result(result)
        self._begun.append(future)

    def results(self, n: int) -> Iterator[Any]:
        """Yield the next n results, and begin further calls meanwhile."""
        for _ in range(n):
            if self._pool is None:
                function, arguments = self._calls.popleft()
                yield function(*arguments)
                continue
            self._begin()
            result = self._begun.popleft().result()
            if self._n_bytes is not None:
                most = _MOST_BYTES // max(1, self._n_bytes(result))
                self.ahead = min(self.ahead, max(1, most))
            yield result

    def _begin(self) -> None:
        while self._pool is not None and self._calls and len(self._begun) < self.ahead:
            function, arguments = self._calls.popleft()
            self._begun.append(self._pool.submit(function, *arguments))


@functools.cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="openmp")


def _use_one_core() -> None:
    """Let operations of torch in this thread use one core; other threads are not changed."""
    torch.get_num_threads()  # torch sets the number for a thread when it is first asked for it
    _openmp().limit(limits=1)
