"""Model cards: what a fitted estimator is, what it was fitted to, and under which licence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .._compat.sklearn import num_samples
from .._printable import printable
from ..backbones import Backbone
from ..backbones.zero_shot import PromptedBackbone
from ..data import package_versions
from ..data.types import Samples
from ..features import find_network
from ..finetuning.tuned import TunedBackbone

_SHOWN = 50  # classes that are listed
_NOT_STATED = "not stated by the source of the weights"
_MARKUP = re.compile(r"[\\`*\[\]<>&|]")  # of Markdown, and of HTML in it


def model_card(
    estimator: Any,
    *,
    X: Samples | None = None,
    y: ArrayLike | None = None,
    scores: Mapping[str, float] | None = None,
    data: str | None = None,
    licence: str | None = None,
) -> Any:
    """Describe a fitted estimator for those who are given it.

    Parameters
    ----------
    estimator : estimator
        Fitted: of sktransfer, or a ``Pipeline`` with one of its steps.
    X : sequence of samples, default=None
        Those of ``fit``, of which the number is given.
    y : array-like of shape (n_samples,), default=None
        Their labels, of which the counts are given.
    scores : mapping of str to float, default=None
        Measured on samples that were not used in ``fit``, such as ``{"accuracy": 0.93}``.
    data : str, default=None
        Where the samples are from.
    licence : str, default=None
        Of the weights; None takes what the source of published weights states, with the place:
        the metadata of a package or its file LICENSE, or the model card of an encoder.

    Returns
    -------
    skops.card.Card
        ``card.save("README.md")`` writes it, ``card.add(**{"Section/Part": "text"})`` adds to it.

    Raises
    ------
    ImportError
        If skops is not installed.

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sktransfer import FineTunedClassifier, model_card
    >>> photos = load_sample_images().images
    >>> model = FineTunedClassifier(image_size=64, max_epochs=1).fit(photos, ["house", "flower"])
    >>> card = model_card(model, X=photos, y=["house", "flower"], scores={"accuracy": 1.0})
    >>> print(card.select("Network").content.splitlines()[0])
    - Name: efficientnet_lite0
    """
    try:
        from skops.card import Card
    except ImportError:
        raise ImportError("model_card requires skops: pip install 'sktransfer[files]'") from None
    step = find_network(estimator).step
    backbones = list(map(_original, getattr(step, "backbones_", [step.backbone_])))
    card = Card(estimator, model_diagram=False, template=None)
    sections = {
        "Model": f"{type(estimator).__name__}, fitted with {_pairs(package_versions())}.",
        "Model/Classes": _classes(estimator),
        "Model/Parameters": _fenced(f"{estimator!r:.2000}"),
        "Network": "\n\n".join(_network(backbone, licence) for backbone in backbones),
        "Data": "\n".join(_data(X, y, data)),
        "Scores": "Not given.",
        "Use": _use(step, backbones[0]),
    }
    card.add(**{name: text for name, text in sections.items() if text})
    if scores:
        card.add(Scores="Measured on samples that were not used in `fit`.")
        card.add_metrics("Scores/Values", **{k: float(v) for k, v in scores.items()})
    return card


def _original(backbone: Backbone) -> Backbone:
    """Return the pretrained network that a tuned one, or one with prompts, was made from."""
    if isinstance(backbone, TunedBackbone):
        return _original(backbone.network.origin)
    return _original(backbone.origin) if isinstance(backbone, PromptedBackbone) else backbone


def _pairs(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _plain(value: object) -> str:
    """Write a value of a file or of the data such that no page takes it as markup or HTML."""
    return _MARKUP.sub(r"\\\g<0>", printable(str(value)))


def _fenced(text: str) -> str:
    """Write a block of code, between marks that are longer than any in it."""
    marks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{marks}\n{printable(text, keep=chr(10))}\n{marks}"


def _classes(estimator: Any) -> str:
    classes = getattr(estimator, "classes_", None)
    if classes is None:
        return ""
    more = f" and {len(classes) - _SHOWN} more" if len(classes) > _SHOWN else ""
    return f"{len(classes)}: {', '.join(map(_plain, classes[:_SHOWN]))}{more}"


def _network(backbone: Backbone, licence: str | None) -> str:
    name, weights = backbone.loaded_by or (backbone.name, "given by the user")
    n = sum(tensor.numel() for tensor in backbone.module.parameters())
    lines = {
        "Name": _plain(name),
        "Weights": _plain(weights),
        "Licence of the weights": licence or _plain(backbone.licence or _NOT_STATED),
        "Parameters": f"{n:,}",
        "Samples": backbone.modality.noun,
        "Preprocessing": _plain(repr(backbone.preprocess)),
        "Fingerprint": f"`{backbone.fingerprint}`",
    }
    return "\n".join(f"- {key}: {value}" for key, value in lines.items())


def _data(X, y, data: str | None) -> list[str]:
    """Describe the samples of ``fit``."""
    lines = [data or "Not described."]
    if X is not None:
        lines.append(f"\n{num_samples(X):,} samples.")
    values = None if y is None else np.asarray(y)
    if values is not None and values.ndim == 1 and values.dtype.kind not in "fc":
        labels, counts = np.unique(values, return_counts=True)
        rows = zip(labels[:_SHOWN], counts[:_SHOWN], strict=True)
        lines += ["\n| label | samples |", "|---|---|"]
        lines += [f"| {_plain(label)} | {count:,} |" for label, count in rows]
    return lines


def _use(step: Any, backbone: Backbone) -> str:
    takes = f"The network takes {backbone.modality.noun}"
    if kinds := getattr(step, "column_kinds_", None):
        takes = "The model takes tables with the columns " + ", ".join(
            f"{_plain(name)} ({kind})" for name, kind in kinds.items()
        )
    return (
        f"{takes}. Load the model, and give it samples in any form that sktransfer takes:\n\n"
        '```python\nimport sktransfer\nmodel = sktransfer.load("model.skt")\nmodel.predict(X)\n```'
    )
