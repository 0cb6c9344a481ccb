"""Images: files of 14 formats and 18 modes, whole and damaged; orientations; arrays; names."""

import functools
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from sktransfer.data import get_modality

from .cases import Case

IMAGE = get_modality("image")
digest, open_image = IMAGE.digest, IMAGE.open
MODES = ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA"]
MODES += ["RGBX", "RGBa", "La", "I;16", "I;16B"]
FORMATS = ["png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm", "tga", "ico", "jpeg2000", "sgi"]
FORMATS += ["pcx", "dib", "eps"]
REFUSED = {"sgi", "pcx", "dib", "eps"}  # formats that photographs do not come in
SIDE = (48, 40)  # width and height


def smooth(seed: int = 0) -> np.ndarray:
    """A colour image that formats with losses keep well, (h, w, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:1:40j, 0:1:48j]
    waves = [np.sin(rng.uniform(1, 4) * x + rng.uniform(1, 4) * y + k) for k in range(3)]
    return np.uint8(np.stack(waves, axis=2) * 100 + 128)


def in_mode(mode: str) -> Image.Image:
    """The image in a mode of Pillow, with transparency where the mode has it."""
    rgb = Image.fromarray(smooth())
    if mode.startswith("I;16"):
        return Image.fromarray(np.asarray(rgb.convert("L")).astype("<u2") * 257).convert(mode)
    if mode == "I":
        return Image.fromarray(np.asarray(rgb.convert("L")).astype(np.int32) * 257)
    if mode == "F":
        return Image.fromarray(np.asarray(rgb.convert("L")).astype(np.float32) / 255)
    if mode == "LAB":
        return Image.frombytes("LAB", SIDE, smooth().tobytes())
    if mode in ("LA", "La", "RGBA", "RGBa", "PA"):
        rgb.putalpha(Image.linear_gradient("L").resize(SIDE))
        return rgb.convert("LA").convert(mode) if mode in ("La", "PA") else rgb.convert(mode)
    return rgb.convert(mode)


def expected(image: Image.Image) -> np.ndarray:
    """RGB by another way: whole images, floats, and numpy for transparency; values in [0, 1]."""
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        return np.repeat((values if image.mode == "F" else values / 65535)[..., None], 3, axis=2)
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB")) / 255
    rgba = np.asarray(image.convert("RGBA")) / 255
    return rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]


def is_image(found) -> bool:
    """Tell whether something is what ``open_image`` promises."""
    values, key = found
    fits = values.ndim == 3 and values.shape[2] == 3 and values.size > 0 and len(key) == 16
    return fits and (values.dtype == np.uint8 or _in_range(values))


def _in_range(values: np.ndarray) -> bool:
    return values.dtype == np.float32 and 0 <= values.min() and values.max() <= 1


def equals(wanted: np.ndarray, tolerance: float, found) -> bool:
    values = found[0] / 255 if found[0].dtype == np.uint8 else found[0]
    close = values.shape == wanted.shape and np.abs(values - wanted).max() <= tolerance
    return is_image(found) and close


def opened(sample) -> tuple:
    return open_image(sample), digest(sample)


def encode(image: Image.Image, name: str, **settings) -> bytes | None:
    """Return a file, or None if the format does not take the mode."""
    file = io.BytesIO()
    try:
        image.save(file, name, **settings)
        if "exif" not in settings and name not in REFUSED:
            Image.open(file).load()  # old versions write some files that they cannot read
        return file.getvalue()
    except Exception:  # each format refuses other modes by other errors
        return None


@functools.cache
def files() -> dict[tuple[str, str], bytes]:
    """One file for each format and each mode that the format takes."""
    made = {(name, mode): encode(in_mode(mode), name) for name in FORMATS for mode in MODES}
    return {key: content for key, content in made.items() if content is not None}


def of_files() -> list[Case]:
    """Whole files, compared with what Pillow reads from them by another way."""
    cases = []
    for (name, mode), content in files().items():
        run = functools.partial(opened, content)
        if name in REFUSED:
            cases.append(Case(f"{name} {mode}", run, is_image, "error"))
            continue
        wanted = expected(Image.open(io.BytesIO(content)))
        right = functools.partial(equals, wanted, 1.5 / 255)
        cases.append(Case(f"{name} {mode}", run, right, "right"))
    return cases


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Damage a file in one of six ways."""
    data, kind = bytearray(content), rng.integers(6)
    start, end = sorted(rng.integers(0, len(data), 2).tolist())
    if kind == 0:
        del data[start:]
    elif kind == 1:
        for at in rng.integers(0, len(data), 8):
            data[at] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        data[start:end] = bytes(end - start)
    elif kind == 3:
        data[start:start] = rng.bytes(20)
    elif kind == 4:  # in the head, whose bytes are few
        at = int(rng.integers(0, min(64, len(data))))
        data[at : at + 4] = rng.bytes(4)
    else:
        del data[start : min(end, start + 50)]
    return bytes(data)


