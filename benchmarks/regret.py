"""Measure the regret of strategy="auto": its test accuracy compared with each fixed strategy.

25 tasks from 14 sources with one to three sizes each, drawn at random for each seed. Half of the
sources are used for calibration; the others are reported separately. At most 300 samples are
tested. To make training the whole network affordable on two cores, photographs have an input size
of 128 pixels and small images of 96 in all fixed strategies. "auto", which combines several models
and does not train the network, has its own input sizes, as a user gets them.

"trained" is "auto" with a ``time_budget`` that allows a trained network as a member. It is fitted
only if --strategies names it. The time of both is then printed relative to that of all fixed
strategies that were fitted. Times are processor time.

"tokens" is "auto" for the same network with its maps as tokens, as those of a vision transformer
without a class token. Both tell the same, and should be equally accurate.

"recommended" is the strategy that recommend_strategy names. Only the recommendation is computed and
timed again; accuracy and time of the fit are those of the strategy with the same seed.

Results are written to --out after each fit, and an interrupted run can be continued. Features are
kept between fits with --memory, which makes the times of fits meaningless.

    python benchmarks/regret.py --draws 5                     # hours on two cores
    python benchmarks/regret.py --strategies auto --memory features --draws 5
    python benchmarks/regret.py --strategies recommended --again  # after a change of the rules
    python benchmarks/regret.py --strategies direct features early head last all auto trained
    python benchmarks/regret.py --half first --strategies evidence --draws 3
    python benchmarks/regret.py --strategies auto tokens --memory features --half second
    python benchmarks/regret.py --calibrate --draws 3         # print the priors again
"""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
import time
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from _common import parser, table
from _tasks import Task
from torch import nn

from sktransfer import FeatureStore, TransferClassifier, load_backbone, recommend_strategy
from sktransfer.backbones import Backbone, stages_of
from sktransfer.selection.recommendation import headroom_of, update
from sktransfer.selection.strategies import (
    RULES,
    STRATEGIES,
    Evidence,
    ExplainedLabels,
    ShareOfErrors,
    rule_inputs,
)

LITE, MINILM, GLOVE = "efficientnet_lite0", "minilm_l6_v2", "glove_6b_50d"
# source, backbone, pixels, samples of a class
CALIBRATION = [
    ("ants and bees", LITE, 128, (5, 20, 100)),
    ("animals", LITE, 128, (5, 12)),
    ("turned", LITE, 128, (10, 40)),
    ("digits", LITE, 96, (5, 20)),
    ("letters", LITE, 96, (5, 20)),
    ("surfaces", LITE, 96, (5, 20)),
    ("reviews", GLOVE, None, (20, 200)),
]
REPORTED = [
    ("damaged", LITE, 128, (15,)),
    ("mirrored colours", LITE, 128, (20,)),
    ("odd digits", LITE, 96, (10, 40)),
    ("faces", LITE, 96, (5, 40)),
    ("dots", LITE, 96, (15,)),
    ("shapes", LITE, 96, (20,)),
    ("reviews", MINILM, None, (10, 50)),
]


BUDGET = 3600  # seconds, more than any training takes


def tasks(half: list) -> list[Task]:
    return [Task(s, n, backbone, size) for s, backbone, size, sizes in half for n in sizes]


_FIELDS = ("log_loss", "calibration_error", "seconds")


class Results:
    """Accuracies and seconds by task, draw and strategy, in a file of JSON lines."""

    def __init__(self, path: Path):
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.by_key = {self.key(**row): row for row in map(json.loads, lines)}

    @staticmethod
    def key(task, draw, strategy, **_) -> tuple:
        return task, draw, strategy

    def add(self, **row) -> None:
        self.by_key[self.key(**row)] = row
        with self.path.open("a") as file:
            print(json.dumps(row), file=file)

    def followed(self, task: Task, draw: int, advice: dict) -> dict:
        """Add the fit of the advised strategy to advice."""
        fitted = self.by_key[task.name, draw, advice["chosen"]]
        seconds = advice["seconds"] + fitted["seconds"]
        return advice | {"accuracy": fitted["accuracy"], "seconds": seconds}

    def drawn(self, task: Task) -> list[int]:
        """The draws for which "auto" was fitted."""
        return sorted(d for name, d, s in self.by_key if name == task.name and s == "auto")

    def of(self, task: Task, strategy: str, field: str = "accuracy") -> np.ndarray:
        """Return the accuracy of a strategy on each draw; empty if it is not available."""
        rows = [self.by_key.get((task.name, d, strategy)) for d in self.drawn(task)]
        return np.array([row[field] for row in rows if row is not None])


