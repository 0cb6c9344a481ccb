"""Commands for labelled samples: train, evaluate, advise, rank and report."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shlex
import tempfile
import time
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np

_HELD_OUT = 0.2  # of the samples, where the source has no test samples of its own
_FOLDS = 5
_FEWEST = 10  # samples from which some are held out
# How on_error="mean" is asked for: in the command that fits a model, and in those that load it.
_GIVE, _TRAIN_AGAIN = "give --on-error mean", "train the model with --on-error mean"

Source_ = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="A folder with a sub-folder for each class, or a CSV, TSV, Parquet or JSONL file.",
    ),
]
# Of commands and models that read one column: several are refused.
OnlyImage = Annotated[
    list[str] | None, typer.Option("--image", help="The column of image files in a table.")
]
OnlyText = Annotated[
    list[str] | None, typer.Option("--text", help="The column of texts in a table.")
]
NoOthers = Annotated[list[str] | None, typer.Option("--column", hidden=True)]
Images = Annotated[
    list[str] | None,
    typer.Option("--image", help="A column of image files in a table; several: once for each."),
]
Texts = Annotated[
    list[str] | None,
    typer.Option("--text", help="A column of texts in a table; several: once for each."),
]
Others = Annotated[
    list[str] | None,
    typer.Option("--column", help="A column of numbers or categories; several: once for each."),
]
Networks = Annotated[
    list[str] | None,
    typer.Option(
        "--backbone", help="The pretrained network; of images and texts, one for each may be given."
    ),
]
Label = Annotated[str | None, typer.Option(help="The column of labels in a table.")]


class OnError(StrEnum):
    """What is done about samples of several columns that are missing or cannot be read."""

    RAISE = "raise"
    MEAN = "mean"


def train(
    source: Source_,
    output: Annotated[Path, typer.Option("-o", "--output", help="The file of the model.")],
    strategy: Annotated[str, typer.Option(help="A strategy of TransferClassifier.")] = "auto",
    backbone: Networks = None,
    time_budget: Annotated[
        float | None, typer.Option(min=0, help="Seconds that may be used to train the network too.")
    ] = None,
    image: Images = None,
    text: Texts = None,
    column: Others = None,
    label: Label = None,
    on_error: Annotated[
        OnError,
        typer.Option(
            help="Of several columns, what is done about images and texts that are missing or "
            "cannot be read: raise, or mean, which takes the mean of the others."
        ),
    ] = OnError.RAISE,
    task: Annotated[
        str, typer.Option(help="classification, regression, or auto: by the labels.")
    ] = "auto",
    random_state: Annotated[int, typer.Option(help="Seed.")] = 0,
) -> None:
    """Train a model on labelled samples, and report its accuracy on held-out ones.

    Samples are images or texts, or rows of several columns.
    """
    from ..data import NumericTarget, find_target
    from ..persistence import save
    from .output import ReaderLeft, note, print_lines

    start = time.perf_counter()
    if output.is_dir() or not output.absolute().parent.is_dir():  # found out before the work begins
        raise ValueError(f"--output {output}: give a file in a folder that exists.")
    samples = read_source(source, Columns(image or (), text or (), column or (), label))
    if on_error is OnError.MEAN and None in samples.read:
        raise typer.BadParameter("--on-error mean is for several columns, and one is read.")
    networks = _networks(backbone or [], samples.read)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as memory:
        common = {"memory": memory, "on_error": on_error.value, "random_state": random_state}
        common["verbose"] = 1
        make = _regressor if find_target(samples.y, task) is NumericTarget else _classifier
        model = make(networks, strategy, time_budget, common)
        split = _hold_out(samples, random_state)
        if split.X_test is not None and split.y_test is not None:
            note(f"Training on {len(split.X)} samples, {len(split.X_test)} are held out.")
            with _named_in_source(split.rows, _GIVE):
                model.fit(split.X, split.y)
            with _named_in_source(split.rows_test, _GIVE):
                predicted = model.predict(split.X_test)
            with contextlib.suppress(ReaderLeft):  # the file of the model is still to be written
                print_lines(_score(model, split.y_test, predicted))
        if split.X_test is None or split.X_test is not samples.X_test:
            note(f"Training on all {len(samples.X)} samples.")
            with _named_in_source(None, _GIVE):
                model.fit(samples.X, samples.y)
    with contextlib.suppress(ReaderLeft):
        _print_choice(model)
    save(model.set_params(verbose=0), output)
    seconds = time.perf_counter() - start
    print_lines(f"saved {output} ({output.stat().st_size / 1e6:.1f} MB) after {seconds:.0f} s")


def _networks(given: list[str], read: dict[Any, str]) -> Any:
    """Return the networks of columns: those that are given, by what they take, or usual ones."""
    from ..backbones import list_backbones, modality_of, unknown_backbone
    from ..data import get_modality

    usual = {kind: [get_modality(kind).usual_backbone] for kind in read.values()}
    if None in read:  # one column
        chosen = {read[None]: given} if given else usual
    else:
        own: dict[str, list[str]] = {}
        for name in given:
            if ":" not in name and name not in (known := list_backbones()):
                raise unknown_backbone(name, known)
            own.setdefault(modality_of(name).name, []).append(name)
        if unused := set(own) - set(usual):
            kind = min(unused)
            raise ValueError(f"--backbone {own[kind][0]}: no column has {get_modality(kind).noun}.")
        chosen = usual | own
    networks = {
        column: chosen[kind] if len(chosen[kind]) > 1 else chosen[kind][0]
        for column, kind in read.items()
    }
    return networks.get(None, networks)


def _classifier(backbone: Any, strategy: str, time_budget: float | None, settings: dict):
    from ..selection import TransferClassifier

    return TransferClassifier(backbone, strategy=strategy, time_budget=time_budget, **settings)


def _regressor(backbone: Any, strategy: str, time_budget: float | None, settings: dict):
    if time_budget is not None or strategy != "auto":
        raise ValueError("--time-budget and --strategy are for classes: these labels are numbers.")
    from ..selection import TransferRegressor

    return TransferRegressor(backbone, **settings)


def _hold_out(samples: Source, seed: int) -> Source:
    """Return the samples for training and for testing."""
    import numpy as np
    from sklearn.model_selection import train_test_split

    from .._compat.sklearn import safe_indexing

    if samples.X_test is not None or len(samples.X) < _FEWEST:
        return samples
    counts = np.unique(samples.y, return_counts=True)[1]
    n_test = round(_HELD_OUT * len(samples.X))
    can_stratify = counts.min() > 1 and len(counts) <= n_test and counts.sum() > 2 * len(counts)
    rows = train_test_split(
        np.arange(len(samples.X)),
        test_size=n_test,
        random_state=seed,
        stratify=samples.y if can_stratify else None,
    )
    first, second = rows
    return Source(
        safe_indexing(samples.X, first),
        samples.y[first],
        samples.read,
        safe_indexing(samples.X, second),
        samples.y[second],
        first,
        second,
    )


@contextlib.contextmanager
def _named_in_source(rows: np.ndarray | None, remedy: str) -> Iterator[None]:
    """Name samples that cannot be read by their rows in the source, and the option for them."""
    from ..data import UnreadableSamplesError

    try:
        yield
    except UnreadableSamplesError as error:
        problems = [
            (i if rows is None else int(rows[i]), sample, naming_the_option(cause, remedy))
            for i, sample, cause in error.problems
        ]
        raise UnreadableSamplesError(problems, error.name) from error


def naming_the_option(cause: Exception, remedy: str = _TRAIN_AGAIN) -> Exception:
    """Return the error of a sample with an option in place of the parameter that it names."""
    from ..data import MissingSampleError

    if isinstance(cause, MissingSampleError):
        return MissingSampleError(cause.noun, remedy)
    return cause


@dataclasses.dataclass
class Score:
    """How good a model is on test samples: accuracy, or the mean absolute error of numbers."""

    name: str
    value: float
    error: float
    n: int

    def __str__(self) -> str:
        return f"{self.name} {self.value:.3f} ± {self.error:.3f} on {self.n} held-out samples"


def _score(model, y: np.ndarray, predicted: np.ndarray) -> Score:
    """Return the score with its standard error."""
    import numpy as np
    from sklearn.base import is_regressor
    from sklearn.metrics import mean_absolute_error

    if is_regressor(model):
        spread = np.std(np.abs(y - predicted)) / math.sqrt(len(y))
        return Score("mean absolute error", mean_absolute_error(y, predicted), spread, len(y))
    accuracy = float(np.mean(np.asarray(y) == predicted))
    return Score("accuracy", accuracy, math.sqrt(accuracy * (1 - accuracy) / len(y)), len(y))


def _print_choice(model) -> None:
    """Say what the model consists of."""
    from .output import print_lines, print_rows

    members = getattr(model, "members_", None)
    if members is None:
        print_lines(f"strategy {getattr(model, 'strategy_', '')}")
        return
    pairs = sorted(zip(model.weights_, members, strict=True), reverse=True)
    print_lines("the weighted mean of")
    print_rows(
        ("weight", "member"), [(f"{weight:.2f}", name) for weight, name in pairs], right=(0,)
    )


def evaluate(
    model: Annotated[Path, typer.Argument(help="A file that train or sktransfer.save wrote.")],
    source: Source_,
    image: OnlyImage = None,
    text: OnlyText = None,
    column: NoOthers = None,
    label: Label = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Report the accuracy of a model on other labelled samples: of splits, those for testing.

    A model of several columns finds them by their names.
    """
    from sklearn.base import is_regressor

    from ..persistence import load
    from .output import print_json, print_lines

    estimator = load(model)
    given = Columns(image or (), text or (), column or (), label)
    columns = _columns_of(estimator, given, "MODEL")
    samples = read_source(source, columns, training=False)
    _warn_of_labels(samples.y, columns.classes)
    with _named_in_source(None, _TRAIN_AGAIN):
        predicted = estimator.predict(samples.X)
    score = _score(estimator, samples.y, predicted)
    if as_json:
        print_json(dataclasses.asdict(score))
        return
    print_lines(score)
    if not is_regressor(estimator):
        _print_classes(samples.y, predicted)


