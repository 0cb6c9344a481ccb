"""Predict with a file of ``sktransfer.to_onnx``, without sktransfer and torch.

    python docs/predict_onnx.py FILE IMAGE...

Requires onnxruntime, numpy and pillow. For sentence encoders give texts instead of images; then it
requires tokenizers as well.
"""

import json
import re
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def as_array(path: str, about: dict) -> np.ndarray:
    """Open and resize an image as the input of the file describes it."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    resized = image.resize(new_size(image, about), Image.Resampling[about["interpolation"].upper()])
    high, wide = pair(about["crop"])
    left, top = (round((a - b) / 2) for a, b in zip(resized.size, (wide, high), strict=True))
    if about["crop_mode"] == "border":
        fill = tuple(round(255 * value) for value in about["mean"])
        ground = Image.new("RGB", (wide, high), fill)
        ground.paste(resized, ((wide - resized.width) // 2, (high - resized.height) // 2))
        return np.asarray(ground)
    return np.asarray(resized.crop((left, top, left + wide, top + high)))


def new_size(image: Image.Image, about: dict) -> tuple[int, int]:
    """Return the width and the height to resize an image to."""
    high, wide = pair(about["resize"])
    if about["crop_mode"] == "squash":
        return wide, high
    ratios = image.width / wide, image.height / high
    if about["crop_mode"] == "border":
        return round(image.width / max(ratios)), round(image.height / max(ratios))
    if high == wide:  # the shorter side is given, the longer one rounded down
        short = min(image.size)
        return int(high * image.width / short), int(high * image.height / short)
    return round(image.width / min(ratios)), round(image.height / min(ratios))


def pair(size) -> list[int]:
    return [size, size] if isinstance(size, int) else size


def as_ids(texts: list[str], about: dict, tokenizer: str) -> np.ndarray:
    """Map texts to ids of tokens, plus one; 0 is no token."""
    from tokenizers import Tokenizer

    reader = Tokenizer.from_str(tokenizer)
    reader.no_padding()
    reader.enable_truncation(about["max_length"])
    characters = {int(code): new for code, new in about["characters"].items()}
    prompted = [about["prompt"] + text.translate(characters) for text in texts]
    rows = [[i + 1 for i in one.ids] for one in reader.encode_batch(prompted)]
    length = -(-max(map(len, rows)) // 8) * 8
    return np.array([row + [0] * (length - len(row)) for row in rows], np.int64)


def as_places(texts: list[str], words: list[str]) -> np.ndarray:
    """Map texts to the places of their words among those of word vectors, plus one.

    ``tokens.py`` is the file sktransfer/backbones/words/tokens.py, which needs Python alone.
    """
    from tokens import split_chunk

    places = {word: i + 1 for i, word in reversed(list(enumerate(words)))}  # the first counts

    def find(word: str) -> int:
        found = places.get(word) or places.get(word.lower(), 0)
        if not found and re.search(r"\d\D*\d", word):  # as in the vectors of Google News
            found = places.get(re.sub(r"\d", "#", word), 0)
        return found

    def tokens(text: str) -> list[int]:
        found = [find(word) for part in text.split() for word in split_chunk(part, find)]
        return [place for place in found if place]

    rows = list(map(tokens, texts))
    length = max(1, *map(len, rows))
    return np.array([row + [0] * (length - len(row)) for row in rows], np.int64)


def as_words(texts: list[str], about: dict) -> np.ndarray:
    """Split texts into words, filled up with ''."""
    rows = [re.findall(about["pattern"], text.lower()) for text in texts]
    longest = max(1, *map(len, rows))
    return np.array([row + [""] * (longest - len(row)) for row in rows], object)


def as_columns(table: dict[str, list], about: dict) -> np.ndarray:
    """Return the numbers, integers or texts of some columns side by side."""
    kind = about["layout"].split()[-1]
    dtype = {"float32": np.float32, "int64": np.int64}.get(kind, object)
    return np.array([table[name] for name in about["columns"]], dtype).T


def as_input(samples, about: dict, metadata: dict) -> np.ndarray:
    """Return an input of a file from samples, or from a table with lists of them."""
    if "columns" in about:
        return as_columns(samples, about)
    samples = list(samples[about["column"]] if "column" in about else samples)
    if "tokenizer" in about:
        return as_ids(samples, about, metadata[about["tokenizer"]])
    if "words" in about:
        return as_places(samples, json.loads(metadata[about["words"]]))
    if "pattern" in about:
        return as_words(samples, about)
    return np.stack([as_array(sample, about) for sample in samples])


def predict(file: str, samples) -> dict[str, np.ndarray]:
    """Return the outputs of a file by name.

    ``samples`` are paths or texts; for a file with columns a table: a dictionary of lists.
    """
    session = onnxruntime.InferenceSession(file)
    metadata = session.get_modelmeta().custom_metadata_map
    about = json.loads(metadata["sktransfer"])["inputs"]
    inputs = {name: as_input(samples, one, metadata) for name, one in about.items()}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


if __name__ == "__main__":
    for name, values in predict(sys.argv[1], sys.argv[2:]).items():
        print(f"{name}: {np.round(values, 4).tolist() if values.dtype.kind == 'f' else values}")
