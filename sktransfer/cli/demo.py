"""A demonstration on photographs and digits that ship with scikit-learn. It requires rich."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data import progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

N_DRAWS = 5
N_LABELS = 10  # training samples of each class
N_TEST = 500

# An early, a middle and a late layer, and the penultimate one.
LAYERS = ["blocks.4", "blocks.9", "blocks.14", None]

# Images of 8 x 8 pixels have no detail that an input of 224 x 224 would show. Digits differ in the
# position of strokes, so the features of all positions are kept instead of their average.
SETTINGS: dict[str, Any] = {"image_size": 64, "pooling": "flatten"}

# The first example of README.md. It needs a folder "photos", which write_photographs makes.
EXAMPLE = """
from sklearn.model_selection import train_test_split
from sktransfer import TransferClassifier, load_image_folder, save
from sktransfer.inspection import report

X, y = load_image_folder("photos")  # a sub-folder for each class
X_train, X_test, y_train, y_test = train_test_split(
    X, y, train_size=20, stratify=y, random_state=0
)
model = TransferClassifier(random_state=0).fit(X_train, y_train)
print(f"accuracy: {model.score(X_test, y_test):.2f}")
page = report(model, X_test, y_test, "report.html", cv=None)
save(model, "model.skt")
"""

# The program of the new process.
READER = """
from threadpoolctl import threadpool_limits
import numpy, sktransfer
threadpool_limits(1)
X, y = sktransfer.load_image_folder("photos")
numpy.save("again.npy", sktransfer.load("model.skt").predict(X))
"""


@dataclasses.dataclass
class Row:
    """A row of the summary."""

    what: str
    result: str
    seconds: float


def run() -> None:
    """Run the demonstration, print its results, and check the saved model in a new process."""
    import rich
    from threadpoolctl import threadpool_limits

    console = rich.get_console()  # the one that scikit-learn's progress bars use
    start = time.perf_counter()
    console.print(
        "\n[bold]sktransfer[/]: EfficientNet-Lite0, a network trained on ImageNet, is applied to "
        "data that ship with scikit-learn. Nothing is downloaded, and the network is not trained."
    )
    # The tasks are too small to gain from a second thread, and waiting for a busy core takes
    # minutes.
    with threadpool_limits(1), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        with contextlib.chdir(folder):
            rows = [_classify(console), *_train(console)]
            rows += Digits(console, Path(folder)).compare()
    _print_summary(console, rows, time.perf_counter() - start)


def write_photographs(folder: Path) -> None:
    """Write a folder of photographs with two classes: 40 parts of each of scikit-learn's."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    n_rows, n_columns = 5, 8
    for name, photograph in zip(("temple", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True)
        height, width = photograph.shape[0] // n_rows, photograph.shape[1] // n_columns
        for i, j in np.ndindex(n_rows, n_columns):
            part = photograph[i * height : (i + 1) * height, j * width : (j + 1) * width]
            Image.fromarray(part).save(folder / name / f"{i}{j}.png")


def _classify(console: Console) -> Row:
    """Classify the two sample photographs of scikit-learn."""
    from sklearn.datasets import load_sample_images

    from ..features import PretrainedClassifier

    _heading(console, "1. Classify two photographs into the classes of ImageNet")
    start = time.perf_counter()
    photos = load_sample_images()
    classifier = PretrainedClassifier().fit(photos.images)
    names, probabilities = classifier.predict_top_k(photos.images, k=3)
    table = _plain_table("photograph", "most probable class", "second", "third")
    for file, *predicted in zip(photos.filenames, names, probabilities, strict=True):
        cells = [f"{name} [dim]{100 * p:.0f} %[/]" for name, p in zip(*predicted, strict=True)]
        table.add_row(Path(file).name, *cells)
    console.print(table)
    return Row("Classes of two photographs", ", ".join(names[:, 0]), time.perf_counter() - start)


def _train(console: Console) -> list[Row]:
    """Run the example of README.md on a folder of photographs, and load its model again."""
    from rich.syntax import Syntax

    _heading(console, "2. Train on a folder of photographs, with the lines of README.md")
    console.print(
        'The folder "photos" has two sub-folders, "temple" and "flower", of 40 parts of each '
        "photograph. 20 of the 80 are for training."
    )
    write_photographs(Path("photos"))
    console.print(Syntax(EXAMPLE.strip(), "python", background_color="default"))
    start = time.perf_counter()
    names: dict[str, Any] = {}
    exec(EXAMPLE, names)
    model, X = names["model"], names["X"]
    accuracy = model.score(names["X_test"], names["y_test"])
    seconds = time.perf_counter() - start
    trained = Row("Photographs, 20 for training", f"{100 * accuracy:.1f} % accuracy", seconds)

    start = time.perf_counter()
    with console.status("Predicting in a new process"):
        subprocess.run([sys.executable, "-c", READER], check=True)
    n_equal = np.sum(np.load("again.npy") == model.predict(X))
    if n_equal < len(X):
        raise AssertionError(f"only {n_equal} of {len(X)} predictions are equal")
    console.print(
        f"report.html has {Path('report.html').stat().st_size / 1e3:.0f} kB, and model.skt "
        f"{Path('model.skt').stat().st_size / 1e3:.0f} kB, with which a new process predicts alike."
    )
    result = f"{n_equal} of {len(X)} predictions equal"
    return [trained, Row("Loaded in a new process", result, time.perf_counter() - start)]


class Digits:
    """Compare raw pixels with fixed features on digits, which a store in a folder keeps."""

    y: np.ndarray
    images: list[np.ndarray]
    first: tuple[np.ndarray, np.ndarray]
    search: Any
    store: Any

    def __init__(self, console: Console, folder: Path):
        from sklearn.datasets import load_digits

        from ..features import FeatureStore

        self.console = console
        self.folder = folder
        self.store = FeatureStore(folder / "features")
        images, self.y = load_digits(return_X_y=True)
        self.images = images.reshape(-1, 8, 8) / 16  # from [0, 16] to [0, 1]

    def compare(self) -> list[Row]:
        """Compare both on the same random splits into training and test samples."""
        from sklearn.base import clone

        setting = f"{N_LABELS} training samples a class, {N_TEST} test samples, {N_DRAWS} draws"
        _heading(self.console, f"3. Classify digits: {setting}")
        once = self.fill_store()
        (self.first, *others), searches = self.draws(), self.searches()
        results = {name: [self.fit_with_bar(name, search)] for name, search in searches.items()}
        self.search = searches["fixed features"]
        self.print_layers()
        with progress(f"{len(others)} more draws", len(others), 1, "draws") as advance:
            for draw in others:
                for name, search in searches.items():
                    results[name].append(self.evaluate(clone(search), draw))
                advance(1)
        return [once, *(_summary(name, rounds) for name, rounds in results.items())]

    def fill_store(self) -> Row:
        """Compute the features of all digits at all layers in one pass.

        The features of a sample depend on that sample alone, so that test samples do not leak into
        the training. Without this step, the grid search fills the store one layer at a time.
        """
        self.console.print(
            f"The features of {len(self.y):,} digits at {len(LAYERS)} layers are computed in one "
            "pass and kept in a feature store, which all searches read.\n"
        )
        start = time.perf_counter()
        self.extractor(layer=LAYERS, verbose=1).fit_transform(self.images)
        result = f"{len(self.y):,} digits, {len(LAYERS)} layers, {self.store.nbytes / 1e6:.0f} MB"
        return Row("Features of all digits", result, time.perf_counter() - start)

    def extractor(self, **settings: Any) -> Any:
        from ..features import PretrainedFeatureExtractor

        return PretrainedFeatureExtractor(memory=self.store, **SETTINGS, **settings)

    def draws(self) -> list[tuple[np.ndarray, np.ndarray]]:
        from sklearn.model_selection import StratifiedShuffleSplit

        n_train = N_LABELS * len(np.unique(self.y))
        splitter = StratifiedShuffleSplit(
            N_DRAWS, train_size=n_train, test_size=N_TEST, random_state=0
        )
        return list(splitter.split(self.y, self.y))

    def searches(self) -> dict[str, Any]:
        """Make two searches over the same classifiers, without and with the network."""
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

    def fit_with_bar(self, name: str, search: Any) -> tuple[float, float]:
        """Evaluate a search on the first draw, with a progress bar of scikit-learn >= 1.9."""
        from sklearn.model_selection import ParameterGrid

        n = len(ParameterGrid(search.param_grid))
        self.console.print(f"\nFirst draw, {name}: {n} candidates, {search.cv} folds")
        if not hasattr(search, "set_callbacks"):
            return self.evaluate(search, self.first)
        from sklearn.callback import ProgressBar

        result = self.evaluate(search.set_callbacks(ProgressBar(0)), self.first)
        search.set_callbacks()
        return result

    def evaluate(self, search: Any, draw: Any) -> tuple[float, float]:
        """Return the test accuracy and the seconds of fitting and predicting."""
        train, test = draw
        start = time.perf_counter()
        search.fit(self.images[train], self.y[train])
        accuracy = search.score(self.images[test], self.y[test])
        return accuracy, time.perf_counter() - start

    def print_layers(self) -> None:
        """Print the cross-validated accuracy of each layer on the first draw."""
        names = [layer or "penultimate (the default)" for layer in LAYERS]
        scores = self.search.cv_results_["mean_test_score"]
        tried = list(self.search.cv_results_["param_features__layer"])
        table = _plain_table("\nlayer", "\ncross-validated accuracy")
        for layer, name in zip(LAYERS, names, strict=True):
            best = max(s for s, t in zip(scores, tried, strict=True) if t == layer)
            selected = layer == self.search.best_params_["features__layer"]
            table.add_row(name, f"{100 * best:.1f} %{'  selected' if selected else ''}")
        self.console.print(table, "")


def _flatten(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)


def _summary(name: str, rounds: list[tuple[float, float]]) -> Row:
    accuracies, seconds = np.array(rounds).T
    result = f"{100 * accuracies.mean():.1f} % accuracy (± {100 * accuracies.std():.1f})"
    return Row(f"Digits, {name}", result, seconds.sum())


def _heading(console: Console, text: str) -> None:
    console.print()
    console.rule(f"[bold]{text}[/]", align="left", style="dim")


def _plain_table(*columns: str) -> Table:
    from rich.table import Table

    return Table(*columns, box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")


def _print_summary(console: Console, rows: list[Row], seconds: float) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, header_style="bold", show_footer=True)
    table.add_column("Step", "Total")
    table.add_column("Result")
    table.add_column("Seconds", f"{seconds:.1f}", justify="right")
    for row in rows:
        table.add_row(row.what, row.result, f"{row.seconds:.1f}")
    console.print()
    console.print(table)
