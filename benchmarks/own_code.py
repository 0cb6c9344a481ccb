"""What the package's own code brings where a library does the same: keep it, or replace it?

    python benchmarks/own_code.py [--rounds 5] [--n-words 100000] [--name NAME]

- convolutions: ``FusedConvolution`` and ``torch.conv2d`` with an activation after it, in the engine
  of EfficientNet-Lite0, both with batch norm folded and images channels-last.
- preprocessing: resize, crop and scale, and the import, of ``backbones/preprocessing.py`` and of
  torchvision.
- words: text and binary files of word2vec, and models of FastText, by the package and by gensim.

Outputs are compared first. Each contestant runs in a fresh process, rounds are interleaved, and the
median of the seconds is shown, with the ratio to the package's own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

CONTESTANTS = {
    "convolutions": ("own", "torch"),
    "preprocessing": ("own", "torchvision"),
    "words-text": ("own", "gensim"),
    "words-binary": ("own", "gensim"),
    "words-fasttext": ("own", "gensim"),
}


def seconds(function: Callable, repeats: int) -> tuple:
    """Call a function once to warm up; return the seconds of a later call, and its result."""
    result = function()
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats, result


def convolutions(contestant: str, folder: Path) -> tuple:
    import torch

    from sktransfer import load_backbone
    from sktransfer.backbones import stages_of
    from sktransfer.engines import TorchEngine

    class Unfused(TorchEngine):
        fuses = False

    backbone = load_backbone("efficientnet_lite0")
    stages = stages_of(backbone)
    kind = TorchEngine if contestant == "own" else Unfused
    settings = {"device": torch.device("cpu"), "modality": backbone.modality}
    engine = kind(stages, {"features": (list(stages)[-2], "avg")}, **settings)
    images = torch.rand(64, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    took, (features,) = seconds(lambda: list(engine.run(images).values()), 2)
    return took, float(np.abs(features).mean())


def preprocessing(contestant: str, folder: Path) -> tuple:
    start = time.perf_counter()
    if contestant == "own":
        from sktransfer.backbones.preprocessing import ImagePreprocessing, center_crop, resize
    else:
        from torchvision.transforms.v2 import functional
    imported = time.perf_counter() - start
    import torch

    image = torch.randint(0, 256, (3, 480, 640), generator=torch.Generator().manual_seed(0))
    image, mean, std = image.to(torch.uint8), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def own():
        cropped = center_crop(resize(image, [256], "bilinear"), (224, 224))
        return ImagePreprocessing(256, 224, mean, std).scaled(cropped)

    def theirs():
        resized = functional.resize(image, [256], antialias=True)
        cropped = functional.center_crop(resized, [224, 224])
        return functional.normalize(functional.to_dtype(cropped, scale=True), mean, std)

    took, pixels = seconds(own if contestant == "own" else theirs, 50)
    print(f"import {imported:.2f} s", file=sys.stderr)
    return took, float(pixels.abs().mean())


def words(contestant: str, path: Path) -> tuple:
    from gensim.models import KeyedVectors
    from gensim.models.fasttext import load_facebook_vectors

    from sktransfer import load_word_vectors

    def read() -> float:
        if contestant == "gensim" and path.suffix == ".ftbin":
            kv = load_facebook_vectors(str(path))
            vectors = np.concatenate([kv.vectors, kv.vectors_ngrams])
        elif contestant == "gensim":
            vectors = KeyedVectors.load_word2vec_format(path, binary=path.suffix == ".bin").vectors
        else:
            vectors = np.asarray(load_word_vectors(path).preprocess.vectors.matrix)
        return float(np.abs(vectors).mean())

    start = time.perf_counter()  # once in a process, as a user reads a file
    mean = read()
    return time.perf_counter() - start, mean


def write_words(folder: Path, n_words: int) -> None:
    from gensim.models import FastText, KeyedVectors
    from gensim.models.fasttext import save_facebook_model

    vectors = KeyedVectors(100)
    matrix = np.random.default_rng(0).standard_normal((n_words, 100), np.float32)
    vectors.add_vectors([f"word{i}" for i in range(n_words)], matrix)
    vectors.save_word2vec_format(folder / "words.txt")
    vectors.save_word2vec_format(folder / "words.bin", binary=True)
    model = FastText(vector_size=100, bucket=n_words, min_count=1)
    model.build_vocab([vectors.index_to_key])  # with random vectors
    save_facebook_model(model, str(folder / "words.ftbin"))


def run_one(name: str, contestant: str, folder: Path) -> tuple:
    if name.startswith("words"):
        suffix = {"text": "txt", "binary": "bin", "fasttext": "ftbin"}[name.removeprefix("words-")]
        return words(contestant, folder / f"words.{suffix}")
    return {"convolutions": convolutions, "preprocessing": preprocessing}[name](contestant, folder)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--n-words", type=int, default=100_000)
    options.add_argument("--name", choices=CONTESTANTS)
    options.add_argument("--one", nargs=3, help="of a process: name, contestant and folder")
    args = options.parse_args()
    if args.one:
        print(json.dumps(run_one(args.one[0], args.one[1], Path(args.one[2]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        if args.name is None or args.name.startswith("words"):
            write_words(Path(folder), args.n_words)
        for name in [args.name] if args.name else CONTESTANTS:
            took: dict[str, list[float]] = {contestant: [] for contestant in CONTESTANTS[name]}
            for _ in range(args.rounds):
                means = []
                for contestant in took:
                    command = [sys.executable, __file__, "--one", name, contestant, folder]
                    # A table of words that was read is kept in this folder.
                    home = {"SKTRANSFER_HOME": tempfile.mkdtemp(dir=folder)}
                    ended = subprocess.run(
                        command,
                        check=True,
                        stdout=subprocess.PIPE,
                        text=True,
                        env=os.environ | home,
                    )
                    each, mean = json.loads(ended.stdout.splitlines()[-1])
                    took[contestant].append(each)
                    means.append(mean)
                np.testing.assert_allclose(means, means[0], rtol=1e-4)
            medians = {contestant: statistics.median(times) for contestant, times in took.items()}
            own = medians["own"]
            rows = (f"{who} {each:.4g} s ({each / own:.2f} ×)" for who, each in medians.items())
            print(f"{name}: {', '.join(rows)}")


if __name__ == "__main__":
    main()
