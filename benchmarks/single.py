"""Measure one prediction of a fitted model, compared with the network, decoding and preprocessing.

A warm `predict([x])`, as a web service calls it, compared with what it cannot do without: the
same network in PyTorch and, for images, decoding and preprocessing. Ratios below 1 come from
batch normalisation and activations, which are part of the convolutions. "The pipeline without
the network" is what scikit-learn takes by itself. Then, how many predictions a second several
threads make that share one model.

    python benchmarks/single.py
    python benchmarks/single.py --threads 8
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
from _common import Case, hymenoptera, parser, record, sst2
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from sktransfer import FineTunedClassifier, PretrainedClassifier, PretrainedFeatureExtractor
from sktransfer.backbones import Backbone, pool, stages_of

QUICK = {"rounds": 3, "samples": 15, "seconds": 2.0}


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
        batch = many([sample])[0][1] if many else backbone.open(sample)[None]
        batch = batch if isinstance(batch, torch.Tensor) else torch.stack(list(batch))
        if batch.ndim == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)
        where = {"sides": backbone.input_shape and backbone.input_shape[1:], "masked": tokens}
        return pool(network(batch), "avg", prefix_tokens=backbone.prefix_tokens, **where)

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
        "features and LogisticRegression": (pipeline.fit(*few), below),
        "the same, openvino": (fast.fit(*few), below),
        "fine-tuned, head": (FineTunedClassifier(**tuned).fit(*few), below),
        "fine-tuned, one stage": (
            FineTunedClassifier(**tuned | {"trainable": 1}).fit(*few),
            below,
        ),
        "direct use": (PretrainedClassifier().fit(few[0]), bare(backbone, None)),
    }


def text_models(texts: list[str], y: np.ndarray) -> dict:
    found = {}
    for name in ("minilm_l6_v2", "glove_6b_50d"):
        extractor = PretrainedFeatureExtractor(name)
        model = make_pipeline(extractor, LogisticRegression(max_iter=1000)).fit(texts[:60], y[:60])
        found[f"{name} and LogisticRegression"] = (
            model,
            bare(extractor.backbone_, extractor.layers_[0]),
        )
    return found


class Known(TransformerMixin, BaseEstimator):
    """A step that returns the same features for every sample."""

    def __init__(self, features: np.ndarray):
        self.features = features

    def fit(self, X, y=None):
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def transform(self, X) -> np.ndarray:
        return self.features


def measure(calls: dict[str, Callable], samples: list, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds of each, one median a round, called in turns on the same sample."""
    medians: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        times: dict[str, list[float]] = {name: [] for name in calls}
        for sample in samples:
            for name, call in calls.items():
                start = time.perf_counter()
                call(sample)
                times[name].append(1e3 * (time.perf_counter() - start))
        for name in calls:
            medians[name].append(median(times[name]))
    return medians


def compare(name: str, model, run: Callable, samples: list, rounds: int) -> Case:
    calls: dict[str, Callable] = {"its parts": run}
    if isinstance(model, Pipeline):
        known = make_pipeline(Known(model[:-1].transform(samples[:1])), model[-1])
        calls["the pipeline without the network"] = lambda sample: known.predict([sample])
    calls["predict"] = lambda sample: model.predict([sample])
    measure(calls, samples[:5], 1)  # warm
    found = measure(calls, samples, rounds)
    print(f"  {name}: { ({k: round(median(v), 3) for k, v in found.items()}) }", flush=True)
    if not name.startswith("glove"):
        return Case(name, "ms", found, "its parts", {"predict": 1.3})
    note = "the pipeline of scikit-learn takes more than the mean of some vectors: no aim"
    return Case(name, "ms", found, "its parts", note=note)


def throughput(predict: Callable, samples: list, n_threads: int, seconds: float) -> float:
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


def scaling(name: str, model, samples: list, args) -> Case:
    """Compare one thread with several, which must predict the same, with one thread of torch."""
    expected = model.predict(samples)
    with ThreadPoolExecutor(args.threads) as threads:
        found = list(threads.map(lambda x: model.predict([x])[0], samples))
    np.testing.assert_array_equal(found, expected)
    before, counts = (
        torch.get_num_threads(),
        {"one thread": 1, f"{args.threads} threads": args.threads},
    )
    torch.set_num_threads(1)
    values: dict[str, list[float]] = {label: [] for label in counts}
    for _ in range(args.rounds):
        for label, n in counts.items():
            values[label].append(throughput(model.predict, samples, n, args.seconds))
    torch.set_num_threads(before)
    return Case(
        f"{name}, sharing one model", "predictions/s", values, "one thread", note="equal labels"
    )


def main() -> None:
    options = parser(__doc__, rounds=5, quick=QUICK)
    options.add_argument("--threads", type=int, default=4, help="threads that share one model")
    options.add_argument("--samples", type=int, default=40)
    options.add_argument("--seconds", type=float, default=4.0, help="of a round with threads")
    args = options.parse_args()
    warnings.filterwarnings("ignore")  # of few epochs
    paths, y = hymenoptera(args.data, "train")
    texts, labels = sst2(args.data, "dev")
    images, words = image_models(paths, y), text_models(texts, labels)
    few, samples = texts[: args.samples], paths[30 : 30 + args.samples]
    cases = [compare(n, m, run, samples, args.rounds) for n, (m, run) in images.items()]
    cases += [compare(n, m, run, few, args.rounds) for n, (m, run) in words.items()]
    cases.append(
        scaling("features and LogisticRegression", next(iter(images.values()))[0], samples, args)
    )
    record(__file__, args, cases)


if __name__ == "__main__":
    main()
