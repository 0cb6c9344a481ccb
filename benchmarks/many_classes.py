"""Measure the time and memory of a fit to many classes of two samples, on tables of 1,280 numbers.

Each fit runs in a process of its own. Test samples are new samples of the same classes. With
``--predictions FILE``, probabilities at up to 1,000 classes are compared with those of a file that
another version of the package has written with the same option.

    python benchmarks/many_classes.py --classes 100 1000 10000
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from _common import parser, table

from sktransfer import FineTunedClassifier, TransferClassifier

N_FEATURES, N_TEST, SPREAD = 1280, 500, 1.5


def samples(n_classes: int) -> tuple[np.ndarray, ...]:
    """Draw two samples of each class and up to 500 others."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(n_classes, N_FEATURES)).astype(np.float32)
    y = np.repeat(np.arange(n_classes), 2)
    y_test = rng.permutation(n_classes)[:N_TEST]
    X, X_test = (
        (centers[labels] + SPREAD * rng.normal(size=(len(labels), N_FEATURES))).astype(np.float32)
        for labels in (y, y_test)
    )
    return X, y, X_test, y_test


def fit(name: str, n_classes: int, predictions: Path | None) -> dict[str, float]:
    """Fit and predict in this process."""
    from torch import nn

    X, y, X_test, y_test = samples(n_classes)
    estimator = {"fine-tuned head": FineTunedClassifier, "blend": TransferClassifier}[name]
    model = estimator(nn.Sequential(nn.Identity()), random_state=0)
    start = time.perf_counter()
    model.fit(X, y)
    middle = time.perf_counter()
    p = model.predict_proba(X_test)
    end = time.perf_counter()
    found = {"fit": middle - start, "predict": end - middle}
    found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found["accuracy"] = float((p.argmax(axis=1) == y_test).mean())
    if predictions is not None and n_classes <= 1000:
        file = predictions / f"{name.replace(' ', '_')}_{n_classes}.npy"
        if file.exists():
            found["difference"] = float(np.abs(np.load(file) - p).max())
        else:
            np.save(file, p)
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--classes", type=int, nargs="+", default=[100, 1000, 10_000])
    options.add_argument("--predictions", type=Path, help="a folder to compare with, or to fill")
    options.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.only:
        print(json.dumps(fit(args.only[0], int(args.only[1]), args.predictions)))
        return
    rows = []
    for n_classes in args.classes:
        for name in ("fine-tuned head", "blend"):
            command = [sys.executable, __file__, "--only", name, str(n_classes)]
            if args.predictions is not None:
                command += ["--predictions", str(args.predictions)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            rows.append(
                [
                    f"{n_classes:,}",
                    name,
                    f"{found['fit']:.1f} s",
                    f"{found['predict']:.1f} s",
                    f"{found['memory']:.1f} GB",
                    f"{found['accuracy']:.3f}",
                    f"{found['difference']:.0e}" if "difference" in found else "-",
                ]
            )
    header = ["classes", "estimator", "fit", "predict 500", "peak memory", "accuracy"]
    table([*header, "difference of probabilities"], rows)


if __name__ == "__main__":
    main()