def of_damaged_files(seed: int = 0, rounds: int = 6) -> list[Case]:
    rng = np.random.default_rng(seed)
    cases = []
    for (name, mode), content in files().items():
        for i in range(rounds):
            run = functools.partial(opened, damaged(content, rng))
            cases.append(Case(f"{name} {mode} damaged {i}", run, is_image))
    return cases


def of_modes() -> list[Case]:
    """Images in memory."""
    cases = []
    for mode in MODES:
        image = in_mode(mode)
        right = functools.partial(equals, expected(image), 1.5 / 255)
        cases.append(Case(f"mode {mode}", functools.partial(opened, image), right, "right"))
    return cases


def of_orientations() -> list[Case]:
    cases = []
    for name in ("jpeg", "png", "webp", "tiff"):
        for orientation in range(-1, 11):
            exif = Image.Exif()
            exif[0x0112] = max(orientation, 0)
            content = encode(Image.fromarray(smooth()), name, exif=exif)
            wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
            right = functools.partial(equals, expected(wanted), 1.5 / 255)
            run = functools.partial(opened, content)
            cases.append(Case(f"{name} orientation {orientation}", run, right, "right"))
        for i in range(3):
            rng = np.random.default_rng(i)
            content = encode(Image.fromarray(smooth()), name, exif=b"Exif\0\0" + rng.bytes(200))
            run = functools.partial(opened, content)
            cases.append(Case(f"{name} wrong EXIF {i}", run, is_image))
    return cases


def of_arrays() -> list[Case]:
    types = ["uint8", "int8", "uint16", "int32", "int64", "float16", "float32", "float64", "bool"]
    types += ["complex64", "U3", "object", "datetime64[s]"]
    shapes = [(6, 5), (6, 5, 1), (6, 5, 3), (6, 5, 4), (6, 5, 2), (3, 6, 5), (6,), (), (0, 5, 3)]
    shapes += [(6, 5, 3, 1), (1, 1, 3), (6, 5, 300)]
    cases = []
    for kind in types:
        for shape in shapes:
            array = np.zeros(shape, kind)
            fits = len(shape) in (2, 3) and shape[2:] in ((), (1,), (3,), (4,)) and 0 not in shape
            may = "right" if fits and array.dtype.kind in "biuf" else "error"
            run = functools.partial(opened, array)
            cases.append(Case(f"array {kind} {shape}", run, is_image, may))
    for value in (np.nan, np.inf, -np.inf, -0.5, 256.0, 1e30, 1.0000001):
        for kind in ("float16", "float32", "float64"):
            with np.errstate(over="ignore"):
                array = np.full((6, 5, 3), value).astype(kind)
            may = "either" if array.max() == 1 else "error"
            cases.append(Case(f"{kind} {value}", functools.partial(opened, array), is_image, may))
    for value in (-1, 256, 2**31 - 1):
        array = np.full((6, 5), value, np.int64)
        cases.append(Case(f"int64 {value}", functools.partial(opened, array), is_image, "error"))
    return cases + of_tensors()


