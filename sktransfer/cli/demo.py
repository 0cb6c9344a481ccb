"""A tour in a minute or two, on data that ships with scikit-learn: photographs, digits, a file.

Only the command line imports this module, and it needs rich. What is heavier is imported where
it is used.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rich.box
from rich.console import Console
from rich.progress import track
from rich.table import Table

__all__ = ["Digits", "Row", "run"]

DRAWS = 5
LABELS = 10  # a class, to learn from
OTHERS = 500  # to be judged by

# An early, a middle and a late place of the network, and the last before its classifier.
LAYERS = ["blocks.4", "blocks.9", "blocks.14", None]

# Digits of 8 x 8 pixels have no detail for which 224 x 224 would be needed. What tells them
# apart is where a stroke is, so every place is kept and no average taken.
SETTINGS = {"image_size": 64, "pooling": "flatten"}

# What the new process runs. It is given a folder and nothing else.
READER = """
import sys
import joblib, numpy, sktransfer
from threadpoolctl import threadpool_limits
threadpool_limits(1)
folder = sys.argv[1]
search = joblib.load(folder + "/search.joblib")
numpy.save(folder + "/again.npy", search.predict(numpy.load(folder + "/digits.npy")))
"""


@dataclasses.dataclass
class Row:
    """A line of the closing table."""

    what: str
    result: str
    seconds: float


def run() -> None:
    """Run the tour and print what comes out.

    Raises
    ------
    AssertionError
        If the saved model predicts something else in a new process.
    """
    from threadpoolctl import threadpool_limits

    console = rich.get_console()  # the one that scikit-learn's progress bars use
    start = time.perf_counter()
    console.print(
        "\n[bold]sktransfer[/]: one network that others have trained on ImageNet, "
        "EfficientNet-Lite0, and data that ships with scikit-learn. Nothing is downloaded, and "
        "the network stays as it is."
    )
    # Steps this small gain nothing from a second thread, and lose minutes where it has to wait
    # for a core that is busy with something else.
    with threadpool_limits(1), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        rows = [_photographs(console)]
        digits = Digits(console, Path(folder))
        rows += digits.compare()
        rows.append(digits.new_process())
    _closing_table(console, rows, time.perf_counter() - start)


def _photographs(console: Console) -> Row:
    """Name what is on scikit-learn's two sample photographs."""
    from sklearn.datasets import load_sample_images

    from ..features import PretrainedClassifier

    _heading(console, "1. What is on two photographs? In the network's own classes")
    start = time.perf_counter()
    photos = load_sample_images()
    classifier = PretrainedClassifier().fit(photos.images)
    names, probabilities = classifier.predict_top_k(photos.images, k=3)
    table = _plain_table("photograph", "first guess", "second", "third")
    for file, *guesses in zip(photos.filenames, names, probabilities, strict=True):
        cells = [f"{name} [dim]{100 * p:.0f} %[/]" for name, p in zip(*guesses, strict=True)]
        table.add_row(Path(file).name, *cells)
    console.print(table)
    return Row("Two photographs named", ", ".join(names[:, 0]), time.perf_counter() - start)


