"""Compare low-rank adapters with training all weights, of a sentence encoder on SST-2.

Each training runs in a process of its own: accuracy on the test sentences (standard error 0.010 for
all 1,821), seconds and processor seconds of ``fit``, the growth of the peak of the resident memory
during it, the size of the file of ``save``, and the numbers that are trained. Nothing is selected
on the test sentences.

    python benchmarks/adapters.py                          # hours
    python benchmarks/adapters.py --rows 200 --test-rows 200
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _common import parser, sst2, table

from sktransfer import FineTunedClassifier, save

WAYS = {"all": "all", "lora": "lora", "lora, rank 4": {"r": 4, "lora_alpha": 8}}
WAYS["lora, queries and values"] = {"r": 8, "lora_alpha": 16, "target_modules": ["query", "value"]}


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(way: str, args) -> dict[str, float]:
    """Train in one way and measure it."""
    trainable = WAYS[way]
    if isinstance(trainable, dict):
        from peft import LoraConfig

        trainable = LoraConfig(**trainable)
    texts, labels = sst2(args.data, "train")
    rows = np.random.default_rng(0).permutation(len(texts))[: args.rows]
    test_texts, test_labels = (part[: args.test_rows] for part in sst2(args.data, "test"))
    settings = {"random_state": args.seed, "max_epochs": args.epochs or "auto"}
    FineTunedClassifier(args.encoder, trainable="head", max_epochs=0).fit(texts[:8], labels[:8])
    model = FineTunedClassifier(args.encoder, trainable=trainable, **settings)
    before, start, processor = peak_memory(), time.perf_counter(), time.process_time()
    model.fit([texts[i] for i in rows], labels[rows])
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    memory = peak_memory() - before
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder) / "model.skt")
        size = (Path(folder) / "model.skt").stat().st_size
    parameters = model.net_.module_.parameters()
    return {
        "accuracy": float(np.mean(model.predict(test_texts) == test_labels)),
        "seconds": seconds,
        "processor": processor,
        "memory": memory,
        "size": size,
        "trained": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--encoder", default="e5_small")
    options.add_argument("--rows", type=int, help="training sentences, default all")
    options.add_argument("--test-rows", type=int)
    options.add_argument("--epochs", type=int, help="default: that of max_epochs='auto'")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", nargs="*", choices=WAYS, default=list(WAYS))
    options.add_argument("--way", choices=WAYS, help="run it in this process")
    args = options.parse_args()
    if args.way is not None:
        print(json.dumps(run(args.way, args)))
        return
    lines = []
    for way in args.only:
        command = [sys.executable, "-W", "ignore", __file__, *sys.argv[1:], "--way", way]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        measured = json.loads(done.stdout.splitlines()[-1])
        lines.append(
            [
                way,
                f"{measured['accuracy']:.3f}",
                f"{measured['seconds']:.1f}",
                f"{measured['processor']:.1f}",
                f"{measured['memory'] / 1e6:.0f}",
                f"{measured['size'] / 1e6:.2f}",
                f"{measured['trained']:,}",
            ]
        )
    header = ["trainable", "accuracy", "seconds", "processor", "memory, MB", "file, MB"]
    table([*header, "trained numbers"], lines)


if __name__ == "__main__":
    main()
