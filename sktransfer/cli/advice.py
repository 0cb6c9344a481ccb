"""The commands advise and rank."""

from __future__ import annotations

from typing import Annotated

import typer

from ..selection import rank_backbones, recommend_strategy
from .output import note, print_rows
from .sources import Columns, read_source
from .training import Image, Label, Source_, Text

__all__ = ["advise", "rank"]


def advise(
    source: Source_,
    backbone: Annotated[str | None, typer.Option(help="The pretrained network.")] = None,
    image: Image = None,
    text: Text = None,
    label: Label = None,
    random_state: Annotated[int, typer.Option(help="Seed.")] = 0,
) -> None:
    """Recommend a strategy for labelled samples, with reasons and times."""
    samples = read_source(source, Columns(image, text, label))
    name = backbone or ("efficientnet_lite0" if text is None else "e5_small")
    note(f"Comparing strategies on {len(samples.X)} samples.")
    print(recommend_strategy(samples.X, samples.y, name, random_state=random_state, verbose=1))


def rank(
    source: Source_,
    backbones: Annotated[list[str], typer.Argument(metavar="BACKBONE...", help="Their names.")],
    score: Annotated[str, typer.Option(help="A score of rank_backbones.")] = "probe",
    image: Image = None,
    text: Text = None,
    label: Label = None,
) -> None:
    """Rank pretrained networks for labelled samples, without training them."""
    samples = read_source(source, Columns(image, text, label))
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
