"""Compare fine-tuning by its defaults with the linear probe that it starts from, on many tasks.

The tasks of regret.py, with their sizes: "probe" is ``max_epochs=0``; "head", 2, "norm", "bias" and
"all" are values of ``trainable``, all else by default. At most 300 samples are tested, so that the
standard error of a difference is 1 to 3 points. A difference of at most one point is a tie.

Results are written to --out after each fit, and an interrupted run can be continued.

    python benchmarks/finetune_defaults.py --draws 2                   # hours on two cores
    python benchmarks/finetune_defaults.py --half second --models probe all
    python benchmarks/finetune_defaults.py --only reviews --models probe all --draws 3
"""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from _common import parser, table
from _tasks import Task
from regret import CALIBRATION, REPORTED, tasks

from sktransfer import FineTunedClassifier

MODELS = ["probe", "head", "2", "norm", "bias", "all"]
TIE = 0.01


def fit(task: Task, draw: int, model: str, data: Path, settings: dict) -> dict | None:
    """Fit and evaluate one model on one draw; None if the backbone cannot be trained so."""
    train, test = task.draw(data, draw)
    what = {"probe": {"max_epochs": 0}, "2": {"trainable": 2}}.get(model, {"trainable": model})
    tuned = FineTunedClassifier(
        task.backbone, image_size=task.image_size, random_state=draw, **what | settings
    )
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            tuned.fit(*train)
        except ValueError as error:
            if "trainable=" in str(error):
                return None
            raise
    seconds = time.perf_counter() - start
    told = any("did not help" in str(warning.message) for warning in caught)
    return scores(tuned, *test) | {"seconds": seconds, "lr": tuned.lr_, "warned": told}


def scores(model, X, y) -> dict:
    """Return accuracy and log loss."""
    p, codes = model.predict_proba(X), np.searchsorted(model.classes_, y)
    log_loss = -np.log(p[np.arange(len(p)), codes].clip(1e-15)).mean()
    return {"accuracy": float(np.mean(p.argmax(1) == codes)), "log_loss": float(log_loss)}


def measure(args, found: dict) -> None:
    half = {"both": CALIBRATION + REPORTED, "first": CALIBRATION, "second": REPORTED}[args.half]
    settings = json.loads(args.settings)
    for draw in range(args.first, args.draws):
        for task in tasks(half):
            for model in args.models:
                key = (task.name, draw, model)
                if key in found or args.only not in task.name:
                    continue
                row = fit(task, draw, model, args.data, settings)
                found[key] = row
                with args.out.open("a") as file:
                    print(json.dumps([*key, row]), file=file)
                print(*key, row, flush=True)


def report(found: dict, half: list, title: str) -> None:
    """Print accuracies by task, and wins, ties and losses of each model against the probe."""
    rows, gains = [], {name: [] for name in MODELS}
    for task in tasks(half):
        draws = sorted({d for n, d, m in found if n == task.name and m == "probe"})
        cells = [task.name, len(draws)]
        for name in MODELS:
            pairs = [(found.get((task.name, d, name)), found[task.name, d, "probe"]) for d in draws]
            pairs = [(row["accuracy"], probe["accuracy"]) for row, probe in pairs if row]
            cells.append(f"{np.mean([a for a, _ in pairs]):.3f}" if pairs else "-")
            if pairs:
                gains[name].append((np.mean([a - b for a, b in pairs]), len(pairs)))
        if draws:
            rows.append(cells)
    print(f"\n{title}")
    table(["task", "draws", *MODELS], rows)
    lines = [_against_probe(name, gains[name]) for name in MODELS[1:] if gains[name]]
    table(["against the probe", "tasks", "wins", "ties", "losses", "worst", "mean"], lines)


def _against_probe(name: str, gains: list) -> list:
    gain = np.array([g for g, _ in gains])
    counts = [(gain > TIE).sum(), (abs(gain) <= TIE).sum(), (gain < -TIE).sum()]
    return [name, len(gain), *counts, f"{100 * gain.min():.1f}", f"{100 * gain.mean():+.1f}"]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--out", type=Path, default=Path("finetune_defaults.jsonl"))
    options.add_argument("--draws", type=int, default=1)
    options.add_argument("--first", type=int, default=0, help="the draw to begin with")
    options.add_argument("--half", choices=["both", "first", "second"], default="both")
    options.add_argument("--models", nargs="*", default=MODELS, choices=MODELS)
    options.add_argument("--only", default="", help="tasks whose name has this in it")
    options.add_argument("--settings", default="{}", help="other parameters, as JSON")
    args = options.parse_args()
    torch.set_num_threads(1)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    found = {(task, draw, model): row for task, draw, model, row in map(json.loads, lines)}
    measure(args, found)
    report(found, CALIBRATION, "Sources that served to choose the defaults")
    report(found, REPORTED, "Other sources")


if __name__ == "__main__":
    main()
