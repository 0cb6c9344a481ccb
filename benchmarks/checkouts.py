"""Compare two checkouts of the package: equal results, and times

    python benchmarks/checkouts.py OTHER [--rounds 5] [--only WORDS] [--tolerance 1e-6]

OTHER is the folder of another checkout, such as the one before a change. Each case runs in a fresh
process for each checkout, in turns. The results of the first round are compared first: the largest
difference, relative to the largest value, must be at most the tolerance. Printed are seconds and
the ratio, this checkout by the other one: the median and the range over the rounds. Times of first
calls include what a new process pays once, imports left out.
"""

from __future__ import annotations

import argparse
import inspect
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parents[1]


def photographs(data: Path) -> tuple[list[str], np.ndarray, list[str]]:
    """Return 120 files of ants and bees, their labels, and 60 other files."""
    train = sorted((data / "hymenoptera" / "train").glob("*/*.jpg"))[::2]
    test = sorted((data / "hymenoptera" / "val").glob("*/*.jpg"))[:60]
    return list(map(str, train)), np.array([p.parent.name for p in train]), list(map(str, test))


def sentences(data: Path) -> tuple[list[str], np.ndarray, list[str]]:
    """Return 200 sentences of SST-2, their labels, and 100 others."""
    lines = (data / "sst2" / "train.tsv").read_text(encoding="utf-8").splitlines()
    texts, labels = zip(*(line.rsplit("\t", 1) for line in lines[:300]), strict=True)
    return list(texts[:200]), np.array(labels[:200]), list(texts[200:])


# Each case imports what it needs, and returns a function that is timed and gives an array.


def imports(data: Path) -> Callable:
    def run() -> np.ndarray:
        from sktransfer import PretrainedFeatureExtractor

        return np.array([PretrainedFeatureExtractor is not None])

    return run


def first_transform(data: Path) -> Callable:
    from sktransfer import PretrainedFeatureExtractor

    paths, _, _ = photographs(data)
    return lambda: PretrainedFeatureExtractor().fit_transform(paths[:8])


def transform(data: Path) -> Callable:
    from sktransfer import PretrainedFeatureExtractor

    paths, _, _ = photographs(data)
    extractor = PretrainedFeatureExtractor().fit(paths[:8])
    extractor.transform(paths[:16])
    return lambda: extractor.transform(paths)


def transform_two_sizes(data: Path) -> Callable:
    from sktransfer import PretrainedFeatureExtractor

    paths, _, _ = photographs(data)
    extractor = PretrainedFeatureExtractor(image_size=[128, 224], layer=-2).fit(paths[:8])
    return lambda: extractor.transform(paths)


def from_the_store(data: Path) -> Callable:
    from sktransfer import PretrainedFeatureExtractor

    paths, _, _ = photographs(data)
    folder = tempfile.TemporaryDirectory()
    extractor = PretrainedFeatureExtractor(memory=folder.name).fit(paths)
    rows = extractor.transform(paths)

    def run(folder=folder) -> np.ndarray:
        for _ in range(20):
            found = extractor.transform(paths)
        assert np.array_equal(found, rows)
        return found

    return run


def one_photograph(data: Path) -> Callable:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from sktransfer import PretrainedFeatureExtractor

    paths, y, test = photographs(data)
    model = make_pipeline(PretrainedFeatureExtractor(), LogisticRegression())
    model.fit(paths[::4], y[::4]).predict(test[:1])
    return lambda: np.concatenate([model.predict_proba([path]) for path in test[:30]])


def search(data: Path) -> Callable:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    from sktransfer import PretrainedFeatureExtractor

    paths, y, test = photographs(data)
    folder = tempfile.TemporaryDirectory()
    extractor = PretrainedFeatureExtractor(memory=folder.name)
    grid = {"logisticregression__C": np.logspace(-3, 1, 8)}

    def run(folder=folder) -> np.ndarray:
        model = GridSearchCV(make_pipeline(extractor, LogisticRegression(max_iter=1000)), grid)
        return model.fit(paths, y).predict_proba(test)

    return run


def tuned_head(data: Path) -> Callable:
    from sktransfer import FineTunedClassifier

    paths, y, test = photographs(data)
    model = FineTunedClassifier(trainable="head", random_state=0)
    return lambda: model.fit(paths, y).predict_proba(test)


def tuned_two_stages(data: Path) -> Callable:
    from sktransfer import FineTunedClassifier

    paths, y, test = photographs(data)
    model = FineTunedClassifier(trainable=2, max_epochs=5, random_state=0)
    return lambda: model.fit(paths, y).predict_proba(test)


def tuned_all(data: Path) -> Callable:
    from sktransfer import FineTunedClassifier

    paths, y, test = photographs(data)
    model = FineTunedClassifier(trainable="all", max_epochs=1, image_size=128, random_state=0)
    return lambda: model.fit(paths, y).predict_proba(test)


def tuned_texts(data: Path) -> Callable:
    from sktransfer import FineTunedClassifier

    texts, y, test = sentences(data)
    settings: dict[str, Any] = {"trainable": 2, "max_epochs": 2, "random_state": 0}
    # The default of layer_decay for texts has changed.
    model = FineTunedClassifier("minilm_l6_v2", layer_decay=1, **settings)
    return lambda: model.fit(texts, y).predict_proba(test)


def blend(data: Path) -> Callable:
    from sktransfer import TransferClassifier

    paths, y, test = photographs(data)
    model = TransferClassifier(random_state=0)
    return lambda: model.fit(paths, y).predict_proba(test)


