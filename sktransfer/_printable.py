"""Replace what a terminal would obey. It stands here since the command line needs it at its start.

The packages around take seconds to import.
"""

from __future__ import annotations

import re

# Characters that terminals obey (C0, C1), that end lines or change the direction of writing, and
# halves of pairs, which stand for bytes of file names that are no text.
CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str, keep: str = "") -> str:
    """Replace control characters, as they stand in names of files, by escapes of Python.

    Parameters
    ----------
    text : str
    keep : str, default=""
        Control characters that are not replaced.

    Returns
    -------
    str
    """

    def escape(match: re.Match[str]) -> str:
        return match[0] if match[0] in keep else match[0].encode("unicode_escape").decode()

    return CONTROLS.sub(escape, text)
