"""Find and plot which parts of a sample a prediction depends on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from sklearn.base import is_regressor

from ..data import Modality, TableSamples
from ..features import fitted_network
from ..selection import new_axes
from .displays import nested_axes
from .gradients import FromInputs, FromMaps, NoGradientsError, as_map, scores_of
from .label_issues import label_probabilities
from .page import Shown, picture_uri

METHODS = ("auto", "gradcam", "integrated_gradients", "occlusion")
_BATCH = 8  # changed samples in one call of the estimator: photographs may be large
_COLUMNS = 4  # of a plot
_SMOOTHED = 0.02  # of the height, for values of pixels
_LINE = 34  # characters of a text in a line
_POINTS = 17  # from one line to the next


@torch.inference_mode(False)
@torch.enable_grad()
def saliency(
    estimator: Any, X: Any, *, target: Any = None, method: str = "auto", n_steps: int = 32
) -> Saliency:
    """Find which parts of samples a prediction depends on, with captum.

    Parameters
    ----------
    estimator : estimator of sktransfer, or a pipeline with one
        Fitted.
    X : list, array, Series, DataFrame column or table of n_samples samples
    target : label, list of n_samples labels or None, default=None
        What is explained. None is the prediction; for several regression targets, the first.
    method : {"auto", "gradcam", "integrated_gradients", "occlusion"}, default="auto"
        "gradcam" multiplies activations and gradients at the last layers that have positions,
        "integrated_gradients" pixels and gradients. Both need a network of images, and a linear
        model on its features. "occlusion" leaves out parts of the samples, one after the other,
        words of a text, cells of an image or columns of a row, and needs the predictions only.
        "auto" is "gradcam" where it is possible, and "occlusion" elsewhere.
    n_steps : int, default=32
        Points of each integral.

    Returns
    -------
    Saliency

    Raises
    ------
    ImportError
        Without captum.
    TypeError
        If the method needs gradients and the estimator has none, or samples have no parts.
    ValueError
        For an unknown method or label, or unreadable samples.

    Notes
    -----
    "gradcam" is the sum over channels of activation times gradient at each position [1]_, which
    equals Grad-CAM [2]_, up to a factor, where the mean over positions follows, and is right for
    other poolings too. A blend reads several layers: the values of each are those at the last map
    up to it, and all are added. "integrated_gradients" begins at the mean colour of the training
    data of the weights [3]_; the values of a sample add up to the difference of the two scores.

    The scores are logits, or logarithms of odds for blends and for "occlusion", or numbers.
    Networks run on the CPU.

    References
    ----------
    .. [1] Draelos, Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of
       convolutional neural networks". https://arxiv.org/abs/2011.08891
    .. [2] Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
       Localization", ICCV 2017. https://arxiv.org/abs/1610.02391
    .. [3] Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks", ICML 2017.
       https://arxiv.org/abs/1703.01365

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sktransfer import PretrainedClassifier
    >>> from sktransfer.inspection import saliency
    >>> photos = load_sample_images().images
    >>> found = saliency(PretrainedClassifier().fit(photos), photos)
    >>> found.targets, found.maps[0].shape
    (['palace', 'daisy'], (224, 224))
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}: one of {', '.join(METHODS)}.")
    network = fitted_network(estimator)
    samples, model = network.check(X), network.on_samples()
    labels = _labels_of(model)
    columns = _explained_columns(model, samples, labels, target)
    spans: list[Any] = [None] * len(samples)
    if method == "auto":
        try:
            (maps, shown), method = _gradcam(model, samples, columns), "gradcam"
        except NoGradientsError:
            method = "occlusion"
            maps, shown, spans = _occlusion(model, samples, columns, network.modality)
    elif method == "gradcam":
        maps, shown = _gradcam(model, samples, columns)
    elif method == "integrated_gradients":
        maps, shown = _integrated_gradients(model, samples, columns, n_steps)
    else:
        maps, shown, spans = _occlusion(model, samples, columns, network.modality)
    targets = columns if labels is None else [labels[i] for i in columns]
    return Saliency(maps, targets, shown, spans, method)


