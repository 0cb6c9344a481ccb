"""Files of models: made to do harm, cut and corrupted."""

import functools
from pathlib import Path

import numpy as np

from sktransfer import load
from tests.persistence.hostile import Corpus
from tests.persistence.test_hostile import HARMLESS, MODULES, honest_file
from tests.support import images

from .cases import Case


def all_models(folder: Path, seed: int = 0) -> list[Case]:
    """Return the corpus; the files are written into a folder."""
    honest, made = honest_file(folder / "honest.skt"), folder / "hostile"
    made.mkdir()
    files = Corpus(honest, made, seed).write()
    X = images(4)
    expected = load(honest, modules=MODULES).predict_proba(X)

    def is_right(model) -> bool:
        return np.array_equal(model.predict_proba(X), expected)

    read = functools.partial(load, modules=MODULES)
    cases = [
        Case(name, functools.partial(read, path), is_right, "either" if bit else "error")
        for name, path in files.items()
        for bit in [name.startswith(HARMLESS)]
    ]
    return [Case("honest", functools.partial(read, honest), is_right, "right"), *cases]