class Digits:
    """Digits from a few labels: raw pixels against fixed features, then a saved model.

    Parameters
    ----------
    console : rich.console.Console
    folder : Path
        For the feature store and the saved model.
    """

    def __init__(self, console: Console, folder: Path):
        from sklearn.datasets import load_digits

        from ..features import FeatureStore

        self.console = console
        self.folder = folder
        self.store = FeatureStore(folder / "features")
        images, self.y = load_digits(return_X_y=True)
        self.images = images.reshape(-1, 8, 8) / 16  # from [0, 16] to [0, 1]

    def compare(self) -> list[Row]:
        """Compare the two on the same draws of digits to learn from and to be judged by."""
        from sklearn.base import clone

        setting = f"{LABELS} labels a class, {DRAWS} draws"
        _heading(self.console, f"2. Which digit? {setting}, each judged by {OTHERS} other digits")
        once = self.fill_store()
        (self.first, *others), searches = self.draws(), self.searches()
        results = {name: [self.fit_with_bar(name, search)] for name, search in searches.items()}
        self.search = searches["fixed features"]
        self.show_layers()
        for draw in track(others, f"{len(others)} more draws", console=self.console):
            for name, search in searches.items():
                results[name].append(self.judge(clone(search), draw))
        return [once, *(_summary(name, rounds) for name, rounds in results.items())]

    def fill_store(self) -> Row:
        """Run every digit through the network once and keep four layers.

        Features of a digit depend on that digit alone: those that judge tell nothing to those
        that are learned from. A grid search would fill the store by itself, one layer at a time.
        """
        self.console.print(
            f"All {len(self.y):,} digits pass the network once. What {len(LAYERS)} of its layers "
            "give is kept in a store, from which every search reads.\n"
        )
        start = time.perf_counter()
        self.extractor(layer=LAYERS, verbose=1).fit_transform(self.images)
        result = f"{len(self.y):,} digits, {len(LAYERS)} layers, {self.store.nbytes / 1e6:.0f} MB"
        return Row("The network, each digit once", result, time.perf_counter() - start)

    def extractor(self, **settings):
        from ..features import PretrainedFeatureExtractor

        return PretrainedFeatureExtractor(memory=self.store, **SETTINGS, **settings)

    def draws(self) -> list[tuple[np.ndarray, np.ndarray]]:
        from sklearn.model_selection import StratifiedShuffleSplit

        n_train = LABELS * len(np.unique(self.y))
        splitter = StratifiedShuffleSplit(
            DRAWS, train_size=n_train, test_size=OTHERS, random_state=0
        )
        return list(splitter.split(self.y, self.y))

    def searches(self) -> dict:
        """Make the two searches: the same classifiers, with the network before them and without."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import FunctionTransformer
        from sklearn.svm import SVC

        classifiers = [LogisticRegression(max_iter=1000), SVC()]
        grid = {"model": classifiers, "model__C": [0.1, 1, 10]}
        pixels = FunctionTransformer(_flatten)
        return {
            "raw pixels": GridSearchCV(
                Pipeline([("features", pixels), ("model", SVC())]), grid, cv=3
            ),
            "fixed features": GridSearchCV(
                Pipeline([("features", self.extractor()), ("model", SVC())]),
                grid | {"features__layer": LAYERS},
                cv=3,
            ),
        }

    def fit_with_bar(self, name: str, search) -> tuple[float, float]:
        """Judge a search on the first draw, with scikit-learn's progress bar."""
        from sklearn.callback import ProgressBar
        from sklearn.model_selection import ParameterGrid

        n = len(ParameterGrid(search.param_grid))
        self.console.print(f"\nFirst draw, {name}: {n} candidates, {search.cv} folds")
        result = self.judge(search.set_callbacks(ProgressBar(0)), self.first)
        search.set_callbacks()
        return result

    def judge(self, search, draw) -> tuple[float, float]:
        """Fit on the one part of a draw, score on the other; return the accuracy and seconds."""
        train, test = draw
        start = time.perf_counter()
        search.fit(self.images[train], self.y[train])
        accuracy = search.score(self.images[test], self.y[test])
        return accuracy, time.perf_counter() - start

    def show_layers(self) -> None:
        """Print what the search found at each layer, in cross-validation on the first draw."""
        names = [layer or "penultimate (the default)" for layer in LAYERS]
        scores = self.search.cv_results_["mean_test_score"]
        tried = list(self.search.cv_results_["param_features__layer"])
        table = _plain_table("\nlayer", "\naccuracy in cross-validation")
        for layer, name in zip(LAYERS, names, strict=True):
            best = max(s for s, t in zip(scores, tried, strict=True) if t == layer)
            chosen = layer == self.search.best_params_["features__layer"]
            table.add_row(name, f"{100 * best:.1f} %{'  chosen' if chosen else ''}")
        self.console.print(table, "")

    def new_process(self) -> Row:
        """Save the search, open it in a new process, compare what both predict."""
        _heading(self.console, "3. Saved with joblib, opened in a new process")
        start = time.perf_counter()
        digits = self.images[self.first[1]]
        expected = self.search.predict(digits)
        self.save(digits)
        with self.console.status("A new process predicts"):
            subprocess.run([sys.executable, "-c", READER, str(self.folder)], check=True)
        equal = np.sum(np.load(self.folder / "again.npy") == expected)
        if equal < len(digits):
            raise AssertionError(f"only {equal} of {len(digits)} predictions are the same")
        result = f"{equal} of {len(digits)} predictions the same"
        return Row("Saved, opened in a new process", result, time.perf_counter() - start)

    def save(self, digits: np.ndarray) -> None:
        import joblib

        # The new process is to run the network itself, not to look into this one's store.
        network = self.search.best_estimator_.set_params(features__memory=None)[0].backbone_
        path = self.folder / "search.joblib"
        joblib.dump(self.search, path)
        np.save(self.folder / "digits.npy", digits)
        weights = sum(t.nbytes for t in network.module.state_dict().values())
        self.console.print(
            f"The file holds {path.stat().st_size / 1e3:.0f} kB. The network's {weights / 1e6:.0f} "
            "MB are not among them: it is named, with a fingerprint of its weights."
        )


def _flatten(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)


def _summary(name: str, rounds: list[tuple[float, float]]) -> Row:
    accuracies, seconds = np.array(rounds).T
    result = f"{100 * accuracies.mean():.1f} % right (± {100 * accuracies.std():.1f})"
    return Row(f"Digits from {name}", result, seconds.sum())


def _heading(console: Console, text: str) -> None:
    console.print()
    console.rule(f"[bold]{text}[/]", align="left", style="dim")


def _plain_table(*columns: str) -> Table:
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    return table


def _closing_table(console: Console, rows: list[Row], seconds: float) -> None:
    table = Table(box=rich.box.SIMPLE_HEAD, header_style="bold", show_footer=True)
    table.add_column("What", "All")
    table.add_column("Result")
    table.add_column("Seconds", f"{seconds:.1f}", justify="right")
    for row in rows:
        table.add_row(row.what, row.result, f"{row.seconds:.1f}")
    console.print()
    console.print(table)