def run(task: Task, draw: int, strategy: str, data: Path, memory: Path | None) -> dict | None:
    """Fit and evaluate one strategy on one draw, with a store of its own unless one is given."""
    train, test = task.draw(data, draw)
    with contextlib.ExitStack() as stack:
        folder = memory or stack.enter_context(
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        )
        settings = {"memory": FeatureStore(folder), "random_state": draw}
        backbone, start = load_backbone(task.backbone), time.process_time()
        if strategy in ("recommended", "evidence"):
            advise = recommend_strategy if strategy == "recommended" else what_is_cheap
            found = advise(*train, backbone, image_size=task.image_size, **settings)
            return {"seconds": time.process_time() - start, **evidence(found)}
        size = None if strategy == "auto" else task.image_size
        if strategy == "trained":
            settings["time_budget"], strategy, size = BUDGET, "auto", None
        if strategy == "tokens":
            backbone, strategy, size = as_tokens(backbone), "auto", None
        if strategy.startswith("networks:"):  # such as networks:efficientnet_lite0,…lite2
            backbone = [load_backbone(name) for name in strategy.partition(":")[2].split(",")]
            backbone, strategy, size = backbone[0] if len(backbone) == 1 else backbone, "auto", None
        model = TransferClassifier(backbone, strategy=strategy, image_size=size, **settings)
        try:
            model.fit(*train)
        except ValueError as error:
            if "not possible" in str(error):
                return None
            raise
        seconds = time.process_time() - start
        return {**judged(model, *test), "seconds": seconds}


def as_tokens(backbone: Backbone) -> Backbone:
    """Return a network with tokens ``(n, side², channels)`` in the place of its maps."""
    named = stages_of(backbone).items()
    stages = {name.replace(".", "_"): _OnTokens(stage) for name, stage in named}
    return Backbone(
        "tokens",
        nn.Sequential(OrderedDict(stages)),
        preprocess=backbone.preprocess,
        classes=backbone.classes,
        stages=stages,
    )


class _OnTokens(nn.Module):
    """A stage that takes and returns tokens, where it took and returned a square map."""

    def __init__(self, stage: nn.Module):
        super().__init__()
        self.stage = stage

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim == 3:
            side = math.isqrt(x.shape[1])
            x = x.transpose(1, 2).unflatten(2, (side, side))
        x = self.stage(x)
        return x.flatten(2).transpose(1, 2) if x.ndim == 4 else x


def judged(model: TransferClassifier, X, y) -> dict:
    """Return accuracy, log loss and calibration error, and of a blend its members."""
    probabilities = model.predict_proba(X)
    codes = np.searchsorted(model.classes_, y)
    found = {
        "accuracy": float(np.mean(probabilities.argmax(axis=1) == codes)),
        "log_loss": float(-np.log(probabilities[np.arange(len(codes)), codes].clip(1e-6)).mean()),
        "calibration_error": calibration_error(probabilities, codes),
    }
    if model.members_ is None:
        return found
    pairs = zip(model.members_, model.weights_.round(3).tolist(), strict=True)
    return found | {"members": dict(pairs)}


def calibration_error(probabilities: np.ndarray, codes: np.ndarray, n_bins: int = 10) -> float:
    """Return the expected calibration error, in bins of equal width (Guo et al. 2017)."""
    sure = probabilities.max(axis=1)
    off = (probabilities.argmax(axis=1) == codes) - sure
    bins = np.minimum((sure * n_bins).astype(int), n_bins - 1)
    return float(np.abs(np.bincount(bins, off, n_bins)).sum() / len(codes))