@dataclasses.dataclass(frozen=True, repr=False)
class Saliency:
    """How much each part of some samples speaks for a label or a larger number.

    Parameters
    ----------
    maps : list of ndarray
        For each sample, the values of its parts, positive where they speak for it: of shape
        ``(height, width)`` for an image, ``(n_words,)`` for a text, ``(n_columns,)`` for a row.
    targets : list
        The label that is explained for each sample, or the position of a regression target.
    shown : list
        What the values belong to: a picture ``(height, width, 3)``, uint8; a text; an array. Of a
        row, a text with a line for each column.
    spans : list
        For a text, where each word begins and ends, or each line of a row; None otherwise.
    method : str
        "gradcam", "integrated_gradients" or "occlusion".
    """

    maps: list[Any]
    targets: list[Any]
    shown: list[Any]
    spans: list[Any]
    method: str

    def __len__(self) -> int:
        return len(self.maps)

    def words(self, i: int) -> list[tuple[str, float]]:
        """Return the words of a text, or the lines of a row, with their values, in order.

        Parameters
        ----------
        i : int
            The position of the text.

        Returns
        -------
        list of (str, float)
        """
        pairs = zip(self.spans[i], self.maps[i], strict=True)
        return [(self.shown[i][start:stop], float(value)) for (start, stop), value in pairs]

    def __repr__(self) -> str:
        return f"<Saliency of {len(self)} samples, {self.method}>"


def _labels_of(model) -> list[Any] | None:
    """Return the labels of the columns of scores; None for numbers."""
    classes = getattr(model, "classes_", None)
    if isinstance(classes, list):  # of an estimator for each of several labels
        return list(range(len(classes)))
    return None if classes is None else np.asarray(classes).tolist()


def _explained_columns(model, samples: Sequence, labels: list[Any] | None, target) -> list[int]:
    """Return the column of the scores that is explained of each sample."""
    n = len(samples)
    if target is None and labels is None:
        return [0] * n
    if target is None:
        return np.argmax(_raw_scores(model, samples), axis=1).tolist()
    targets = [target] * n if np.ndim(target) == 0 else list(target)
    if len(targets) != n:
        raise ValueError(f"target has {len(targets)} labels for {n} samples.")
    if labels is None:
        return [int(column) for column in targets]
    for label in targets:
        if label not in labels:
            raise ValueError(f"target={label!r} is no label; there are {labels}.")
    return [labels.index(label) for label in targets]


def _raw_scores(model, samples) -> np.ndarray:
    """Return logarithms of odds, scores or numbers, as columns."""
    if is_regressor(model):
        return model.predict(samples).reshape(len(samples), -1)
    if hasattr(model, "predict_proba"):
        p = np.clip(label_probabilities(model, samples), 1e-12, 1 - 1e-12)
        return np.log(p) - np.log1p(-p)
    scores = model.decision_function(samples)
    return scores if scores.ndim == 2 else np.column_stack([-scores, scores])


def _gradcam(model, samples: Sequence, columns: list[int]) -> tuple[list, list]:
    """Multiply activations and gradients; return maps and pictures."""
    captum, scores = _captum(), scores_of(model)
    module: FromMaps | None = None
    maps, shown = [], []
    for sample, column in zip(samples, columns, strict=True):
        inputs = _inputs(sample, FromInputs(scores).backbones)
        module = FromMaps(scores, inputs) if module is None else module
        attribute = captum.LayerGradientXActivation(module, list(module.markers)).attribute
        values = attribute(inputs, target=column)
        parts = [as_map(v, o.backbone) for v, o in zip(values, scores.outputs, strict=True)]
        shown.append(_picture(inputs[-1], module.backbones[-1]))
        maps.append(_together(parts, shown[-1].shape[:2]))
    return maps, shown


def _integrated_gradients(
    model, samples: Sequence, columns: list[int], n_steps: int
) -> tuple[list, list]:
    """Multiply pixels and gradients; return maps and pictures."""
    captum, module = _captum(), FromInputs(scores_of(model))
    if any(backbone.modality.has_tokens for backbone in module.backbones):
        raise NoGradientsError("Texts have no gradients: give method='occlusion'.")
    for backbone in module.backbones:
        if backbone.runtime is not None:
            raise NoGradientsError(
                f"Backbone {backbone.name!r} runs in {backbone.runtime}, which gives no gradients: "
                "give method='occlusion'."
            )
    attribute = captum.IntegratedGradients(module).attribute
    maps, shown = [], []
    for sample, column in zip(samples, columns, strict=True):
        inputs = _inputs(sample, module.backbones)
        values = attribute(inputs, target=column, n_steps=n_steps, internal_batch_size=8)
        shown.append(_picture(inputs[-1], module.backbones[-1]))
        maps.append(_together([part.sum(1) for part in values], shown[-1].shape[:2]))
    return maps, shown


