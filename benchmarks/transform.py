"""Measure the features of images, compared with a plain loop over batches of 32.

The plain loop runs the same network up to the same layer in batches of 32. In the cases
"network", both begin with preprocessed tensors, in the others with arrays or JPEG files.
EfficientNet-Lite0 has its real weights, the others random ones, which take the same time.
"OpenVINO by hand" is the network converted by `openvino.convert_model` and called in the
fastest of the batch sizes 1, 8 and 32, in the same precision; conversions are not timed.
Features are asserted to be equal to 1e-4 (relative L2 distance of each image), in `bfloat16` to
0.3.

    python benchmarks/transform.py
    python benchmarks/transform.py --quick --networks resnet18
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from _common import Case, hymenoptera, parser, record, speeds
from _processes import race
from torch import nn

from sktransfer import PretrainedFeatureExtractor, load_backbone
from sktransfer.backbones import Backbone, pool, stages_of
from sktransfer.backbones.layers import penultimate
from sktransfer.data import get_modality
from sktransfer.engines import check_engine
from sktransfer.features import Output, engine_for_outputs

QUICK = {"rounds": 3, "samples": 32, "converted": ["efficientnet_lite0", "resnet18"]}
CPU = torch.device("cpu")
open_image = get_modality("image").open
NETWORKS = {
    "efficientnet_lite0": "EfficientNet-Lite0",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "vit_b_16": "ViT-B/16",
}
SHARES = {"resnet50": 2, "vit_b_16": 4}  # of the images, for slow networks
AIMS = {"efficientnet_lite0": {"torch": 6}, "resnet18": {"torch": 1.7}}
AGAINST_OPENVINO = {
    ("efficientnet_lite0", ""): {"openvino": 0.95},
    ("resnet18", ", bfloat16"): {"torch, bfloat16": 0.8},
}


class Plain:
    """A network up to its penultimate layer, as a loop would run it."""

    def __init__(self, backbone: Backbone):
        stages, layer = stages_of(backbone), penultimate(backbone)
        used = list(stages.values())[: list(stages).index(layer) + 1]
        self.backbone, self.network = backbone, copy.deepcopy(nn.Sequential(*used))

    @torch.inference_mode()
    def __call__(self, samples, opened: bool = True) -> np.ndarray:
        parts = []
        for start in range(0, len(samples), 32):
            batch = samples[start : start + 32]
            if not opened:
                batch = torch.stack([self.backbone.open(sample) for sample in batch])
            parts.append(pool(self.network(batch), "avg"))
        return torch.cat(parts).numpy()


class OpenVINO:
    """A network that OpenVINO converts and runs, as a program without sktransfer would."""

    def __init__(self, plain: Plain, x: torch.Tensor, precision: str):
        import openvino

        hints = {"float32": "f32", "bfloat16": "bf16"}
        settings = {"INFERENCE_PRECISION_HINT": hints[precision], "ENABLE_CPU_PINNING": False}
        settings["INFERENCE_NUM_THREADS"] = torch.get_num_threads()
        network = nn.Sequential(plain.network, Pooled()).eval()
        model = openvino.convert_model(network, example_input=x[:2])
        self.run = openvino.Core().compile_model(model, "CPU", settings)
        times = {size: self._time(x, size) for size in (1, 8, 32) if size <= len(x)}
        self.size = min(times, key=lambda size: times[size])
        print(f"  OpenVINO by hand, {precision}: batches of {self.size}")

    def _time(self, x: torch.Tensor, size: int) -> float:
        self(x[:size], size)
        start = time.perf_counter()
        self(x, size)
        return time.perf_counter() - start

    def __call__(self, x: torch.Tensor, size: int | None = None) -> np.ndarray:
        return np.concatenate([self.run([part.numpy()])[0] for part in x.split(size or self.size)])


class Pooled(nn.Module):
    def forward(self, x):
        return pool(x, "avg")


# -- contestants: each is made in a process of its own -----------------------------------------


def loaded(name: str) -> Backbone:
    torch.manual_seed(0)  # the same random weights in all processes
    warnings.filterwarnings("ignore", message="weights=None")
    return load_backbone(name, weights="default" if "lite" in name else None)


def opened(backbone: Backbone, paths: list[str]) -> torch.Tensor:
    return torch.stack([backbone.open(path) for path in paths])


def plain_network(name: str, paths: list[str]) -> Callable:
    plain = Plain(loaded(name))
    x = opened(plain.backbone, paths)
    return lambda: plain(x)


def plain_samples(name: str, paths: list[str], as_arrays: bool) -> Callable:
    plain = Plain(loaded(name))
    samples = [open_image(path) for path in paths] if as_arrays else paths
    return lambda: plain(samples, opened=False)


def by_hand(name: str, paths: list[str], precision: str) -> Callable:
    plain = Plain(loaded(name))
    x = opened(plain.backbone, paths)
    converted = OpenVINO(plain, x, precision)
    return lambda: converted(x)


def through_engine(name: str, paths: list[str], engine: str, precision: str) -> Callable:
    backbone = loaded(name)
    output = Output(backbone, penultimate(backbone))
    made = engine_for_outputs([output], device=CPU, engine=engine, precision=precision)
    x = opened(backbone, paths)
    return lambda: made.run(x)[0]


def transform(name: str, paths: list[str], as_arrays: bool, **settings: str) -> Callable:
    samples = [open_image(path) for path in paths] if as_arrays else paths
    made = PretrainedFeatureExtractor(loaded(name), device="cpu", **settings).fit(samples[:1])
    return lambda: made.transform(samples)


# -- races ---------------------------------------------------------------------------------------


def runs(converted: bool) -> dict[str, dict]:
    """Return the engines and precisions that can be used here, by their name in the table."""
    found = {}
    for precision in ("float32", "bfloat16"):
        for engine in ("torch", "openvino", "onnxruntime") if converted else ("torch",):
            try:
                check_engine(engine, CPU, precision)
            except (ImportError, ValueError) as error:
                print(f"  left out: {error}")
                continue
            name = engine if precision == "float32" else f"{engine}, bfloat16"
            found[name] = {"engine": engine, "precision": precision}
    return found


def assert_equal(outputs: dict[str, np.ndarray]) -> str:
    """Assert that all features are equal to the first, and describe how nearly."""
    wanted = outputs["plain loop"]
    far = {"float32": 0.0, "bfloat16": 0.0}
    for name, features in outputs.items():
        distance = np.linalg.norm(features - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
        precision = "bfloat16" if "bfloat16" in name else "float32"
        far[precision] = max(far[precision], float(distance.max()))
        assert distance.max() <= (0.3 if precision == "bfloat16" else 1e-4), (name, distance.max())
    rough = f", in bfloat16 to {far['bfloat16']:.1%}" if far["bfloat16"] else ""
    return f"features equal to {far['float32']:.0e}{rough} for the worst image"


def measure(name: str, variants: dict, n: int, args, aims=None, baseline="plain loop") -> Case:
    print(f"{name}, {n} images", flush=True)
    times, note = race(variants, args.rounds, args.clock, assert_equal)
    note += "; each in a fresh process"
    return Case(name, "images/s", speeds(times, n), baseline, aims or {}, note)


def measure_network(name: str, paths: list[str], args) -> list[Case]:
    """Compare the network alone, and in bfloat16 with OpenVINO."""
    given, is_converted = {"name": name, "paths": paths}, name in args.converted
    usable = runs(is_converted)
    variants: dict[str, tuple] = {"plain loop": (plain_network, given)}
    variants |= {label: (through_engine, given | how) for label, how in usable.items()}
    for label, how in usable.items():
        if how["engine"] == "openvino":
            hand = label.replace("openvino", "OpenVINO by hand")
            variants[hand] = by_hand, given | {"precision": how["precision"]}
    case = measure(f"{NETWORKS[name]}, network", variants, len(paths), args, AIMS.get(name))
    return [case, *_against_openvino(case, name)]


def _against_openvino(case: Case, name: str) -> list[Case]:
    """Return the same values, compared with OpenVINO by hand in the same precision."""
    found = []
    for suffix in ("", ", bfloat16"):
        names = [f"{each}{suffix}" for each in ("OpenVINO by hand", "openvino", "torch")]
        if set(names) <= case.values.keys():
            values = {n: case.values[n] for n in names}
            title = f"{case.name}{suffix or ', float32'}, against OpenVINO"
            aims = AGAINST_OPENVINO.get((name, suffix), {})
            found.append(Case(title, case.unit, values, names[0], aims))
    return found


def measure_transform(name: str, paths: list[str], args) -> list[Case]:
    """Compare `transform` from files and from arrays."""
    cases = []
    for what, as_arrays in {"JPEG files": False, "arrays": True}.items():
        given = {"name": name, "paths": paths, "as_arrays": as_arrays}
        variants: dict[str, tuple] = {"plain loop": (plain_samples, given)}
        for label, how in runs(False).items():
            variants[label.replace("torch", "transform")] = transform, given | how
        cases.append(measure(f"{NETWORKS[name]}, {what}", variants, len(paths), args))
    return cases


def main() -> None:
    options = parser(__doc__, rounds=5, quick=QUICK)
    options.add_argument("--samples", type=int, default=128)
    options.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    options.add_argument("--converted", nargs="*", default=list(NETWORKS), choices=NETWORKS)
    args = options.parse_args()
    paths, cases = hymenoptera(args.data, "train")[0], []
    for name in args.networks:
        few = paths[: args.samples // SHARES.get(name, 1)]
        cases += measure_network(name, few, args)
        cases += measure_transform(name, few, args)
    record(__file__, args, cases)


if __name__ == "__main__":
    main()
