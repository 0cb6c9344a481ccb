"""Recommend one strategy for a task."""

from __future__ import annotations

from typing import Any

from .recommendation import Recommendation
from .transfer import TransferClassifier

__all__ = ["recommend_strategy"]


def recommend_strategy(
    X: Any,
    y: Any,
    backbone: Any = "efficientnet_lite0",
    *,
    weights: Any = "default",
    image_size: int | None = None,
    estimator: Any = None,
    max_epochs: int | str = "auto",
    batch_size: int | str = "auto",
    device: str = "auto",
    engine: str = "auto",
    memory: Any = None,
    random_state: Any = None,
    verbose: int = 0,
    sample_weight: Any = None,
) -> Recommendation:
    """Recommend a strategy for samples and labels, with reasons, costs and a confidence.

    Parameters
    ----------
    X : list, array, Series or DataFrame column of n_samples samples
        As in :meth:`PretrainedFeatureExtractor.fit`.
    y : array-like of shape (n_samples,)
        Labels of any type.
    backbone : str, torch.nn.Module, callable or Backbone, default="efficientnet_lite0"
        As in :class:`PretrainedFeatureExtractor`, like the parameters below.
    weights : str, Path or None, default="default"
        Which weights, for names.
    image_size : int, default=None
        Side of the square given to the network, in pixels.
    estimator : classifier, default=None
        As in :class:`TransferClassifier`.
    max_epochs : int or "auto", default="auto"
        As in :class:`TransferClassifier`.
    batch_size : int or "auto", default="auto"
        Samples in a training step.
    device : str, default="auto"
        Where the network runs.
    engine : {"auto", "torch", "openvino", "onnxruntime", "compile"}, default="auto"
        The library that runs the network.
    memory : None, str, Path, FeatureStore or object with a location, default=None
        Where features are kept, by sample.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds and of what is trained.
    verbose : int, default=0
        1 shows progress bars.
    sample_weight : array-like of shape (n_samples,), default=None
        As in :meth:`TransferClassifier.fit`.

    Returns
    -------
    Recommendation
        Its ``strategy`` is None if the evidence does not suffice.

    Raises
    ------
    ValueError
        As :meth:`TransferClassifier.fit`.

    See Also
    --------
    TransferClassifier : Combine strategies, or fit the recommended one (``strategy=``).

    Notes
    -----
    Features of all layers come from one pass. Strategies that take little time on them are
    cross-validated. Training stages of the network is tried if a rule expects a gain, on the folds
    that ``sktransfer.selection.rules.RULES`` names. Rule and measurement are combined by
    inverse-variance weighting. Seconds are those of a probe batch on this device, times the number
    of samples and epochs; they do not influence the recommendation.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import recommend_strategy
    >>> digits = load_digits()
    >>> few = recommend_strategy(list(digits.images[:20] / 16), digits.target[:20], image_size=64)
    >>> print(few.strategy, few.reasons[0], sep=": ")
    None: too little to tell: 2 samples in class 0
    """
    model = TransferClassifier(
        backbone,
        weights=weights,
        image_size=image_size,
        estimator=estimator,
        max_epochs=max_epochs,
        batch_size=batch_size,
        device=device,
        engine=engine,
        memory=memory,
        random_state=random_state,
        verbose=verbose,
    )
    return model._study(X, y, sample_weight).recommend(timed=True)