def _warn_of_labels(y: np.ndarray, classes: Any) -> None:
    """Warn if no label is a class of the model."""
    if classes is None or getattr(classes, "ndim", 0) != 1 or y.ndim != 1:
        return
    known = set(classes.tolist())
    if not any(isinstance(label, Hashable) and label in known for label in y.tolist()):
        warnings.warn(
            f"No label is a class of the model: they are {_some(y)}, and its classes "
            f"{_some(classes)}. --label takes another column.",
            stacklevel=2,
        )


def _some(names: np.ndarray) -> str:
    different = list(dict.fromkeys(map(str, names[:1000])))
    return f"{', '.join(different[:5])}{', …' if len(different) > 5 else ''}"


def _print_classes(y: np.ndarray, predicted: np.ndarray) -> None:
    from sklearn.metrics import precision_recall_fscore_support

    from .output import print_rows

    names = sorted(set(y.tolist()) | set(predicted.tolist()), key=str)
    precision, recall, _, counts = precision_recall_fscore_support(
        y, predicted, labels=names, zero_division=0
    )
    rows = [
        (name, n, f"{r:.3f}", f"{p:.3f}")
        for name, n, r, p in zip(names, counts, recall, precision, strict=True)
    ]
    print_rows(("class", "samples", "recall", "precision"), rows, right=(1, 2, 3))


