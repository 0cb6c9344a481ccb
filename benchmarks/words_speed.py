"""Measure texts a second of word vectors, compared with a loop over the vectors of gensim.

The loop looks up each token and averages the vectors of known ones. In one variant it is given
the tokens of the extractor's tokenizer, in the other it makes them by a regular expression.
Equality is asserted first, to 1e-5. Then the memory and the time of opening tables are measured:
the 400,000 x 50 of GloVe, and a table of 1,000,000 x 300 that is made here (1.2 GB on disk), read
once and opened by a second process.

    python benchmarks/words_speed.py
    python benchmarks/words_speed.py --large
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from _common import interleave, parser, ratio, sst2, table

from sktransfer import PretrainedFeatureExtractor

OPEN = """
import resource, sys, time
from sktransfer import load_backbone
def resident():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
before, start = resident(), time.perf_counter()
backbone = load_backbone({name!r}, weights={weights!r})
opened, seconds = resident(), time.perf_counter() - start
import torch
start = time.perf_counter()
ids = backbone.preprocess("the good old film w17 w999")
backbone.stages["embedding"](ids[None])
use = time.perf_counter() - start
print(f"{{seconds:.2f}} s, {{opened - before:.0f}} MB, first text {{use * 1e3:.0f}} ms,"
      f" fingerprint {{backbone.fingerprint[:8]}}")
"""


def keyed_vectors(extractor):
    """Return the words and vectors of the extractor as KeyedVectors of gensim."""
    from gensim.models import KeyedVectors

    vectors = extractor.backbone_.stages["embedding"].vectors
    words = [vectors.vocabulary.word(i + 1) for i in range(vectors.n_words)]
    made = KeyedVectors(vectors.dim, count=0)
    made.add_vectors(words, np.array(vectors.matrix))
    return made


def loop(kv, tokens) -> np.ndarray:
    """Average the vectors of known tokens, text by text."""
    rows = []
    for text in tokens:
        found = [kv[word] for word in text if word in kv]
        rows.append(np.mean(found, axis=0) if found else np.zeros(kv.vector_size))
    return np.array(rows, np.float32)


def speed(args) -> None:
    texts, _ = sst2(args.data, "train")
    extractor = PretrainedFeatureExtractor("glove_6b_50d").fit(texts)
    kv, tokenizer = keyed_vectors(extractor), extractor.backbone_.preprocess.tokens
    tokens = [tokenizer(text) for text in texts]
    word = re.compile(r"[^\s]+")
    np.testing.assert_allclose(extractor.transform(texts), loop(kv, tokens), atol=1e-5)
    times = interleave(
        {
            "transform": lambda: extractor.transform(texts),
            "loop": lambda: loop(kv, (word.findall(text.lower()) for text in texts)),
            "loop, tokens given": lambda: loop(kv, tokens),
        },
        args.rounds,
    )
    rows = [
        [name, f"{len(texts) / np.median(each):.0f}", ratio(each, times["transform"])]
        for name, each in times.items()
    ]
    table(["what", "texts a second", "times transform's time"], rows)


def opened(name: str, weights: str, home: str) -> str:
    code = OPEN.format(name=name, weights=weights)
    settings = os.environ | {"SKTRANSFER_HOME": home}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=settings, check=True
    )
    return run.stdout.strip()


def large(path: Path, n_words: int = 1_000_000, dim: int = 300) -> None:
    """Write a file in the binary format of word2vec."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(f"{n_words} {dim}\n".encode())
        for start in range(0, n_words, 10_000):
            block = rng.standard_normal((10_000, dim), dtype=np.float32)
            for i, row in enumerate(block):
                file.write(f"w{start + i} ".encode() + row.tobytes() + b"\n")


def main() -> None:
    options = parser(__doc__, rounds=5)
    options.add_argument("--large", action="store_true")
    args = options.parse_args()
    if not args.large:
        speed(args)
    with tempfile.TemporaryDirectory() as folder:
        sources = [("glove_6b_50d", "default")]
        if args.large:
            large(Path(folder) / "large.bin")
            sources.append(("word-vectors", str(Path(folder) / "large.bin")))
        for name, weights in sources:
            print(name, "first process:", opened(name, weights, folder))
            print(name, "second process:", opened(name, weights, folder))


if __name__ == "__main__":
    main()
