"""Find which parts of a sample a prediction depends on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import is_regressor

from ..data import Modality
from ..features import find_network, open_sample
from .networks import FromInputs, FromMaps, as_map
from .scores import NoGradientsError, columns_of, label_probabilities, scores_of

__all__ = ["METHODS", "Saliency", "saliency"]

METHODS = ("auto", "gradcam", "integrated_gradients", "occlusion")
_BATCH = 8  # changed samples in one call of the estimator: photographs may be large


@dataclasses.dataclass(frozen=True, repr=False)
class Saliency:
    """How much each part of some samples speaks for a label or a larger number.

    Parameters
    ----------
    maps : list of ndarray
        For each sample, the values of its parts, positive where they speak for it: of shape
        ``(height, width)`` for an image, ``(n_words,)`` for a text.
    targets : list
        The label that is explained for each sample, or the position of a regression target.
    shown : list
        What the values belong to: a picture ``(height, width, 3)``, uint8; a text; an array.
    spans : list
        For a text, where each word begins and ends; None otherwise.
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
        """Return the words of a text with their values, in order.

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
    X : list, array, Series or DataFrame column of n_samples samples
    target : label, list of n_samples labels or None, default=None
        What is explained. None is the prediction; for several regression targets, the first.
    method : {"auto", "gradcam", "integrated_gradients", "occlusion"}, default="auto"
        "gradcam" multiplies activations and gradients at the last layers that have positions,
        "integrated_gradients" pixels and gradients. Both need a network of images, and a linear
        model on its features. "occlusion" leaves out parts of the samples, one after the other,
        words of a text or cells of an image, and needs the predictions only. "auto" is "gradcam"
        where it is possible, and "occlusion" elsewhere.
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
    task = _Task(estimator, X, target)
    if method != "auto":
        return getattr(task, method)(n_steps)
    try:
        return task.gradcam(n_steps)
    except NoGradientsError:
        return task.occlusion(n_steps)


class _Task:
    """Samples, an estimator that takes them, and what is explained of each."""

    def __init__(self, estimator, X, target):
        found = find_network(estimator)
        self.samples: Sequence = found.check(X)
        self.modality: Modality = found.modality
        self.model = found.on_samples()
        self.labels = columns_of(self.model)
        self.columns = self._columns(target)

    def _columns(self, target) -> list[int]:
        """Return the column of the scores that is explained of each sample."""
        n = len(self.samples)
        if target is None and self.labels is None:
            return [0] * n
        if target is None:
            return np.argmax(_raw_scores(self.model, self.samples), axis=1).tolist()
        one = np.ndim(target) == 0
        targets = [target] * n if one else list(target)
        if len(targets) != n:
            raise ValueError(f"target has {len(targets)} labels for {n} samples.")
        return [self._column(one) for one in targets]

    def _column(self, target) -> int:
        if self.labels is None:
            return int(target)
        if target not in self.labels:
            raise ValueError(f"target={target!r} is no label; there are {self.labels}.")
        return self.labels.index(target)

    def _result(self, maps, shown, spans, method: str) -> Saliency:
        targets = self.columns if self.labels is None else [self.labels[i] for i in self.columns]
        return Saliency(maps, targets, shown, spans, method)

    def gradcam(self, n_steps: int) -> Saliency:
        """Multiply activations and gradients."""
        captum = _captum()
        scores = scores_of(self.model)
        module: FromMaps | None = None
        maps, shown = [], []
        for sample, column in zip(self.samples, self.columns, strict=True):
            inputs = _inputs(sample, FromInputs(scores).backbones)
            module = FromMaps(scores, inputs) if module is None else module
            attribute = captum.LayerGradientXActivation(module, list(module.markers)).attribute
            found = attribute(inputs, target=column)
            parts = [as_map(v, r.backbone) for v, r in zip(found, scores.reads, strict=True)]
            shown.append(_picture(inputs[-1], module.backbones[-1]))
            maps.append(_together(parts, shown[-1].shape[:2]))
        return self._result(maps, shown, [None] * len(maps), "gradcam")

    def integrated_gradients(self, n_steps: int) -> Saliency:
        """Multiply pixels and gradients."""
        captum = _captum()
        module = FromInputs(scores_of(self.model))
        if any(backbone.modality.has_tokens for backbone in module.backbones):
            raise NoGradientsError("Texts have no gradients: give method='occlusion'.")
        attribute = captum.IntegratedGradients(module).attribute
        maps, shown = [], []
        for sample, column in zip(self.samples, self.columns, strict=True):
            inputs = _inputs(sample, module.backbones)
            found = attribute(inputs, target=column, n_steps=n_steps, internal_batch_size=8)
            shown.append(_picture(inputs[-1], module.backbones[-1]))
            maps.append(_together([part.sum(1) for part in found], shown[-1].shape[:2]))
        return self._result(maps, shown, [None] * len(maps), "integrated_gradients")

    def occlusion(self, n_steps: int) -> Saliency:
        """Leave out parts one after the other."""
        captum = _captum()
        maps, shown, spans = [], [], []
        for sample, column in zip(self.samples, self.columns, strict=True):
            parts = self.modality.parts(sample)
            if parts is None:
                raise TypeError(f"{self.modality.noun} have no parts that can be left out.")
            maps.append(_occluded(captum, parts, lambda x, c=column: self._scores(x)[:, c]))
            shown.append(parts.shown)
            spans.append(parts.spans)
        return self._result(maps, shown, spans, "occlusion")

    def _scores(self, samples: list) -> np.ndarray:
        """Return scores of changed samples, ``(n_samples, n_outputs)``."""
        changed = np.stack(samples) if isinstance(self.samples, np.ndarray) else samples
        return _raw_scores(self.model, changed)


def _raw_scores(model, samples) -> np.ndarray:
    """Return logarithms of odds, scores or numbers, as columns."""
    if is_regressor(model):
        return model.predict(samples).reshape(len(samples), -1)
    if hasattr(model, "predict_proba"):
        p = np.clip(label_probabilities(model, samples), 1e-12, 1 - 1e-12)
        return np.log(p) - np.log1p(-p)
    scores = model.decision_function(samples)
    return scores if scores.ndim == 2 else np.column_stack([-scores, scores])


def _occluded(captum, parts, score: Callable) -> np.ndarray:
    """Return what the score loses without each part, in the shape of the parts."""
    if 0 in parts.shape:
        return np.zeros(parts.shape)

    def scores(kept: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(score([parts.keep(one) for one in kept.numpy() > 0.5]))

    ablation = captum.FeatureAblation(scores)
    everything = torch.ones(1, *parts.shape, dtype=torch.float64)
    found = ablation.attribute(everything, perturbations_per_eval=_BATCH)
    return found[0].numpy()


def _inputs(sample, backbones) -> tuple[torch.Tensor, ...]:
    """Return a sample preprocessed for each backbone, in batches of one."""
    content = backbones[0].modality.read(sample)
    return tuple(open_sample(content, backbone)[None] for backbone in backbones)


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
    """Return what a network is given as a picture ``(height, width, 3)``, uint8."""
    x = x[0].double()
    mean, std = (getattr(backbone.preprocess, name, None) for name in ("mean", "std"))
    if x.ndim != 3 or x.shape[0] not in (1, 3):
        raise NoGradientsError("What the network is given is no image.")
    if mean is None or std is None:
        x = (x - x.min()) / (x.max() - x.min()).clamp_min(1e-12)
    else:
        x = x * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
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
