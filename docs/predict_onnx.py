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


def as_words(texts: list[str], about: dict) -> np.ndarray:
    """Split texts into words, filled up with ''."""
    rows = [re.findall(about["pattern"], text.lower()) for text in texts]
    longest = max(1, *map(len, rows))
    return np.array([row + [""] * (longest - len(row)) for row in rows], object)


def predict(file: str, samples: list[str]) -> dict[str, np.ndarray]:
    """Return the outputs of a file by name."""
    session = onnxruntime.InferenceSession(file)
    metadata = session.get_modelmeta().custom_metadata_map
    inputs = {}
    for name, about in json.loads(metadata["sktransfer"])["inputs"].items():
        if name == "ids":
            inputs[name] = as_ids(samples, about, metadata["tokenizer"])
        elif name == "words":
            inputs[name] = as_words(samples, about)
        else:
            inputs[name] = np.stack([as_array(sample, about) for sample in samples])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


if __name__ == "__main__":
    for name, values in predict(sys.argv[1], sys.argv[2:]).items():
        print(f"{name}: {np.round(values, 4).tolist() if values.dtype.kind == 'f' else values}")