def advise(
    source: Source_,
    backbone: Annotated[str | None, typer.Option(help="The pretrained network.")] = None,
    image: OnlyImage = None,
    text: OnlyText = None,
    column: NoOthers = None,
    label: Label = None,
    random_state: Annotated[int, typer.Option(help="Seed.")] = 0,
) -> None:
    """Recommend a strategy for labelled samples, with reasons and times."""
    from ..selection import recommend_strategy
    from .output import note, print_lines

    columns = _only_column(source, image, text, column, label, backbone)
    samples = read_source(source, columns)
    name = _networks([backbone] if backbone else [], samples.read)
    note(f"Comparing strategies on {len(samples.X)} samples.")
    advice = recommend_strategy(samples.X, samples.y, name, random_state=random_state, verbose=1)
    print_lines(*str(advice).splitlines())


def rank(
    source: Source_,
    backbones: Annotated[list[str], typer.Argument(metavar="BACKBONE...", help="Their names.")],
    score: Annotated[str, typer.Option(help="A score of rank_backbones.")] = "probe",
    image: OnlyImage = None,
    text: OnlyText = None,
    column: NoOthers = None,
    label: Label = None,
) -> None:
    """Rank pretrained networks for labelled samples, without training them."""
    from ..selection import rank_backbones
    from .output import print_rows

    samples = read_source(source, _only_column(source, image, text, column, label))
    ranking = rank_backbones(samples.X, samples.y, backbones, score=score, random_state=0)
    rows = [
        (name, f"{value:.3f}", f"{error:.3f}", n, f"{seconds:.1f}")
        for name, value, error, n, seconds in zip(
            ranking.names,
            ranking.scores,
            ranking.errors,
            ranking.n_features,
            ranking.seconds,
            strict=True,
        )
    ]
    print_rows(
        ("backbone", score, "standard error", "features", "seconds"), rows, right=(1, 2, 3, 4)
    )


