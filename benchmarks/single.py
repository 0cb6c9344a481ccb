"""Measure one prediction of a fitted model, compared with the network, decoding and preprocessing.

Milliseconds of a warm `predict([x])`, as a web service calls it, and of what it cannot do without:
the same network run by PyTorch in channels-last format, and for images decoding the file and
preprocessing. Both are called in turns in one process, each on the same file; the ratio is that of
the medians of a round. Target: 1.3. `--threads` also measures predictions a second by several
threads which share one fitted model.

    python benchmarks/single.py
    python benchmarks/single.py --threads 4
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np
import torch
from _common import hymenoptera, parser, sst2, table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import FineTunedClassifier, PretrainedClassifier, PretrainedFeatureExtractor
from sktransfer.backbones import Backbone, stages_of
from sktransfer.engines import pool
from sktransfer.features import open_sample


def bare(backbone: Backbone, layer: str | None) -> Callable:
    """Return a function that opens one sample and runs the network up to a layer."""
    names = list(stages_of(backbone))
    n = len(names) if layer is None else names.index(layer) + 1
    network = torch.nn.Sequential(*list(stages_of(backbone).values())[:n])
    network = copy.deepcopy(network).to(memory_format=torch.channels_last)
    tokens = backbone.modality.has_tokens
    many = getattr(backbone.preprocess, "many", None)

    @torch.inference_mode()
    def run(sample) -> torch.Tensor:
        batch = many([sample])[0][1] if many else open_sample(sample, backbone)[None]
        batch = batch if isinstance(batch, torch.Tensor) else torch.stack(list(batch))
        if batch.ndim == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)
        return pool(network(batch), "avg", square=True, masked=tokens)

    return run


def image_models(paths: list[str], y: np.ndarray) -> dict:
    """Fit one model of each kind; return each with the bare run that it is compared with."""
    extractor = PretrainedFeatureExtractor().fit(paths[:1])
    backbone, layer = extractor.backbone_, extractor.layers_[0]
    tuned = {"trainable": "head", "random_state": 0, "max_epochs": 2}
    few = paths[:30] + paths[-30:], np.concatenate([y[:30], y[-30:]])
    pipeline = make_pipeline(PretrainedFeatureExtractor(), LogisticRegression(max_iter=1000))
    fast = make_pipeline(
        PretrainedFeatureExtractor(engine="openvino"), LogisticRegression(max_iter=1000)
    )
    below = bare(backbone, layer)
    return {
        "pipeline": (pipeline.fit(*few), below),
        "pipeline, openvino": (fast.fit(*few), below),
        "fine-tuned, head": (FineTunedClassifier(**tuned).fit(*few), below),
        "fine-tuned, one stage": (
            FineTunedClassifier(**tuned | {"trainable": 1}).fit(*few),
            below,
        ),
        "direct": (PretrainedClassifier().fit(few[0]), bare(backbone, None)),
    }


def text_models(texts: list[str], y: np.ndarray) -> dict:
    found = {}
    for name in ("minilm_l6_v2", "glove_6b_50d"):
        extractor = PretrainedFeatureExtractor(name)
        model = make_pipeline(extractor, LogisticRegression(max_iter=1000)).fit(texts[:60], y[:60])
        found[name] = model, bare(extractor.backbone_, extractor.layers_[0])
    return found


def measure(predict: Callable, run: Callable, samples: list, rounds: int) -> list[list[float]]:
    """Return milliseconds of each, one median a round, called in turns on the same sample."""
    medians: list[list[float]] = [[], []]
    for _ in range(rounds):
        times: list[list[float]] = [[], []]
        for sample in samples:
            for k, (call, given) in enumerate(((predict, [sample]), (run, sample))):
                start = time.perf_counter()
                call(given)
                times[k].append(1e3 * (time.perf_counter() - start))
        for k in range(2):
            medians[k].append(median(times[k]))
    return medians


def row(name: str, predict: Callable, run: Callable, samples: list, rounds: int) -> list:
    measure(predict, run, samples[:5], 1)  # warm
    mine, bare_times = measure(predict, run, samples, rounds)
    each = [a / b for a, b in zip(mine, bare_times, strict=True)]
    ratio = f"{median(each):.2f} ({min(each):.2f} to {max(each):.2f})"
    print(f"  {name}: {median(mine):.2f} {median(bare_times):.2f} {ratio}", flush=True)
    return [name, f"{median(mine):.2f}", f"{median(bare_times):.2f}", ratio]


def throughput(predict: Callable, samples: list, n_threads: int, seconds: float = 4.0) -> float:
    """Return predictions a second of some threads that share a model."""
    end = time.perf_counter() + seconds

    def work(k: int) -> int:
        done = 0
        while time.perf_counter() < end:
            predict([samples[(done * n_threads + k) % len(samples)]])
            done += 1
        return done

    with ThreadPoolExecutor(n_threads) as threads:
        return sum(threads.map(work, range(n_threads))) / seconds


def scaling(models: dict, samples: list, n_threads: int, rounds: int) -> list[list]:
    rows = []
    for name, (model, _) in models.items():
        each = [
            [throughput(model.predict, samples, n) for n in (1, n_threads)] for _ in range(rounds)
        ]
        ratios = [many / one for one, many in each]
        one, many = (median(column) for column in zip(*each, strict=True))
        rows.append([name, f"{one:.1f}", f"{many:.1f}", f"{median(ratios):.2f}"])
        print(" ", *rows[-1], flush=True)
    return rows


def main() -> None:
    options = parser(__doc__, rounds=5)
    options.add_argument("--threads", type=int, help="threads that share one model")
    options.add_argument("--samples", type=int, default=40)
    args = options.parse_args()
    warnings.filterwarnings("ignore")  # of few epochs
    paths, y = hymenoptera(args.data, "train")
    texts, labels = sst2(args.data, "dev")
    images, words = image_models(paths, y), text_models(texts, labels)
    samples = paths[30 : 30 + args.samples]
    if args.threads:
        rows = scaling(images, samples, args.threads, args.rounds)
        table(["model", "predictions/s", f"with {args.threads} threads", "ratio"], rows)
        return
    rows = [row(n, m.predict, run, samples, args.rounds) for n, (m, run) in images.items()]
    few = texts[: args.samples]
    rows += [row(n, m.predict, run, few, args.rounds) for n, (m, run) in words.items()]
    table(["model", "predict, ms", "network and opening, ms", "ratio"], rows)


if __name__ == "__main__":
    main()
