"""Print the oldest versions that setup.cfg allows, one requirement a line, for pip.

    python .ci/oldest.py [EXTRA...]

Without arguments, those of ``install_requires``.
"""

from __future__ import annotations

import configparser
import re
import sys
from pathlib import Path


def oldest(lines: str) -> list[str]:
    """Turn ``name >= version`` into ``name==version``; references to extras are left out."""
    pattern = re.compile(r"([\w.-]+(?:\[\w+\])?)\s*>=\s*([\w.]+)")
    found = (pattern.match(line.strip()) for line in lines.splitlines())
    return [f"{match[1]}=={match[2]}" for match in found if match]


def main() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(Path(__file__).resolve().parents[1] / "setup.cfg")
    parts = [config["options"]["install_requires"]]
    parts += [config["options.extras_require"][extra] for extra in sys.argv[1:]]
    print("\n".join(line for part in parts for line in oldest(part)))


if __name__ == "__main__":
    main()
