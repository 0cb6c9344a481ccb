"""Measure the speed of `transform`, compared with a plain loop.

Seconds for the 397 images of hymenoptera, compared with an eager loop (batches of 32, default
memory layout, torch.no_grad) of the same network up to the same layer, in one process. The
features are asserted to be equal to 1e-4 first (relative L2 distance of each sample). Target:
twice as fast in float32. In the rows "from paths" and "from arrays", both sides decode and
preprocess with the same functions; the rows "network" start from preprocessed tensors.

Whether the memory of large activations is requested from the operating system again in each batch
depends on the previous allocations of the process (page faults are printed for each round), and
the large batches of the plain loop change it for the rest of the process. `--only` runs one
variant in a process of its own.

    python benchmarks/transform_speed.py                    # minutes on two cores
    python benchmarks/transform_speed.py --compile          # and rows for torch.compile
    python benchmarks/transform_speed.py --only transform   # or --only "plain loop"
"""

from __future__ import annotations

import copy
import warnings
from functools import partial

import numpy as np
import torch
from _common import hymenoptera, interleave, parser, ratio, table
from torch import nn

from sktransfer import PretrainedFeatureExtractor, load_backbone
from sktransfer.backbones.layers import penultimate
from sktransfer.data import open_image
from sktransfer.engines import resolve_device
from sktransfer.features import open_sample
from sktransfer.features.recipe import Recipe


def headless(module: nn.Module) -> nn.Module:
    """Copy a network without its last linear layer."""
    copied = copy.deepcopy(module)
    name = [name for name, m in copied.named_modules() if isinstance(m, nn.Linear)][-1]
    copied.set_submodule(name, nn.Identity())
    return copied.eval()


@torch.no_grad()
def loop(network: nn.Module, samples: list, opened=lambda s: s, size=32, layout=None) -> np.ndarray:
    parts = []
    for start in range(0, len(samples), size):
        batch = torch.stack([opened(sample) for sample in samples[start : start + size]])
        if layout is not None:
            batch = batch.contiguous(memory_format=layout)
        parts.append(network(batch).flatten(1))
    return torch.cat(parts).numpy()


def assert_close(name: str, features: np.ndarray, wanted: np.ndarray) -> None:
    distance = np.linalg.norm(features - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    print(f"  {name}: largest relative distance {distance.max():.1e}", flush=True)
    assert distance.max() <= 1e-4, (name, distance.max())


def measure(what: str, variants: dict, args, n: int) -> list[list]:
    """Assert that all variants are equal to the first, then time them; return a row for each."""
    print(f"{what}, {n} images", flush=True)
    if args.only:
        variants = {args.only: variants[args.only]}
    outputs = {name: run() for name, run in variants.items()}
    for name, features in outputs.items():
        assert_close(name, features, next(iter(outputs.values())))
    times = interleave(variants, args.rounds)
    base = times.get("plain loop")
    return [
        [what, name, f"{n / np.median(t):.1f}", ratio(base, t) if base and t is not base else "-"]
        for name, t in times.items()
    ]


def through_network(name: str, weights, paths, args) -> list[list]:
    """Compare the network alone, on preprocessed tensors."""
    backbone = load_backbone(name, weights=weights)
    tensors = [open_sample(path, backbone) for path in paths]
    plain = headless(backbone.module)
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    layer = penultimate(backbone)
    engine = Recipe(backbone, (layer,)).engine(resolve_device("cpu"))
    variants = {
        "plain loop": lambda: loop(plain, tensors),
        "plain loop, channels-last, batch 8": lambda: loop(
            last, tensors, size=8, layout=torch.channels_last
        ),
        "transform": lambda: engine.run(tensors, "auto")[layer],
    }
    if args.compile:
        whole = tensors[: len(tensors) // 8 * 8]  # other sizes compile again
        fast = partial(loop, torch.compile(last), size=8, layout=torch.channels_last)
        rest = partial(loop, last, size=8, layout=torch.channels_last)
        variants["torch.compile, channels-last, batch 8"] = lambda: np.concatenate(
            [fast(whole)] + ([rest(tensors[len(whole) :])] if len(tensors) % 8 else [])
        )
    return measure(f"{name}, network", variants, args, len(paths))


def through_transform(paths, args) -> list[list]:
    """Compare from paths and from decoded images."""
    extractor = PretrainedFeatureExtractor(device="cpu").fit(paths[:1])
    backbone = extractor.backbone_
    plain, arrays = headless(backbone.module), [open_image(path) for path in paths]
    rows = []
    for what, samples in {"from paths": paths, "from arrays": arrays}.items():
        variants = {
            "plain loop": lambda s=samples: loop(plain, s, lambda x: open_sample(x, backbone)),
            "transform": lambda s=samples: extractor.transform(s),
        }
        rows += measure(f"{backbone.name}, {what}", variants, args, len(paths))
    return rows


def main() -> None:
    options = parser(__doc__, rounds=3)
    options.add_argument("--samples", type=int, default=397)
    options.add_argument("--compile", action="store_true", help="a row for torch.compile too")
    options.add_argument("--only", choices=["plain loop", "transform"])
    args = options.parse_args()
    paths = (hymenoptera(args.data, "train")[0] + hymenoptera(args.data, "val")[0])[: args.samples]
    rows = through_transform(paths, args) + through_network(
        "efficientnet_lite0", "default", paths, args
    )
    warnings.filterwarnings("ignore", message="weights=None")
    for name in ("resnet18", "mobilenet_v3_small"):
        rows += through_network(name, None, paths[: args.samples // 2], args)
    table(["network, from where", "how", "images/s", "times the plain loop"], rows)


if __name__ == "__main__":
    main()