def _occlusion(
    model, samples: Sequence, columns: list[int], modality: Modality
) -> tuple[list, list, list]:
    """Leave out parts one after the other; return what the score loses, what is shown and spans."""
    captum = _captum()
    maps, shown, spans = [], [], []
    for sample, column in zip(samples, columns, strict=True):
        parts = modality.parts(sample)
        if parts is None:
            raise TypeError(f"{modality.noun} have no parts that can be left out.")

        def score(kept: torch.Tensor, parts: Any = parts, column: int = column) -> torch.Tensor:
            changed: Any = [parts.keep(each) for each in kept.numpy() > 0.5]
            if isinstance(samples, np.ndarray):
                changed = np.stack(changed)
            elif isinstance(samples, TableSamples):
                changed = TableSamples.joined(changed)
            return torch.as_tensor(_raw_scores(model, changed)[:, column])

        if 0 in parts.shape:
            maps.append(np.zeros(parts.shape))
        else:
            everything = torch.ones(1, *parts.shape, dtype=torch.float64)
            ablation = captum.FeatureAblation(score)
            lost = ablation.attribute(everything, perturbations_per_eval=_BATCH)
            maps.append(lost[0].numpy())
        shown.append(parts.shown)
        spans.append(parts.spans)
    return maps, shown, spans


def _inputs(sample, backbones) -> tuple[torch.Tensor, ...]:
    """Return a sample preprocessed for each backbone, in batches of one."""
    content = backbones[0].modality.read(sample)
    return tuple(backbone.open(content)[None] for backbone in backbones)


def _together(parts: list[torch.Tensor], shape: tuple[int, ...]) -> np.ndarray:
    """Add maps of one sample, each enlarged to the shape of a picture and with the same sum."""
    total = torch.zeros(shape, dtype=torch.float64)
    for part in parts:
        large = torch.nn.functional.interpolate(
            part[:, None].double(), shape, mode="bilinear", align_corners=False
        )[0, 0]
        total += large * (part[0].numel() / large.numel())
    return total.detach().numpy()


def _picture(x: torch.Tensor, backbone) -> np.ndarray:
    """Return what a network is given as a picture ``(height, width, 3)``, uint8.

    Of more than three channels, these are the first three; of two, the first one.
    """
    x = x[0].double()
    mean, std = (getattr(backbone.preprocess, name, None) for name in ("mean", "std"))
    if x.ndim != 3:
        raise NoGradientsError("What the network is given is no image.")
    if mean is None or std is None:
        x = (x - x.min()) / (x.max() - x.min()).clamp_min(1e-12)
    else:
        x = x * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    x = x[:3] if len(x) > 2 else x[:1]
    x = (x.clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1)
    return x.permute(1, 2, 0).numpy().copy()


def _captum() -> Any:
    try:
        from captum import attr
    except ImportError:
        raise ImportError(
            "Saliency is computed with captum: pip install 'sktransfer[inspect]'"
        ) from None
    return attr


# -- plots -----------------------------------------------------------------------------------------