def report(
    source: Source_,
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write.")] = Path(
        "report.html"
    ),
    model: Annotated[
        Path | None, typer.Option(help="A saved model. Without, a blend is fitted.")
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="The saved model has not seen these samples.")
    ] = False,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Folds of the cross-validation.", show_default="5")
    ] = None,
    backbone: Networks = None,
    memory: Annotated[
        Path | None, typer.Option(help="A folder in which features are kept for another run.")
    ] = None,
    image: Images = None,
    text: Texts = None,
    column: Others = None,
    label: Label = None,
) -> None:
    """Write a page about data and a model: errors, label issues, duplicates, scores, costs."""
    from ..data import NumericTarget, find_target
    from ..features import is_frozen
    from ..inspection import report as write_report
    from ..persistence import load
    from .output import note, print_lines

    if held_out and model is None:
        raise ValueError("--held-out needs a saved model: give --model FILE.")
    if held_out:
        refuse_together("--held-out", {"--folds": folds}, "the model is not fitted again")
    if model is not None:
        networks = {"--backbone": backbone, "--memory": memory}
        refuse_together("--model", networks, "the file of a model has its network")
    folds = folds or _FOLDS
    columns = Columns(image or (), text or (), column or (), label)
    estimator = None if model is None else load(model)
    if estimator is not None:
        if not held_out and is_frozen(estimator):
            raise ValueError(f"--model {model} is frozen, and no fold fits it: give --held-out.")
        columns = _columns_of(estimator, columns, "--model")
    samples = read_source(source, columns, training=not held_out)
    if held_out:
        _warn_of_labels(samples.y, columns.classes)
    if estimator is None:
        make = _regressor if find_target(samples.y) is NumericTarget else _classifier
        networks = _networks(backbone or [], samples.read)
        estimator = make(networks, "auto", None, {"memory": memory, "random_state": 0})
    how = "as it is" if held_out else f"in {folds} folds"
    note(f"Predicting {len(samples.X)} samples {how}.")
    page = write_report(
        estimator,
        samples.X,
        samples.y,
        output,
        cv=None if held_out else folds,
        file="model.skt" if model is None else model.name,
    )
    best = page.scores[0]
    print_lines(
        f"{best.name} {best.value:.3f} ({best.low:.3f} to {best.high:.3f})", f"wrote {output}"
    )


# -- sources of labelled samples -------------------------------------------------------------------

_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "valid", "validation", "dev")


@dataclasses.dataclass
class Columns:
    """The columns of a table that are used; those of images and labels have usual names.

    ``kinds`` are those of a saved model of several columns, and ``classes`` those of a classifier.
    """

    image: Sequence[str] = ()
    text: Sequence[str] = ()
    other: Sequence[str] = ()
    label: str | None = None
    kinds: Mapping[str, str] = dataclasses.field(default_factory=dict)
    classes: Any = None

    @property
    def are_table(self) -> bool:
        """Whether a sample has several columns."""
        return bool(self.kinds or self.other) or len(self.image) + len(self.text) > 1

    @property
    def by_option(self) -> dict[str, list[str]]:
        """The columns of samples by the options that give them."""
        given = {"--image": self.image, "--text": self.text, "--column": self.other}
        return {option: list(names) for option, names in given.items()}

    @property
    def as_options(self) -> list[str]:
        """The columns of samples as they are given, such as ``--image photo``."""
        options = self.by_option.items()
        return [f"{option} {shlex.quote(name)}" for option, names in options for name in names]