def what_is_cheap(X, y, backbone, **settings):
    """Recommend without training stages of the network for a trial: what calibration looks at."""
    usual = RULES["worth_trying"]
    RULES["worth_trying"] = math.inf
    try:
        return recommend_strategy(X, y, backbone, **settings)
    finally:
        RULES["worth_trying"] = usual


def evidence(found) -> dict:
    """Return the parts of a recommendation that the calibration needs."""
    by_name = {estimate.name: estimate for estimate in found.table}
    fixed = by_name["features"]
    return {
        "chosen": found.chosen,
        "abstains": found.strategy is None,
        "smallest": found.evidence["size"].smallest,
        "similarity": found.evidence["similarity"].value,
        "explained": found.evidence["explained"],
        "fixed": [fixed.accuracy, fixed.n_judged],
        "reasons": list(found.reasons),
        "gains": {o.name: [o.gain, o.error, o.n_judged] for o in found.table},
        "tried": {o.name: list(o.measured) for o in found.table},
    }


def measure(args, results: Results) -> None:
    chosen = {"both": CALIBRATION + REPORTED, "first": CALIBRATION, "second": REPORTED}[args.half]
    for draw in range(args.first, args.draws):
        for task in tasks(chosen):
            for strategy in args.strategies:
                done = Results.key(task.name, draw, strategy) in results.by_key
                if (done and not args.again) or args.only not in task.name:
                    continue
                row = run(task, draw, strategy, args.data, args.memory)
                if row is not None:
                    if strategy == "recommended":
                        row = results.followed(task, draw, row)
                    results.add(task=task.name, draw=draw, strategy=strategy, **row)
                    told = f"{row.get('accuracy', np.nan):.3f} {row['seconds']:.1f} s"
                    told += f" {row.get('chosen', '')}"
                    print(f"{task.name}, draw {draw}, {strategy}: {told}", flush=True)


def calibrate(results: Results, draws: int) -> None:
    """Print the priors of the strategies, from the first half only."""
    found, priors = _seen(results, draws), {}
    for name, strategy in STRATEGIES.items():
        if isinstance(strategy.prior, ShareOfErrors):
            hint = strategy.prior.hint_from
            priors[name] = ShareOfErrors(*_fit_gain(name, found, priors.get(hint), hint), hint)
        elif isinstance(strategy.prior, ExplainedLabels):
            pairs = [(r["seen"]["explained"], r[name]) for r in found if name in r]
            slope, constant = np.polyfit(*zip(*pairs, strict=True), 1)
            spread = np.std([accuracy - constant - slope * share for share, accuracy in pairs])
            numbers = (round(float(number), 2) for number in (constant, slope, spread))
            priors[name] = ExplainedLabels(*numbers)
    for name, prior in priors.items():
        print(f"{name}: {prior}")


def _seen(results: Results, draws: int) -> list[dict]:
    """Return the evidence before training and the accuracies afterwards, for each draw."""
    found = []
    for task in tasks(CALIBRATION):
        for draw in range(draws):
            rows = {s: results.by_key.get((task.name, draw, s)) for s in (*STRATEGIES, "evidence")}
            if rows["evidence"] and rows["features"]:
                seen = rows.pop("evidence")
                found.append({"seen": seen} | {s: r["accuracy"] for s, r in rows.items() if r})
    return found


def _fit_gain(name: str, found: list[dict], before: ShareOfErrors | None, hint_from: str) -> tuple:
    """Fit a strategy's gain over "features" by ridge regression; return weights and spread."""
    rows = [row for row in found if name in row]
    X = np.array([_looked_at(row["seen"], before, hint_from) for row in rows])
    gain = np.array([row[name] - row["features"] for row in rows])
    # In accuracy, not as a share of the errors, which is undefined without errors.
    penalty = 0.1 * np.mean(X[:, 0] ** 2) * len(X) * np.eye(X.shape[1])
    weights = np.linalg.solve(X.T @ X + penalty, X.T @ gain).round(2)
    spread = np.sqrt(((gain - X @ weights) ** 2).sum() / (X[:, 0] ** 2).sum())
    return *weights.tolist(), round(float(spread), 2)


