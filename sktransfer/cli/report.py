"""The command that writes a page about data and a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..data import find_task
from ..inspection import report as write_report
from ..persistence import load
from ..selection import TransferClassifier, TransferRegressor
from .output import note
from .sources import Columns, read_source
from .training import Image, Label, Source_, Text

__all__ = ["report"]

_MODEL_FOR = {"classification": TransferClassifier, "regression": TransferRegressor}


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
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5,
    backbone: Annotated[str | None, typer.Option(help="The pretrained network of a blend.")] = None,
    memory: Annotated[
        Path | None, typer.Option(help="A folder in which features are kept for another run.")
    ] = None,
    image: Image = None,
    text: Text = None,
    label: Label = None,
) -> None:
    """Write a page about data and a model: errors, label issues, duplicates, scores, costs."""
    if held_out and model is None:
        raise ValueError("--held-out needs a saved model: give --model FILE.")
    samples = read_source(source, Columns(image, text, label), training=not held_out)
    backbone = backbone or ("efficientnet_lite0" if text is None else "e5_small")
    estimator = _blend(samples.y, backbone, memory) if model is None else load(model)
    how = "as it is" if held_out else f"in {folds} folds"
    note(f"Predicting {len(samples.X)} samples {how}.")
    made = write_report(
        estimator,
        samples.X,
        samples.y,
        output,
        cv=None if held_out else folds,
        file="model.skt" if model is None else model.name,
    )
    best = made.scores[0]
    print(f"{best.name} {best.value:.3f} ({best.low:.3f} to {best.high:.3f})")
    print(f"wrote {output}")


def _blend(y, backbone: str, memory: Path | None):
    """Return a blend that is not fitted."""
    return _MODEL_FOR[find_task(y, "auto")](backbone, memory=memory, random_state=0)