def of_tensors() -> list[Case]:
    cases = []
    for kind in (torch.uint8, torch.float32, torch.float16, torch.int64, torch.bool):
        for shape in [(3, 6, 5), (1, 6, 5), (4, 6, 5), (6, 5), (5, 6, 5), (0, 6, 5), (6,)]:
            fits = len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3, 4))
            run = functools.partial(opened, torch.zeros(shape, dtype=kind))
            may = "right" if fits else "error"
            cases.append(Case(f"tensor {kind} {shape}", run, is_image, may))
    for tensor in (torch.zeros(3, 6, 5).requires_grad_(), torch.zeros(6, 5, 3).permute(2, 0, 1)):
        cases.append(Case("a view", functools.partial(opened, tensor), is_image, "right"))
    return cases


def of_names(folder: Path) -> list[Case]:
    """Names of files, most of which are wrong."""
    (folder / "good.png").write_bytes(files()["png", "RGB"])
    (folder / "größe ☃.png").write_bytes(files()["png", "RGB"])
    (folder / "wrong ending.txt").write_bytes(files()["png", "RGB"])
    (folder / "loop").unlink(missing_ok=True)
    os.symlink(folder / "loop", folder / "loop")
    (folder / "empty.png").write_bytes(b"")
    good = ["good.png", "größe ☃.png", "wrong ending.txt"]
    bad = ["none.png", ".", "loop", "empty.png", "a" * 300, "a\0b.png", "", "good.png/x", "x\ud800"]
    cases = [_of_name(folder / name, "right") for name in good]
    cases += [_of_name(str(folder / name), "right") for name in good]
    cases += [_of_name(f"{folder}/{name}", "error") for name in bad]
    devices = [Path(os.devnull), Path("/dev/zero"), folder / "pipe"]
    if hasattr(os, "mkfifo"):
        (folder / "pipe").unlink(missing_ok=True)
        os.mkfifo(folder / "pipe")
    cases += [_of_name(path, "error") for path in devices if path.exists()]
    others = [None, 17, 1.5, float("nan"), [], {}, set(), object(), ["a.png"], "text", b"bytes"]
    return cases + [_of_name(other, "error") for other in others]


def _of_name(sample, may: str) -> Case:
    return Case(f"name {str(sample)[-40:]!a}", functools.partial(opened, sample), is_image, may)


def of_large_files() -> list[Case]:
    """Small files that announce, or hold, much more than they seem to."""
    made = {f"png {n} x {n}": _png(n, n) for n in (12_000, 50_000, 2**31 - 1)}
    made |= {"png 1 x 2**31": _png(1, 2**31 - 1), "png 0 x 0": _png(0, 0)}
    made["png text of 100 MB"] = _png(4, 4, _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8))))
    made["png profile of 100 MB"] = _png(
        4, 4, _chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**8)))
    )
    made["jpeg of 5000 scans"] = _many_scans(5000)
    gif = bytearray(files()["gif", "P"])
    gif[6:10] = b"\xff\xff\xff\xff"
    made["gif 65535 x 65535"] = bytes(gif)
    bmp = bytearray(files()["bmp", "RGB"])
    bmp[18:26] = struct.pack("<ii", 2**31 - 1, 2**31 - 1)
    made["bmp 2**31 x 2**31"] = bytes(bmp)
    made["tiff with a loop"] = b"II*\0\x08\0\0\0\0\0\x08\0\0\0"
    return [Case(n, functools.partial(opened, c), is_image, _may(n)) for n, c in made.items()]


def _may(name: str) -> str:
    return "either" if name.startswith("png text") or "profile" in name else "error"


def _chunk(name: bytes, content: bytes) -> bytes:
    whole = name + content
    return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))


def _png(width: int, height: int, more: bytes = b"") -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    content = _chunk(b"IDAT", zlib.compress(bytes(5 * 4 if width < 10 else 100)))
    return b"\x89PNG\r\n\x1a\n" + head + more + content + _chunk(b"IEND", b"")


def _many_scans(n: int) -> bytes:
    content = encode(Image.fromarray(smooth()), "jpeg", progressive=True)
    start, end = content.rindex(b"\xff\xda"), content.rindex(b"\xff\xd9")
    return content[:end] + content[start:end] * n + content[end:]


def all_images(folder: Path, seed: int = 0) -> list[Case]:
    """Return the whole corpus; files of names are written into a folder."""
    made = [of_files(), of_damaged_files(seed), of_modes(), of_orientations(), of_arrays()]
    return [case for part in [*made, of_names(folder), of_large_files()] for case in part]
