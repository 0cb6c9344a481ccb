"""What a grid search on a Dask cluster sends over the network.

    python benchmarks/cluster_search.py [--images 400] [--candidates 6] [--quick] [--record]

Bytes that the client sends: with paths and a folder of parts as ``memory``, and with an array of
features that is scattered once. Generated JPEGs, the default network, three folds. With paths, the
workers read each file for every candidate and fold.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
from _cluster import cluster, write_jpegs
from _common import Case, parser, record
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sktransfer import PretrainedFeatureExtractor, extract_to, load_features

QUICK = {"images": 100}


class Sent:
    """Counts the bytes that this process sends by TCP while it is active."""

    def __enter__(self):
        from distributed.comm.tcp import TCP

        self.n, self.TCP, self.write = 0, TCP, TCP.write

        async def counting(comm, *args, **kwargs):
            n = await self.write(comm, *args, **kwargs)
            self.n += n
            return n

        TCP.write = counting
        return self

    def __exit__(self, *error):
        self.TCP.write = self.write


def main() -> None:
    made = parser(__doc__, quick=QUICK)
    made.add_argument("--images", type=int, default=400)
    made.add_argument("--candidates", type=int, default=6)
    args = made.parse_args()
    grid = np.logspace(-3, 0, args.candidates)
    with tempfile.TemporaryDirectory() as name, cluster(2) as client:
        folder = Path(name)
        paths = write_jpegs(folder, args.images)
        y = np.arange(args.images) % 2
        extract_to(
            folder / "f",
            PretrainedFeatureExtractor(),
            source=paths,
            partition_size=64,
            executor=client,
        )
        model = make_pipeline(
            PretrainedFeatureExtractor(memory=folder / "f"), LogisticRegression(max_iter=200)
        )
        X, _ = load_features(folder / "f")
        searches = {
            "paths, memory=folder of parts": (
                GridSearchCV(model, {"logisticregression__C": grid}, cv=3, refit=False),
                paths,
                None,
            ),
            "features, scattered once": (
                GridSearchCV(LogisticRegression(max_iter=200), {"C": grid}, cv=3, refit=False),
                X,
                [X],
            ),
        }
        sent_by, seconds = {}, {}
        for label, (search, samples, scatter) in searches.items():
            start = time.perf_counter()
            settings = {"client": client} | ({} if scatter is None else {"scatter": scatter})
            with Sent() as sent, joblib.parallel_config("dask", **settings):
                search.fit(samples, y)
            seconds[label] = [time.perf_counter() - start]
            sent_by[label] = [sent.n / 1e6]
    name = f"{args.images} images, {args.candidates} candidates, 3 folds"
    scores = " and ".join(f"{search.best_score_:.4f}" for search, *_ in searches.values())
    note = f"the features have {X.nbytes / 1e6:.2f} MB; the best scores are {scores}"
    cases = [
        Case(f"{name}, sent", "MB", sent_by, "features, scattered once", note=note),
        Case(f"{name}, time", "s", seconds, "features, scattered once"),
    ]
    record(__file__, args, cases)


if __name__ == "__main__":
    main()