def _looked_at(seen: dict, before: ShareOfErrors | None, hint_from: str) -> np.ndarray:
    """Return what a rule looks at, times the headroom."""
    headroom, hint = headroom_of(*seen["fixed"]), 0.0
    if before and hint_from in seen["tried"]:
        expected = before(Evidence(headroom, seen["smallest"], seen["similarity"]))
        hint = update(expected, tuple(seen["tried"][hint_from]))[0] / headroom
    return headroom * np.array(rule_inputs(seen["smallest"], seen["similarity"], hint))


def report(results: Results, half: list, title: str) -> None:
    """Print a row for each task, and the mean and the largest regret of every strategy.

    Strategies that were not fitted on a task are left out there; the best is that of the others.
    """
    print(f"\n{title}")
    names = (*STRATEGIES, "recommended", "auto", "trained", "tokens")
    regrets: dict[str, list[float]] = {name: [] for name in names}
    rows, judged = [], []
    for task in tasks(half):
        means = {s: results.of(task, s).mean() for s in regrets if len(results.of(task, s))}
        if "auto" not in means:
            continue
        best = max((means[s] for s in STRATEGIES if s in means), default=math.nan)
        for name, mean in means.items():
            regrets[name].append(best - mean)
        row, fields = _row(results, task, means, best)
        rows.append(row)
        judged.append(fields)
    if not rows:
        print('no task has "auto" yet')
        return
    table(["task", "draws", *STRATEGIES, "recommended", "auto", "regret, points", *_FIELDS], rows)
    fields = ", ".join(("accuracy", *_FIELDS))
    print(f"auto, means of {fields}: {np.mean(judged, axis=0).round(4).tolist()}")
    lines = [
        [name, len(r), f"{100 * np.mean(r):.2f}", f"{100 * np.max(r):.2f}"]
        for name, r in regrets.items()
        if r
    ]
    table(["always", "tasks", "mean regret, points", "worst"], lines)
    shares = [line for task in tasks(half) if (line := _time(results, task))]
    if shares:
        table(["time relative to all fixed strategies", "auto", "trained"], shares)


def _time(results: Results, task: Task) -> list | None:
    """Return the time of "auto" and of "trained", relative to that of all fixed strategies."""
    seconds = {s: results.of(task, s, "seconds") for s in (*STRATEGIES, "auto", "trained")}
    if not len(seconds["trained"]):
        return None
    fixed = sum(seconds[name].mean() for name in STRATEGIES if len(seconds[name]))
    return [task.name, *(f"{seconds[s].mean() / fixed:.2f}" for s in ("auto", "trained"))]


def _row(results: Results, task: Task, means: dict, best: float) -> tuple[list, list[float]]:
    """Return the cells of a task, and what is averaged over tasks."""
    auto = results.of(task, "auto")
    cells = [f"{means[s]:.3f}" if s in means else "-" for s in (*STRATEGIES, "recommended")]
    fields = [float(results.of(task, "auto", field).mean()) for field in _FIELDS]
    spread = f"{auto.mean():.3f} ± {auto.std():.3f}"
    regret = f"{100 * (best - auto.mean()):.1f}"
    row = [task.name, len(auto), *cells, spread, regret, *(f"{value:.3f}" for value in fields)]
    return row, [float(auto.mean()), *fields]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--out", type=Path, default=Path("regret.jsonl"))
    options.add_argument("--draws", type=int, default=1)
    options.add_argument("--first", type=int, default=0, help="the draw to begin with")
    options.add_argument("--half", choices=["both", "first", "second"], default="both")
    options.add_argument("--strategies", nargs="*", default=[*STRATEGIES, "recommended", "auto"])
    options.add_argument("--memory", type=Path, help="a folder that keeps features")
    options.add_argument("--only", default="", help="tasks whose name has this in it")
    options.add_argument("--again", action="store_true", help="measure anew what is there already")
    options.add_argument("--calibrate", action="store_true")
    options.add_argument("--threads", type=int, default=1)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore", UserWarning)
    results = Results(args.out)
    if args.calibrate:
        calibrate(results, args.draws)
        return
    measure(args, results)
    print(f"\nrules: {RULES}")
    report(results, CALIBRATION, "Sources that served to calibrate")
    report(results, REPORTED, "Other sources")
    report(results, CALIBRATION + REPORTED, "All")


if __name__ == "__main__":
    main()
