"""Measure the similarity to ImageNet of photographs, changed photographs, drawings and noise.

The similarity that `recommend_strategy` measures, for three networks with batch normalisation:
its value, the divergence that it is computed from, and, for the default network, the measures
that are based on its predictions (the value for a network without batch normalisation, the mean
confidence, the relative entropy, the free energy). Up to 128 samples a row; only the noise is
random.

    python benchmarks/similarity.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data
from _common import folder, hymenoptera, parser, table
from _tasks import _square, letters
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits, load_sample_images

from sktransfer import PretrainedFeatureExtractor, load_backbone
from sktransfer.selection.similarity import by_predictions, measure_similarity

NETWORKS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


def blurred(images: list, radius: float) -> list:
    blur = ImageFilter.GaussianBlur(radius)
    return [np.asarray(Image.fromarray(image).filter(blur)) for image in images]


def sources(data: Path) -> dict[str, list]:
    """Return samples by name, in the expected order of similarity."""
    opened = [Image.open(p).convert("RGB") for p in sorted(folder(data, "imagenet50").iterdir())]
    photos = [_square(image) for image in opened]
    generator = np.random.default_rng(1)
    grey = [image.mean(-1).astype(np.uint8) for image in photos]
    shuffled = [generator.permutation(i.reshape(-1, 3)).reshape(i.shape) for i in photos]
    return {
        "imagenet50": photos,
        "ants and bees, val": hymenoptera(data, "val")[0],
        "scikit-learn's two photographs": load_sample_images().images,
        "scikit-image's photographs": [
            getattr(skimage.data, name)() for name in ("astronaut", "cat", "coffee", "rocket")
        ],
        "imagenet50, grey": grey,
        "imagenet50, colours inverted": [255 - image for image in photos],
        "imagenet50, blurred, radius 2": blurred(photos, 2),
        "imagenet50, blurred, radius 6": blurred(photos, 6),
        "faces, 25 pixels wide": list(skimage.data.lfw_subset()[:100].astype(np.float32)),
        "letters, drawn": letters(data, generator)[0][0],
        "digits, 8 pixels wide": list(load_digits().images[:128] / 16),
        "imagenet50, pixels shuffled": shuffled,
        "noise": list(generator.integers(0, 256, (50, 224, 224, 3), dtype=np.uint8)),
    }


def main() -> None:
    args = parser(__doc__).parse_args()
    backbones = [load_backbone(name) for name in NETWORKS]
    outputs = PretrainedFeatureExtractor(layer=-1)
    rows = []
    for name, samples in sources(args.data).items():
        logits = outputs.fit(samples).transform(samples)
        found = [measure_similarity(backbone, samples, logits) for backbone in backbones]
        first = found[0]
        values = [f"{one.value:.2f}" for one in found]
        told = [first.divergences.mean(), by_predictions(first.entropy), first.confidence]
        told = [*told, first.entropy, first.energy]
        rows.append([name, *values, *(f"{value:.2f}" for value in told)])
        print(*rows[-1], flush=True)
    by_norm = [name.removeprefix("efficientnet_") for name in NETWORKS]
    table(
        ["samples", *by_norm, "divergence", "by predictions", "confidence", "entropy", "energy"],
        rows,
    )


if __name__ == "__main__":
    main()
