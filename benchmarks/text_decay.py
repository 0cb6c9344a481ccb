"""Measure the decay of the learning rate by block, for all blocks of a sentence encoder.

``layer_decay`` multiplies the learning rate by a number for each block towards the input. Sentences
of SST-2 are drawn at random for each seed; all decays of a seed have the same ones. The decay is
chosen on the development sentences ("calibration"); the test sentences ("reported") say what the
choice gives. All else is by default. A decay is compared with 1 in pairs, by seed.

Results are written to --out after each fit, and an interrupted run can be continued.

    python benchmarks/text_decay.py --encoders minilm_l6_v2 --seeds 4
    python benchmarks/text_decay.py --encoders e5_small --seeds 2       # a quarter of an hour
"""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from _common import parser, sst2, table

from sktransfer import FineTunedClassifier

DECAYS = [1.0, 0.9, 0.75]
HALVES = {"calibration": "dev", "reported": "test"}


def fit(encoder: str, decay: float, seed: int, args) -> dict[str, float]:
    """Train all blocks on the sentences of a seed, and evaluate them on both halves."""
    texts, labels = sst2(args.data, "train")
    rows = np.random.default_rng(seed).permutation(len(texts))[: args.rows]
    settings = {"trainable": "all", "layer_decay": decay, "random_state": seed}
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = FineTunedClassifier(encoder, **settings).fit([texts[i] for i in rows], labels[rows])
    measured = {"seconds": time.process_time() - start}
    for half, split in HALVES.items():
        texts, labels = (part[: args.test_rows] for part in sst2(args.data, split))
        p = model.predict_proba(texts)
        measured[f"{half}, accuracy"] = float(np.mean(p.argmax(1) == labels))
        likely = p[np.arange(len(p)), labels].clip(1e-15)
        measured[f"{half}, log loss"] = float(-np.log(likely).mean())
    return measured


def report(found: dict) -> None:
    """Print the mean of each encoder and decay, and the differences from a decay of 1."""
    rows = []
    for encoder, decay in dict.fromkeys((e, d) for e, d, _ in found):
        seeds = [s for e, d, s in found if (e, d) == (encoder, decay)]
        line = [encoder, decay, len(seeds)]
        for half in HALVES:
            for what in ("accuracy", "log loss"):
                own = np.array([found[encoder, decay, s][f"{half}, {what}"] for s in seeds])
                one = [
                    found.get((encoder, 1.0, s), {}).get(f"{half}, {what}", np.nan) for s in seeds
                ]
                change = own - np.array(one)
                line.append(f"{own.mean():.3f} ({change.mean():+.3f})")
        rows.append([*line, f"{np.mean([found[encoder, decay, s]['seconds'] for s in seeds]):.0f}"])
    heads = [
        f"{half}, {what} (less that of 1)" for half in HALVES for what in ("accuracy", "log loss")
    ]
    table(["encoder", "layer_decay", "seeds", *heads, "s of processor time"], rows)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--out", type=Path, default=Path("text_decay.jsonl"))
    options.add_argument("--encoders", nargs="*", default=["minilm_l6_v2", "e5_small"])
    options.add_argument("--decays", nargs="*", type=float, default=DECAYS)
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--rows", type=int, default=200, help="training sentences")
    options.add_argument("--test-rows", type=int, default=400, help="sentences of each half")
    args = options.parse_args()
    torch.set_num_threads(1)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    found = {tuple(key): row for *key, row in map(json.loads, lines)}
    for encoder in args.encoders:
        for seed in range(args.seeds):
            for decay in args.decays:
                key = (encoder, decay, seed)
                if key in found:
                    continue
                found[key] = fit(encoder, decay, seed, args)
                with args.out.open("a") as file:
                    print(json.dumps([*key, found[key]]), file=file)
                print(*key, found[key], flush=True)
    report(found)


if __name__ == "__main__":
    main()
