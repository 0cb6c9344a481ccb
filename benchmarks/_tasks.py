"""Classification tasks made from the data sets at hand, drawn at random for each seed.

Each source is a function of a random generator that returns a training pool and a test pool, as
samples and labels. If several samples come from one photograph, all of them are in the same pool.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _common import folder, hymenoptera
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from sklearn.datasets import load_digits

AT_MOST = 300  # test samples


@dataclasses.dataclass(frozen=True)
class Task:
    """A source at one size, with the settings of all strategies."""

    source: str
    n_per_class: int
    backbone: str = "efficientnet_lite0"
    image_size: int | None = None

    @property
    def name(self) -> str:
        suffix = "" if self.backbone == "efficientnet_lite0" else f" ({self.backbone})"
        return f"{self.source}{suffix}, {self.n_per_class} a class"

    def draw(self, data: Path, seed: int):
        """Return training samples and labels, and test samples and labels."""
        generator = np.random.default_rng([seed, *self.source.encode()])
        (X, y), (X_test, y_test) = SOURCES[self.source](data, generator)
        chosen = [
            generator.permutation(np.flatnonzero(y == k))[: self.n_per_class] for k in np.unique(y)
        ]
        rows = generator.permutation(np.concatenate(chosen))
        test = generator.permutation(len(y_test))[:AT_MOST]
        return ([X[i] for i in rows], y[rows]), ([X_test[i] for i in test], y_test[test])


def _halves(X: list, y, generator):
    """Split samples at random into two pools."""
    order = generator.permutation(len(X))
    half = np.array_split(order, 2)
    return [([X[i] for i in part], np.asarray(y)[part]) for part in half]


def ants_and_bees(data, generator):
    return hymenoptera(data, "train"), hymenoptera(data, "val")


def digits(data, generator):
    found = load_digits()
    return _halves(list(found.images / 16), found.target, generator)


def odd_digits(data, generator):
    found = load_digits()
    return _halves(list(found.images / 16), np.where(found.target % 2, "odd", "even"), generator)


def faces(data, generator):
    """Faces, and other pieces of the same photographs, 25 pixels wide (scikit-image)."""
    from skimage.data import lfw_subset

    y = np.repeat(["face", "other"], 100)
    return _halves(list(lfw_subset().astype(np.float32)), y, generator)


def _photos(data: Path) -> list[np.ndarray]:
    paths = sorted(folder(data, "imagenet50").iterdir())
    return [_square(Image.open(path).convert("RGB")) for path in paths]


def _square(image: Image.Image, side: int = 224) -> np.ndarray:
    left, top = (image.width - min(image.size)) // 2, (image.height - min(image.size)) // 2
    box = (left, top, left + min(image.size), top + min(image.size))
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box))


def animals(data, generator):
    """Animal or thing, fifty ImageNet photographs, by WordNet id."""
    names = [path.name for path in sorted(folder(data, "imagenet50").iterdir())]
    y = np.array(["animal" if int(name[1:9]) < 2500000 else "thing" for name in names])
    return _halves(_photos(data), y, generator)


def _made_of_photos(data, generator, changes: dict[str, Callable]):
    """Change each photograph in one way; the label is the change."""
    paths = [path for part in ("train", "val") for path in hymenoptera(data, part)[0]]
    photos = _photos(data) + [_square(Image.open(path).convert("RGB")) for path in paths]
    photos = [photos[i] for i in generator.permutation(len(photos))]
    names = np.resize(list(changes), len(photos))
    X = [changes[name](photo) for name, photo in zip(names, photos, strict=True)]
    return _halves(X, names, generator)


def turned(data, generator):
    """The rotation of a photograph."""
    turns = {f"{90 * k}": lambda image, k=k: np.rot90(image, k).copy() for k in range(4)}
    return _made_of_photos(data, generator, turns)


def _jpeg(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=8)
    return np.asarray(Image.open(file))


def _noisy(image: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 20, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def _blurred(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.5)))


def damaged(data, generator):
    """The damage of a photograph: none, blur, noise or strong compression."""
    changes = {"none": np.array, "blur": _blurred, "noise": _noisy, "jpeg": _jpeg}
    return _made_of_photos(data, generator, changes)


def mirrored_colours(data, generator):
    """Whether the red and the blue channel were exchanged."""
    changes = {"rgb": np.array, "bgr": lambda image: image[..., ::-1].copy()}
    return _made_of_photos(data, generator, changes)


SURFACES = ["brick", "grass", "gravel", "cell", "coins", "moon", "page", "text", "camera"]


def surfaces(data, generator):
    """Which of nine grey images a patch is from; test patches are from the right half."""
    import skimage.data

    pools = []
    for side in range(2):
        X, y = [], []
        for name in SURFACES:
            picture = np.array_split(getattr(skimage.data, name)(), 2, axis=1)[side]
            for _ in range(40):
                top, left = (generator.integers(size - 47) for size in picture.shape)
                X.append(picture[top : top + 48, left : left + 48])
                y.append(name)
        pools.append((X, np.array(y)))
    return pools


def _canvas(generator):
    """A blank image of a random shade and a drawing colour of another one."""
    paper, ink = generator.choice([0, 40, 90, 160, 210, 255], 2, replace=False).tolist()
    image = Image.new("L", (96, 96), paper)
    return image, ImageDraw.Draw(image), ink


def letters(data, generator):
    """Ten letters in the fonts of matplotlib, rotated and shifted at random."""
    import matplotlib

    fonts = sorted(Path(matplotlib.get_data_path(), "fonts/ttf").glob("DejaVu*.ttf"))
    fonts = [font for font in fonts if "Display" not in font.name]
    X, y = [], []
    for letter in "ABEFGHKRSX" * 60:
        image, pen, ink = _canvas(generator)
        font = ImageFont.truetype(str(fonts[generator.integers(len(fonts))]), 56)
        place = tuple((48 + generator.integers(-12, 13, 2)).tolist())
        pen.text(place, letter, fill=ink, font=font, anchor="mm")
        turned_by = float(generator.uniform(-25, 25))
        X.append(np.asarray(image.rotate(turned_by, fillcolor=image.getpixel((0, 0)))))
        y.append(letter)
    return _halves(X, y, generator)


def dots(data, generator):
    """The number of dots, one to five."""
    X, y = [], []
    for n in [1, 2, 3, 4, 5] * 120:
        image, pen, ink = _canvas(generator)
        for cell in generator.permutation(16)[:n]:
            centre = np.array([cell % 4, cell // 4]) * 22 + 15 + generator.integers(-4, 5, 2)
            radius = generator.integers(4, 9)
            pen.ellipse([*(centre - radius).tolist(), *(centre + radius).tolist()], fill=ink)
        X.append(np.asarray(image))
        y.append(n)
    return _halves(X, y, generator)


def shapes(data, generator):
    """Triangle, square, pentagon or ellipse, of random size and rotation."""
    X, y = [], []
    for corners in [3, 4, 5, 40] * 150:
        image, pen, ink = _canvas(generator)
        phase, radius = generator.uniform(0, 2 * np.pi), generator.uniform(14, 36)
        angle = phase + np.arange(corners) * 2 * np.pi / corners
        stretch = generator.uniform(0.7, 1.0)
        points = 48 + radius * np.column_stack([np.cos(angle), stretch * np.sin(angle)])
        pen.polygon([tuple(point) for point in points.tolist()], fill=ink)
        X.append(np.asarray(image))
        y.append(corners)
    return _halves(X, y, generator)


def reviews(data, generator):
    """Positive or negative sentences from film reviews (SST-2)."""
    pools = []
    for part in ("train", "dev"):
        with (folder(data, "sst2") / f"{part}.tsv").open(encoding="utf-8") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        rows = [row for row in rows if row[-1] in "01"]
        pools.append(([row[0] for row in rows], np.array([int(row[-1]) for row in rows])))
    return pools


SOURCES: dict[str, Callable] = {
    f.__name__.replace("_", " "): f
    for f in (
        *(ants_and_bees, digits, odd_digits, faces, animals, turned, damaged, mirrored_colours),
        *(surfaces, letters, dots, shapes, reviews),
    )
}