def blend_of_texts(data: Path) -> Callable:
    from sktransfer import TransferClassifier

    texts, y, test = sentences(data)
    model = TransferClassifier("glove_6b_50d", random_state=0)
    return lambda: model.fit(texts, y).predict_proba(test)


def recommendation(data: Path) -> Callable:
    from sktransfer import recommend_strategy

    paths, y, _ = photographs(data)

    def run() -> np.ndarray:
        table = recommend_strategy(paths[::2], y[::2], random_state=0).table
        estimates = sorted((each.name, each.accuracy, each.gain) for each in table)
        return np.nan_to_num([numbers for _, *numbers in estimates])

    return run


def strategies(data: Path) -> Callable:
    """Search over strategies; an earlier checkout that has ``strategy="search"`` runs that."""
    from sklearn.experimental import enable_halving_search_cv  # noqa: F401
    from sklearn.model_selection import HalvingGridSearchCV

    import sktransfer
    from sktransfer import TransferClassifier, selection

    paths, y, test = photographs(data)
    paths, y = paths[::2], y[::2]
    expected = [Path(path).parent.name for path in test]
    folder = tempfile.TemporaryDirectory()
    backbone = sktransfer.load_backbone("efficientnet_lite0", image_size=96)
    model: Any = TransferClassifier(backbone, memory=folder.name, max_epochs=2, random_state=0)
    if hasattr(selection, "available_strategies"):
        # As many rounds, samples and candidates; four folds in place of five and then three.
        grid = {"strategy": selection.available_strategies(backbone)}
        settings = {"factor": 2, "min_resources": len(y) // 4, "cv": 4, "random_state": 0}
        model = HalvingGridSearchCV(model, grid, **settings)
    else:
        model.set_params(strategy="search")

    def run(folder=folder) -> np.ndarray:
        return np.array([model.fit(paths, y).score(test, expected) > 0.6])

    return run


def direct(data: Path) -> Callable:
    from sktransfer import PretrainedClassifier

    paths, _, _ = photographs(data)
    model = PretrainedClassifier().fit(paths[:8])
    return lambda: model.predict_proba(paths)


def load_and_predict(data: Path) -> Callable:
    import sktransfer

    paths, y, test = photographs(data)
    folder = tempfile.TemporaryDirectory()
    model = sktransfer.FineTunedClassifier(trainable=2, max_epochs=1, random_state=0)
    sktransfer.save(model.fit(paths[::4], y[::4]), f"{folder.name}/model.skt")
    return lambda folder=folder: sktransfer.load(f"{folder.name}/model.skt").predict_proba(test[:8])


CASES = {
    function.__name__: function
    for function in (
        imports,
        first_transform,
        transform,
        transform_two_sizes,
        from_the_store,
        one_photograph,
        search,
        strategies,
        direct,
        tuned_head,
        tuned_two_stages,
        tuned_all,
        tuned_texts,
        blend,
        blend_of_texts,
        recommendation,
        load_and_predict,
    )
}


def run_case(name: str, data: Path, target: str) -> None:
    """Time a case in this process and write its seconds and result."""
    function = CASES[name](data)
    start = time.perf_counter()
    result = function()
    seconds = time.perf_counter() - start
    np.savez(target, seconds=seconds, result=np.asarray(result, dtype=np.float64))


def run_in_process(checkout: Path, name: str, data: Path) -> tuple[float, np.ndarray]:
    """Run a case with the package of a checkout; return seconds and the result."""
    with tempfile.TemporaryDirectory() as folder:
        target = f"{folder}/result.npz"
        command = [sys.executable, "-W", "ignore", __file__, "--case", name, "--target", target]
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        subprocess.run(
            [*command, "--data", str(data)], env=environment, cwd=folder, check=True, stdout=2
        )
        with np.load(target) as saved:
            return float(saved["seconds"]), saved["result"]


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference relative to the largest value."""
    if a.shape != b.shape:
        return np.inf
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-300))


def main() -> None:
    options = argparse.ArgumentParser(description=inspect.cleandoc(__doc__).partition("\n")[0])
    options.add_argument("other", nargs="?", type=Path)
    options.add_argument("--data", type=Path, default=HERE.parent / "shared" / "data")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--only", nargs="+", default=list(CASES), choices=CASES)
    options.add_argument("--tolerance", type=float, default=1e-6)
    options.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options.add_argument("--target", help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.case:
        run_case(args.case, args.data, args.target)
        return
    checkouts = [HERE, args.other.resolve()]
    print("| case | this, s | other, s | ratio | range | difference |\n|---|---|---|---|---|---|")
    unequal = []
    for name in args.only:
        seconds = np.empty((args.rounds, 2))
        for i in range(args.rounds):
            results = [run_in_process(checkout, name, args.data) for checkout in checkouts]
            if i == 0:
                apart = difference(results[0][1], results[1][1])
                if apart > args.tolerance:
                    unequal.append(name)
            seconds[i] = [taken for taken, _ in results]
        ratios = seconds[:, 0] / seconds[:, 1]
        columns = [f"{median(column):.3f}" for column in seconds.T]
        columns += [f"{median(ratios):.2f}", f"{ratios.min():.2f} to {ratios.max():.2f}"]
        print("|", " | ".join([name, *columns, f"{apart:.1e}"]), "|", flush=True)
    if unequal:
        sys.exit(f"The results of these cases differ: {', '.join(unequal)}")


if __name__ == "__main__":
    main()