class SaliencyDisplay:
    """Plot which parts of samples a prediction depends on: red speaks for it, blue against it.

    Parameters
    ----------
    saliency : Saliency

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes
        One for each sample.
    figure_ : matplotlib Figure

    See Also
    --------
    saliency : The values alone.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from sklearn.datasets import load_sample_images
    >>> from sktransfer import PretrainedClassifier
    >>> from sktransfer.inspection import SaliencyDisplay
    >>> photos = load_sample_images().images
    >>> display = SaliencyDisplay.from_estimator(PretrainedClassifier().fit(photos), photos)
    >>> [ax.get_title() for ax in display.ax_]
    ['palace', 'daisy']
    """

    ax_: np.ndarray
    figure_: Any

    def __init__(self, saliency: Any):
        self.saliency = saliency

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        target: Any = None,
        method: str = "auto",
        n_steps: int = 32,
        ax: Any = None,
    ) -> Self:
        """Compute the values of samples and plot them.

        Parameters
        ----------
        estimator : estimator of sktransfer, or a pipeline with one
            Fitted.
        X : list, array, Series or DataFrame column of n_samples samples
        target : label, list of n_samples labels or None, default=None
            As in :func:`saliency`, like the parameters below.
        method : {"auto", "gradcam", "integrated_gradients", "occlusion"}, default="auto"
        n_steps : int, default=32
        ax : matplotlib Axes, default=None
            In a grid of axes; its place is divided.

        Returns
        -------
        SaliencyDisplay
        """
        maps = saliency(estimator, X, target=target, method=method, n_steps=n_steps)
        return cls(maps).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Plot the samples and their saliency.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            In a grid of axes; its place is divided.

        Returns
        -------
        self
        """
        n = len(self.saliency)
        n_columns = min(n, _COLUMNS)
        n_rows = math.ceil(n / n_columns)
        ax = new_axes(ax, self._height() * n_rows, 2.6 * max(n_columns, 2))
        _, cells = nested_axes(ax, n_rows, n_columns)
        self.ax_ = np.array([make() for make in cells.ravel()[:n]], dtype=object)
        for i, cell in enumerate(self.ax_):
            self._plot_sample(cell, i)
        self.figure_ = ax.figure
        return self

    def _height(self) -> float:
        """Return the height of a row in inches; for texts, that of the longest."""
        maps = self.saliency
        if any(spans is None for spans in maps.spans):
            return 2.6
        n_lines = max(len(_lines([word for word, _ in maps.words(i)])) for i in range(len(maps)))
        return 0.6 + n_lines * _POINTS / 72

    def _plot_sample(self, ax, i: int) -> None:
        ax.set_axis_off()
        where = "center" if self.saliency.spans[i] is None else "left"
        title = str(self.saliency.targets[i])
        ax.set_title(title, loc=where, fontsize="medium", parse_math=False)
        if self.saliency.spans[i] is not None:
            _plot_words(ax, self.saliency, i)
        elif np.ndim(self.saliency.shown[i]) == 3:
            ax.imshow(overlay(self.saliency, i))
        else:
            values = self.saliency.maps[i]
            ax.set_axis_on()
            ax.bar(range(values.size), values.ravel())


def _lines(words: list[str]) -> list[list[int]]:
    """Divide words into lines; return their positions."""
    lines: list[list[int]] = [[]]
    used = 0
    for i, word in enumerate(words):
        used += len(word) + 1
        if used > _LINE and lines[-1]:
            lines.append([])
            used = len(word) + 1
        lines[-1].append(i)
    return lines


def _plot_words(ax, saliency: Saliency, i: int) -> None:
    """Draw the words of a text line by line, each beside the one before."""
    words, values = [word for word, _ in saliency.words(i)], scaled_values(saliency.maps[i])
    for number, line in enumerate(_lines(words)):
        left: Any = None
        for k in line:
            box = {"boxstyle": "square,pad=0.1", "lw": 0, "alpha": 0.7 * abs(values[k])}
            box["facecolor"] = "tab:red" if values[k] > 0 else "tab:blue"
            where: dict = {"xy": (1, 0), "xycoords": left, "xytext": (4, 0)}
            if left is None:  # the first of its line
                where = {"xy": (0, 1), "xycoords": "axes fraction"}
                where["xytext"] = (0, -_POINTS * (number + 1))
            left = ax.annotate(
                words[k],
                **where,
                textcoords="offset points",
                va="bottom",
                bbox=box,
                fontsize="small",
                parse_math=False,
            )


def overlay(saliency: Saliency, i: int) -> np.ndarray:
    """Return the picture of a sample with its values as colours: red for, blue against."""
    picture = np.asarray(saliency.shown[i], dtype=float)
    picture = picture / 255 if saliency.shown[i].dtype == np.uint8 else picture
    values = saliency.maps[i]
    if saliency.method == "integrated_gradients":  # single pixels change sign between neighbours
        values = gaussian_filter(values, _SMOOTHED * values.shape[0])
    values = scaled_values(values)
    rows, columns = (
        np.arange(side) * cells // side
        for side, cells in zip(picture.shape[:2], values.shape, strict=True)
    )
    values = values[np.ix_(rows, columns)][..., None]
    grey = picture.mean(-1, keepdims=True) * 0.8 + 0.1
    colour = np.where(values > 0, [0.85, 0.1, 0.1], [0.1, 0.3, 0.85])
    mixed = grey + np.abs(values) * 0.75 * (colour - grey)
    return (255 * mixed.clip(0, 1)).round().astype(np.uint8)


def scaled_values(values: np.ndarray) -> np.ndarray:
    """Return values divided by the largest of their sizes, without outliers: between -1 and 1."""
    size = (
        np.quantile(np.abs(values), 0.995) if values.size > 500 else np.abs(values).max(initial=0)
    )
    return np.clip(values / size, -1, 1) if size > 0 else np.zeros(values.shape)


def show_saliency(saliency: Saliency, i: int) -> Shown:
    """Return the saliency of the sample at a position for a page."""
    text, spans = saliency.shown[i], saliency.spans[i]
    if spans is None:
        return Shown(picture_uri(overlay(saliency, i))) if np.ndim(text) == 3 else Shown()
    at, words = 0, []
    for (start, stop), value in zip(spans, scaled_values(saliency.maps[i]), strict=True):
        words += [(text[at:start], 0.0), (text[start:stop], float(value))]
        at = stop
    return Shown(words=[*words, (text[at:], 0.0)])
