"""Limits for untrusted files: formats, pixels, bytes, seconds and scans.

All limits are in this module. They are read at each use, so that a program can change them.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable
from typing import IO

from PIL import Image, ImageFile

# The formats of image files that are read, by their names in ``PIL.Image.OPEN``. Pillow knows more:
# EPS files, for instance, are programs that Ghostscript runs. "HEIF" is that of the plug-in
# pillow-heif. The last has no mark at its beginning, so that all others are tried before it.
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF", "AVIF", "HEIF", "JPEG2000", "ICO"]
FORMATS += ["TGA"]
SECONDS = 60.0  # for a file from another machine, or one that another library opens
SCANS = 100  # of a progressive JPEG; usual ones have about 10, and each takes time for all pixels
# Bytes of a file for each pixel of the limit on pixels: the size of a pixel of 16-bit RGBA without
# compression, the largest that Pillow reads.
_BYTES_PER_PIXEL = 8
_SCAN = b"\xff\xda"
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # followed by the length of its content


def max_bytes() -> int | None:
    """Return the largest size of an image file in bytes; None for no limit.

    It follows from ``PIL.Image.MAX_IMAGE_PIXELS``, the limit on pixels.
    """
    limit = Image.MAX_IMAGE_PIXELS
    return None if limit is None else limit * _BYTES_PER_PIXEL


def check_size(n_bytes: int) -> None:
    """Raise a ValueError if a file is larger than :func:`max_bytes`."""
    limit = max_bytes()
    if limit is not None and n_bytes > limit:
        raise ValueError(
            f"{n_bytes} bytes are more than an image of {Image.MAX_IMAGE_PIXELS} pixels takes; "
            "PIL.Image.MAX_IMAGE_PIXELS sets that limit"
        )


def open_listed(file: IO[bytes]) -> ImageFile.ImageFile:
    """Open an image whose format is among :data:`FORMATS`, without decoding it.

    ``PIL.UnidentifiedImageError`` if it is no image; ``ValueError`` if it begins as one of another
    format.
    """
    tried: list[str] = []
    # First the plug-ins of usual formats; all others take longer to import.
    for load_plugins in (Image.preinit, Image.init):
        load_plugins()
        formats = [name for name in FORMATS if name in Image.OPEN and name not in tried]
        tried += formats
        try:
            return Image.open(file, formats=formats)
        except Image.UnidentifiedImageError:
            continue
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise too_many_pixels(str(error)) from error
    file.seek(0)
    prefix = file.read(16)
    for name in sorted(set(Image.OPEN).difference(FORMATS)):
        if _begins_as(name, prefix):
            raise _not_listed(name)
    raise Image.UnidentifiedImageError("cannot identify the format of the image")


def _begins_as(name: str, prefix: bytes) -> bool:
    """Tell whether a file has the mark of a format at its beginning."""
    accept = Image.OPEN[name][1]
    with contextlib.suppress(Exception):  # the errors of plug-ins for short files differ
        return accept is not None and accept(prefix) is True
    return False


def _not_listed(name: str) -> ValueError:
    return ValueError(
        f"{name} files are not read: convert it to PNG, or, where you trust the files, add the "
        f"format: sktransfer.data.limits.FORMATS.append({name!r})"
    )


def check_format(image: Image.Image) -> None:
    """Refuse an image that Pillow opened from a file of another format than :data:`FORMATS`."""
    name = image.format
    if isinstance(image, ImageFile.ImageFile) and name is not None:
        if name not in FORMATS and name != "MPO":  # a JPEG with further images behind it
            raise _not_listed(name)


def check_pixels(image: Image.Image, n_pages: int = 1) -> None:
    """Refuse an image from a file with too many pixels, before they are decoded.

    ``n_pages`` of its size are decoded. Images in memory, which are decoded already, are not
    refused.
    """
    limit, (width, height) = Image.MAX_IMAGE_PIXELS, image.size
    n_pixels = n_pages * width * height
    if limit is not None and n_pixels > limit and isinstance(image, ImageFile.ImageFile):
        pages = f"{n_pages} pages of " if n_pages > 1 else ""
        raise too_many_pixels(f"{pages}{width} x {height} pixels, the limit is {limit}")


def too_many_pixels(reason: str) -> ValueError:
    """Make the error for an image with too many pixels."""
    return ValueError(
        f"too many pixels to decode ({reason.rstrip('.')}). Where you trust the file, raise "
        "PIL.Image.MAX_IMAGE_PIXELS."
    )


def check_scans(content: bytes) -> None:
    """Refuse a JPEG with so many scans that decoding would take minutes, and no other file."""
    if content[:2] != b"\xff\xd8" or content.count(_SCAN) <= SCANS:
        return
    if _count_scans(content) > SCANS:  # behind the image, other data may follow
        raise ValueError(f"a JPEG with more than {SCANS} scans, which is not decoded")


def _count_scans(content: bytes) -> int:
    """Count the scans of a JPEG up to its end, or to one more than allowed."""
    n_scans, at = 0, 2
    while n_scans <= SCANS and (match := _MARKER.search(content, at)):
        marker, at = match[0], match.end()
        if marker == b"\xff\xd9":  # the end of the image
            break
        n_scans += marker == _SCAN
        at += int.from_bytes(content[at : at + 2], "big")
    return n_scans


def run_in_time(function: Callable[[], bytes]) -> bytes:
    """Call a function in a thread, and stop waiting for it after :data:`SECONDS`.

    The thread goes on after the limit, which is a ``TimeoutError``.
    """
    results: list = []

    def call():
        try:
            results.append((function(), None))
        except BaseException as error:
            results.append((None, error))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if not results:
        raise TimeoutError(f"not read within {SECONDS:g} seconds")
    content, error = results[0]
    if error is not None:
        raise error
    return content
