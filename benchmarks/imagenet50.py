"""Measure the accuracy of three networks on 50 photographs, with two preprocessings.

Top-1 and top-5 of efficientnet_lite0/1/2 on imagenet50, whose file names begin with the WordNet
id of the class. The outputs are asserted to equal those of `efficientnet_lite_pytorch` for the
same inputs (1e-4 relative); for inputs made with Pillow, the distance is printed and the
predictions are compared. The same weights are also evaluated with the mean and the standard
deviation that most ImageNet networks use, which shows that preprocessing belongs to the weights.
One photograph is two percentage points.

    python benchmarks/imagenet50.py
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace

import numpy as np
import torch
from _common import folder, parser, table
from PIL import Image
from torchvision.transforms import v2

from sktransfer import PretrainedClassifier, load_backbone
from sktransfer.backbones.lite import _weights_file

USUAL = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def reference(name: str, size: int):
    """Return the published implementation, and its preprocessing written out with Pillow."""
    from efficientnet_lite_pytorch import EfficientNet

    with contextlib.redirect_stdout(io.StringIO()):  # it prints the file name
        model = EfficientNet.from_pretrained(name.replace("_", "-"), _weights_file(name)).eval()
    crop = v2.Compose([v2.Resize(size + 32, v2.InterpolationMode.BICUBIC), v2.CenterCrop(size)])

    def preprocess(path) -> torch.Tensor:
        pixels = np.asarray(crop(Image.open(path).convert("RGB")), np.float32)
        return torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1)

    return model, preprocess


def hits(classifier, paths, truth) -> tuple[int, int, np.ndarray]:
    """Return top-1 and top-5 hits, and the position of each first choice among the classes."""
    place = {name: i for i, name in enumerate(classifier.classes_)}
    top = np.vectorize(place.get)(classifier.predict_top_k(paths, 5)[0])
    return int((top[:, 0] == truth).sum()), int((top == truth[:, None]).any(1).sum()), top[:, 0]


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm(dim=1) / b.norm(dim=1)).max().item()


@torch.no_grad()
def rows_of(name: str, paths: list[str]) -> list[list]:
    backbone = load_backbone(name)
    truth = np.array([backbone.class_ids.index(path.rpartition("/")[2][:9]) for path in paths])
    model, preprocess = reference(name, backbone.input_shape[1])
    tensors = torch.stack([backbone.open(path) for path in paths])
    by_pillow = torch.stack([preprocess(path) for path in paths])
    ours, theirs, chain = (
        torch.cat([network(x) for x in inputs.split(5)])
        for network, inputs in (
            (backbone.module, tensors),
            (model, tensors),
            (model, by_pillow),
        )
    )
    print(
        f"{name}: relative distance to the reference, largest of {len(paths)}: same inputs "
        f"{distance(ours, theirs):.1e}, Pillow's inputs {distance(ours, chain):.1e}; levels of "
        f"256 by which inputs differ: {(tensors - by_pillow).abs().max() * 128:.0f}",
        flush=True,
    )
    assert distance(ours, theirs) <= 1e-4
    wanted = chain.argmax(1).numpy()
    rows = []
    for scaling, change in {"its own": {}, "the usual": USUAL}.items():
        settings = {"classes": backbone.classes, "name": name}
        other = load_backbone(
            backbone.module, preprocess=replace(backbone.preprocess, **change), **settings
        )
        classifier = PretrainedClassifier(other if change else name).fit(paths)
        first, fifth, chosen = hits(classifier, paths, truth)
        agree = int((chosen == wanted).sum())
        rows.append([name, scaling, first, fifth, agree])
    return rows


def main() -> None:
    args = parser(__doc__).parse_args()
    paths = sorted(map(str, folder(args.data, "imagenet50").iterdir()))
    rows = [row for i in range(3) for row in rows_of(f"efficientnet_lite{i}", paths)]
    print(f"\nOf {len(paths)} photographs")
    table(["network", "scaling", "top-1", "top-5", "same first choice as the reference"], rows)


if __name__ == "__main__":
    main()
