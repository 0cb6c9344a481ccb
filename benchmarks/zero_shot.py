"""Measure classes in words on texts: alone, and as a member of a blend with few labels.

Topics of the short descriptions of Debian packages (by section, as `apt-cache dumpavail` lists
them), and the tone of sentences from film reviews (SST-2). Texts of a task are divided into two
halves: on the first, the scale of the logits was chosen that sentence encoders have (15, divided by
one less the mean cosine of unrelated sentences), and so were the pseudo-samples of prompts in a
blend; accuracies are those on the second. Blends are fitted to some labels of the first half.

    python benchmarks/zero_shot.py --scales                # log loss of the first halves
    python benchmarks/zero_shot.py --priors 1 2 5 10 20    # labels and tests of the first halves
    python benchmarks/zero_shot.py --draws 5               # accuracies of the second halves
    python benchmarks/zero_shot.py --draws 5 --models e5_small
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from _common import parser, sst2, table
from sklearn.metrics import accuracy_score, log_loss

from sktransfer import PretrainedClassifier, TransferClassifier, make_prompts
from sktransfer.selection.proposals import BLEND

SECTIONS = {
    "database": "databases", "education": "education", "electronics": "electronics",
    "fonts": "fonts", "games": "games", "graphics": "images and graphics", "mail": "email",
    "science": "science", "sound": "sound and music", "web": "web servers and browsers",
}  # fmt: skip
HARD = {
    "admin": "system administration", "comm": "modems, faxes and telephones",
    "net": "networks", "utils": "tools for files and disks",
}  # fmt: skip
TONES = {0: ["bad", "boring", "disappointing"], 1: ["good", "funny", "moving"]}
SCALES = (5, 10, 15, 20, 30, 40, 60, 80, 100)


def descriptions(sections: dict) -> tuple[list[str], np.ndarray]:
    """List up to 80 descriptions of each section, those of one source counted once."""
    try:
        listed = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True)
    except FileNotFoundError:
        sys.exit("No apt-cache: this benchmark reads the descriptions of Debian packages.")
    found: dict[str, dict[str, str]] = {section: {} for section in sections}
    for package in listed.stdout.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in package.split("\n") if ": " in line)
        section, text = fields.get("Section"), fields.get("Description", "")
        name = fields.get("Source", fields.get("Package", "")).split(" ")[0]
        if section in found and len(text.split()) >= 3 and "transitional" not in text:
            found[section].setdefault(name, text)
    rng, texts, y = np.random.default_rng(0), [], []
    for section, of_section in found.items():
        unique = sorted(set(of_section.values()))
        texts += [unique[i] for i in rng.permutation(len(unique))[:80]]
        y += [section] * min(80, len(unique))
    return texts, np.array(y)


def tasks(data) -> dict:
    """Return the texts, the labels and the prompts of each task."""
    sentences, tones = sst2(data, "test")
    chosen = np.random.default_rng(0).permutation(len(sentences))[:400]
    about = ["this text is about {}", "{}", "a program for {}"]
    return {
        "ten sections": (*descriptions(SECTIONS), make_prompts(SECTIONS, about[0])),
        "ten sections, names alone": (*descriptions(SECTIONS), make_prompts(SECTIONS, about[1])),
        "ten sections, three templates": (*descriptions(SECTIONS), make_prompts(SECTIONS, about)),
        "four sections": (*descriptions(HARD), make_prompts(HARD, about[0])),
        "film reviews": (
            [sentences[i] for i in chosen],
            np.asarray(tones)[chosen],
            make_prompts(TONES, "this film is {}"),
        ),
    }


def halves(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(seed).permutation(n)
    return order[: n // 2], order[n // 2 :]


def losses(name: str, X: list, y: np.ndarray, prompts: dict, memory: str | None) -> list[float]:
    """Return the log loss of the first half for each scale, and for the default."""
    model = PretrainedClassifier(name, prompts=prompts, memory=memory).fit(X)
    rows = halves(len(X))[0]
    logs = np.log(model.predict_proba([X[i] for i in rows]))
    default = float(model.backbone_.stages["prompts"].weight.norm(dim=1)[0])
    found = []
    for scale in (*SCALES, default):
        scores = logs * scale / default
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities = scores / scores.sum(axis=1, keepdims=True)
        found.append(log_loss(y[rows], probabilities, labels=model.classes_))
    return found


def compare(name, X, y, given: list, n: int, draw: int, memory, tested="second") -> list[float]:
    """Return the accuracies of blends without or with prompts, and their log losses."""
    first, second = halves(len(X))
    rng = np.random.default_rng([draw, n])
    rows = [i for k in np.unique(y) for i in rng.permutation(first[y[first] == k])[:n]]
    if tested == "first":
        second = np.setdiff1d(first, rows)
    results = []
    for prompts in given:
        model = TransferClassifier(name, prompts=prompts, memory=memory, random_state=draw)
        model.fit([X[i] for i in rows], y[rows])
        probabilities = model.predict_proba([X[i] for i in second])
        predicted = model.classes_[probabilities.argmax(1)]
        loss = log_loss(y[second], probabilities, labels=model.classes_)
        results.append((accuracy_score(y[second], predicted), loss))
    return np.ravel(np.transpose(results)).tolist()


def compare_priors(args) -> None:
    """Print means over tasks, networks and draws for numbers of pseudo-samples."""
    rows = []
    for prior in args.priors:
        BLEND["priors"]["prompts"] = (prior, *BLEND["priors"]["prompts"][1:])
        found = [
            compare(name, X, y, [prompts], n, draw, args.memory, "first")
            for name in args.models
            for task, (X, y, prompts) in tasks(args.data).items()
            for n in (args.labels if "," not in task else ())
            for draw in range(args.draws)
        ]
        rows.append([prior, *(f"{value:.4f}" for value in np.mean(found, axis=0))])
        print(*rows[-1], flush=True)
    table(["pseudo-samples", "accuracy", "log loss"], rows)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--models", nargs="+", default=["minilm_l6_v2", "e5_small"])
    options.add_argument("--draws", type=int, default=5)
    options.add_argument("--labels", type=int, nargs="+", default=[1, 2, 5])
    options.add_argument("--scales", action="store_true", help="only the scale of the logits")
    options.add_argument("--priors", type=float, nargs="+", help="only these pseudo-samples")
    options.add_argument("--memory", help="a folder that keeps features")
    args = options.parse_args()
    if args.priors:
        compare_priors(args)
        return
    rows = []
    for name in args.models:
        for task, (X, y, prompts) in tasks(args.data).items():
            if args.scales:
                found = losses(name, X, y, prompts, args.memory)
                rows.append([name, task, *(f"{value:.3f}" for value in found)])
                print(*rows[-1], flush=True)
                continue
            second = halves(len(X))[1]
            texts = [X[i] for i in second]
            model = PretrainedClassifier(name, prompts=prompts, memory=args.memory).fit(texts)
            alone = f"{model.score(texts, y[second]):.3f}"
            for n in args.labels if "," not in task else ():
                results = [
                    compare(name, X, y, [None, prompts], n, draw, args.memory)
                    for draw in range(args.draws)
                ]
                mean, spread = np.mean(results, axis=0), np.std(results, axis=0)
                cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, spread, strict=True)]
                gains = np.subtract(np.array(results)[:, 1], np.array(results)[:, 0])
                rows.append([name, task, n, alone, *cells, f"{gains.min():+.3f}"])
                print(*rows[-1], flush=True)
            if "," in task:
                rows.append([name, task, 0, alone, "", "", "", "", ""])
                print(*rows[-1], flush=True)
    if args.scales:
        table(["network", "texts", *map(str, SCALES), "default"], rows)
    else:
        header = ["network", "texts", "labels a class", "prompts alone", "blend", "with prompts"]
        table([*header, "log loss", "with prompts", "worst gain"], rows)


if __name__ == "__main__":
    main()