def refuse_together(option: str, others: Mapping[str, Any], why: str = "") -> None:
    """Refuse options that have no effect beside one that is given.

    ``others`` are the values of the others by name: None, False or empty where they are not given.
    ``why`` is the end of a sentence.
    """
    for name, value in others.items():
        is_empty = isinstance(value, list | tuple) and not value
        if value is not None and value is not False and not is_empty:
            reason = f": {why}" if why else ""
            raise typer.BadParameter(f"{option} and {name} exclude each other{reason}.")


def _only_column(
    source: Path,
    image: list[str] | None,
    text: list[str] | None,
    column: list[str] | None,
    label: str | None,
    backbone: str | None = None,
) -> Columns:
    """Return the column to read; of several, show the command that takes them."""
    columns = Columns(image or (), text or (), column or (), label)
    _refuse_repeated(columns.by_option | {"--label": [label] if label else []})
    if columns.other and not columns.image and not columns.text:
        raise typer.BadParameter(
            f"--column {columns.other[0]}: one column of images or texts is read. Give it by "
            "--image or --text."
        )
    if columns.are_table:
        given = columns.as_options
        more = ["--label", shlex.quote(label)] if label else []
        more += ["--backbone", shlex.quote(backbone)] if backbone else []
        line = ["sktransfer train", shlex.quote(str(source)), "-o model.skt", *given, *more]
        raise typer.BadParameter(
            f"one column of images or texts is read, and there are {', '.join(given)}. To use "
            f"them together: {' '.join(line)}"
        )
    return columns


def _columns_of(estimator: Any, columns: Columns, option: str) -> Columns:
    """Return the columns that a saved model of a table reads; others are those that are given.

    Labels are to have the type of its classes. The option that names the model is for messages.
    """
    from ..data import CATEGORY, NUMBER, get_modality
    from ..features import find_network

    kinds = getattr(find_network(estimator).step, "column_kinds_", None)
    classes = getattr(estimator, "classes_", None)
    if kinds is None:
        refuse_together(option, {"--column": columns.other}, "the model reads one column")
        if columns.are_table:
            given = ", ".join(columns.as_options)
            raise typer.BadParameter(f"the model reads one column, and there are {given}.")
        return dataclasses.replace(columns, classes=classes)
    refuse_together(option, columns.by_option, "the file of a model has its columns")
    other = [name for name, kind in kinds.items() if kind in (NUMBER, CATEGORY)]
    read = [name for name in kinds if name not in other]
    image = [name for name in read if get_modality(kinds[name]).takes_files]
    text = [name for name in read if name not in image]
    return Columns(image, text, other, columns.label, kinds, classes)


@dataclasses.dataclass
class Source:
    """Samples with labels, and those that the source itself keeps for testing.

    ``X`` is a list or, of several columns, a data frame; ``read`` tells of each column that a
    network reads whether it has images or texts, and its only key for a list is None. ``rows``
    are positions of samples that were selected.
    """

    X: Any
    y: np.ndarray
    read: dict[Any, str]
    X_test: Any = None
    y_test: np.ndarray | None = None
    rows: np.ndarray | None = None
    rows_test: np.ndarray | None = None


def read_source(path: Path, columns: Columns, *, training: bool = True) -> Source:
    """Read a folder with a sub-folder for each class, or a table.

    Of a folder with splits, those for training and for testing are returned, or, if not
    ``training``, the one for testing alone. An error if the path does not exist or has no labels.
    """
    from ..data import list_splits

    if not path.exists():
        raise FileNotFoundError(f"{str(path)!r} does not exist.")
    if not path.is_dir():
        return _read_table(path, columns)
    train, test = (_first(list_splits(path), names) for names in (_TRAIN, _TEST))
    read = {None: "image"}
    if not training:
        return Source(*_read_folder(path, test or train), read)
    first = _read_folder(path, train or test)
    return Source(*first, read, *(_read_folder(path, test) if train and test else ()))


