"""Measure how loading overlaps with the network, and how it scales with the number of loaders.

From paths: seconds of `transform`, compared with the slower of loading alone and the network
alone. The features are equal to the bit. The records also have the processor time of the calling
thread. With two threads of torch on two cores, loading has no core of its own, and nothing overlaps
for free.

Simulated: a wait of 1 ms for each batch of four instead of the network, so that loading
decides, with 1, 2, 4 and 8 loaders in threads and in processes (DataLoader of torch, whose
processes start in each call). With "slow files", reading a file waits 40 ms, as on a busy
network file system.

    python benchmarks/loading.py
    python benchmarks/loading.py --quick --record
"""

from __future__ import annotations

import time

import numpy as np
import torch
from _common import Case, hymenoptera, interleave, parser, record, speeds
from torch.utils.data import DataLoader, Dataset

from sktransfer import PretrainedFeatureExtractor, load_backbone
from sktransfer.backbones import Backbone, penultimate
from sktransfer.data import get_modality
from sktransfer.engines import resolve_device
from sktransfer.engines.torch import TorchEngine
from sktransfer.features import (
    Output,
    Stream,
    compute_outputs,
    engine_for_outputs,
)

QUICK = {"rounds": 3, "samples": 64}
LOADERS = (1, 2, 4, 8)
WAIT, BATCH = 1e-3, 4  # seconds for each batch
SLOW = 40e-3  # seconds for each file


class Waiting(TorchEngine):
    """An engine that waits instead of running the network."""

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        time.sleep(WAIT)
        return {0: torch.zeros(len(batch), 1)}  # of the only output


class Opened(Dataset):
    def __init__(self, paths: list[str], backbone: Backbone):
        self.paths, self.backbone = paths, backbone

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        modality = self.backbone.modality
        return self.backbone.open(modality.read(self.paths[i]))


def load_alone(paths: list[str], backbone: Backbone, n_jobs) -> None:
    places = np.split(np.arange(len(paths)), range(BATCH, len(paths), BATCH))
    for _ in Stream(paths, backbone, n_jobs=n_jobs).batches(places):
        pass


def overlap(name: str, paths: list[str], args) -> list[Case]:
    """Compare transform with the slower of loading and network, and what is left in its thread."""
    extractor = PretrainedFeatureExtractor(name, weights=args.weights.get(name, "default"))
    extractor.fit(paths[:1])
    backbone, layer = extractor.backbone_, penultimate(extractor.backbone_)
    tensors = [backbone.open(path) for path in paths]
    engine = engine_for_outputs([Output(backbone, layer)], device=resolve_device("cpu"))

    def transform(n_jobs) -> np.ndarray:
        return extractor.set_params(n_jobs=n_jobs).transform(paths)

    assert np.array_equal(transform(None), transform("auto"))
    variants = {
        "loading alone": lambda: load_alone(paths, backbone, "auto"),
        "network alone": lambda: engine.run(tensors),
        "transform, n_jobs=None": lambda: transform(None),
        "transform, n_jobs='auto'": lambda: transform("auto"),
    }
    times = interleave(variants, args.rounds)
    alone = zip(times.pop("loading alone"), times.pop("network alone"), strict=True)
    values = {"the slower of loading and network alone": [max(pair) for pair in alone], **times}
    aims = {"transform, n_jobs='auto'": 1.1}
    about = f"{len(paths)} JPEG files, {torch.get_num_threads()} threads of torch"
    clocked = interleave(dict(list(variants.items())[1:]), args.rounds, time.thread_time)
    return [
        Case(f"{name}, {about}", "s", values, next(iter(values)), aims, "features equal"),
        Case(f"{name}, processor time of the calling thread", "s", clocked, "network alone", aims),
    ]


def through_wait(paths: list[str], output: Output, n_jobs) -> None:
    stages = {output.layer: torch.nn.Identity()}
    read = {0: (output.layer, output.pooling)}
    runner = Waiting(stages, read, device=torch.device("cpu"))
    runner.batch_size = lambda sample: BATCH  # type: ignore[method-assign]
    runner._bytes = {(3, 224, 224): 1}
    compute_outputs(paths, [output], runner=runner, n_jobs=n_jobs)


def through_processes(paths: list[str], backbone: Backbone, n_workers: int) -> None:
    data = Opened(paths, backbone)
    for _ in DataLoader(data, BATCH, num_workers=n_workers, prefetch_factor=8):
        time.sleep(WAIT)


def scaling(what: str, paths: list[str], rounds: int) -> Case:
    backbone = load_backbone("efficientnet_lite0")
    output = Output(backbone, penultimate(backbone))
    variants = {"calling thread": lambda: through_wait(paths, output, None)}
    for n in LOADERS:
        n_jobs = "auto" if n == 1 else n  # one thread on two cores
        variants[f"threads: {n}"] = lambda n_jobs=n_jobs: through_wait(paths, output, n_jobs)
        variants[f"processes: {n}"] = lambda n=n: through_processes(paths, backbone, n)
    values = speeds(interleave(variants, rounds), len(paths))
    return Case(f"a wait of 1 ms for each batch, {what}", "images/s", values, "calling thread")


def slow_files(paths: list[str], rounds: int) -> Case:
    modality = type(get_modality("image"))
    read = modality.read

    def slow(self, sample):
        time.sleep(SLOW)
        return read(self, sample)

    modality.read = slow
    try:
        return scaling("slow files", paths, rounds)
    finally:
        modality.read = read


def main() -> None:
    options = parser(__doc__, rounds=5, quick=QUICK)
    options.add_argument("--samples", type=int, default=397)
    options.add_argument("--overlap", action="store_true", help="without the simulations")
    options.set_defaults(weights={"resnet18": None})
    args = options.parse_args()
    paths = (hymenoptera(args.data, "train")[0] + hymenoptera(args.data, "val")[0])[: args.samples]
    cases = [*overlap("efficientnet_lite0", paths, args), *overlap("resnet18", paths, args)]
    if not args.overlap:
        cases += [scaling("JPEG files", paths, args.rounds), slow_files(paths, args.rounds)]
    record(__file__, args, cases)


if __name__ == "__main__":
    main()
