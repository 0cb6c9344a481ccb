"""Compare features of two input sizes from one call with those of two calls.

Photographs of ants and bees go from files to features of efficientnet_lite0 at 128 pixels, at
224 pixels and at both. The features are asserted to be equal. Reading and decoding are measured
alone: one call is expected to take the sum of the two others minus one decoding. Times are those
of the processor, in interleaved rounds on one thread.

    python benchmarks/sizes_speed.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from _common import hymenoptera, parser

from sktransfer import PretrainedFeatureExtractor
from sktransfer.data import get_modality

SIZES = [128, 224]


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    made = parser(__doc__, rounds=7)
    made.add_argument("--samples", type=int, default=40)
    asked = made.parse_args()
    torch.set_num_threads(1)
    X = hymenoptera(asked.data, "train")[0][: asked.samples]
    image = get_modality("image")
    both, *single = (PretrainedFeatureExtractor(image_size=s).fit(X) for s in (SIZES, *SIZES))
    alone = np.hstack([extractor.transform(X) for extractor in single])
    np.testing.assert_allclose(both.transform(X), alone, rtol=1e-4, atol=1e-5)
    runs = [lambda e=extractor: e.transform(X) for extractor in (both, *single)]
    runs.append(lambda: [image.open(image.read(path)) for path in X])
    rounds = np.array([[seconds(run) for run in runs] for _ in range(asked.rounds)])
    for name, times in zip(("both", *SIZES, "decoding"), rounds.T, strict=True):
        print(f"{name!s:>8}: {1000 * median(times) / len(X):6.2f} ms an image")
    ratios = rounds[:, 0] / (rounds[:, 1] + rounds[:, 2] - rounds[:, 3])
    print(f"both / (sum - decoding): {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