def _first(splits: list[str], names: tuple[str, ...]) -> str | None:
    """Return the split that has the first of these names."""
    by_name = {split.lower(): split for split in splits}
    return next((by_name[name] for name in names if name in by_name), None)


def _read_folder(path: Path, split: str | None) -> tuple[list, np.ndarray]:
    from ..data import load_image_folder

    return load_image_folder(path, split=split, on_error="skip")


def _read_table(path: Path, columns: Columns) -> Source:
    from ..data import (
        LABEL_COLUMNS,
        as_texts,
        booleans_as_numbers,
        find_images,
        find_labels,
        image_cells,
        open_columns,
    )

    texts = [*columns.image, *columns.text]
    if _are_texts(columns.classes):
        texts += [columns.label] if columns.label else LABEL_COLUMNS
    frame, folder = open_columns(path, columns.kinds, texts)
    asked: dict[str, Sequence[str]] = {"--label": [columns.label] if columns.label else []}
    if columns.kinds:
        asked["the model's"] = list(columns.kinds)
    else:
        asked |= columns.by_option
    for option, names in asked.items():
        for name in names:
            if name not in frame.columns:
                raise ValueError(
                    f"{option} {name}: the columns are {list(frame.columns)[:20]}. The first row "
                    "of a CSV or TSV file must be names of columns, such as text,label."
                )
    images = list(columns.image)
    if not images and not columns.text:
        try:
            images = [find_images(frame)]
        except ValueError:
            raise ValueError(
                f"No column of images among {list(frame.columns)[:20]}: give the column that a "
                "network reads by --image or --text. The first row of a CSV or TSV file must be "
                "names of columns, such as image,label."
            ) from None
        asked["--image"] = images
    label = find_labels(frame, columns.label)
    asked["--label"] = [label] if label else []
    _refuse_repeated(asked)
    if label is None:
        raise ValueError(f"{str(path)!r} has no column of labels: give --label.")
    y = _as_classes(frame[label], columns.classes)
    cells = {name: image_cells(frame[name], folder) for name in images}
    if not columns.kinds:
        cells |= {name: booleans_as_numbers(frame[name]) for name in columns.other}
    read = dict.fromkeys(images, "image") | dict.fromkeys(columns.text, "text")
    if columns.are_table:
        return Source(frame.assign(**cells)[[*read, *columns.other]], y, read)
    ((name, kind),) = read.items()
    return Source(cells[name] if name in cells else as_texts(frame[name]), y, {None: kind})


def _refuse_repeated(asked: Mapping[str, Sequence[str]]) -> None:
    """Refuse columns that are given twice."""
    seen: dict[str, str] = {}
    for option, names in asked.items():
        for name in names:
            if name in seen:
                raise ValueError(
                    f"{seen[name]} {name}, {option} {name}: the column is given twice."
                )
            seen[name] = option


def _are_texts(classes: Any) -> bool:
    return classes is not None and all(isinstance(name, str) for name in classes)


def _as_classes(labels: Any, classes: Any) -> np.ndarray:
    """Return a column of labels with the type of the classes of a model, if they are given."""
    import numpy as np

    from ..data import BOOLEANS, as_numbers, number_error

    if _are_texts(classes):
        names = {name.lower(): name for name in classes}
        are_booleans = len(classes) == 2 and names.keys() == BOOLEANS.keys()

        def text(label: Any) -> str:
            # A boolean is "true" in one CSV file, "True" in another.
            is_boolean = are_booleans or isinstance(label, bool | np.bool_)
            return names.get(str(label).lower(), str(label)) if is_boolean else str(label)

        return labels.map(text, na_action="ignore").to_numpy(object)
    kind = getattr(getattr(classes, "dtype", None), "kind", "")
    if not kind or kind not in "biuf":
        return labels.to_numpy()
    labels = as_numbers(labels)
    for i, cell in enumerate(labels):
        if why := number_error(cell):
            raise ValueError(
                f"--label {labels.name}: {why}, in row {i}, and the classes of the model are "
                f"{classes.tolist()[:20]}."
            )
    is_boolean = kind == "b" and not labels.isna().any()
    return labels.to_numpy(bool if is_boolean else None)
