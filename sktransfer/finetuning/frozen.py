"""The frozen stages of a fine-tuned estimator: which they are, and their output for samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backbones import boundary, penultimate, stages_of
from ..engines import resolve_device
from ..features import Output, Stream, as_store
from .augment import Augmentation, FreshViews, View, Views, fixed_keys, make_augment
from .cut import Cut, Place
from .distributed import is_first_process
from .plan import steps_of
from .rows import Table
from .training_parameters import TrainingParameters

__all__ = ["FrozenStages"]


class FrozenStages(TrainingParameters):
    """Base of the fine-tuned estimators, which gives activations at the cut."""

    cache_: dict[str, Any]
    frozen_layers_: list[str]
    trained_layers_: list[str]

    def _find_cut(self) -> None:
        """Find which stages are frozen and which are trained."""
        names = list(stages_of(self.backbone_))
        top = names.index(penultimate(self.backbone_)) + 1
        n_frozen = boundary(self.backbone_, self.trainable)
        self.frozen_layers_ = names[:n_frozen]
        self.trained_layers_ = names[n_frozen:top]

    def _at_cut(self, samples) -> np.ndarray | Stream:
        """Return the output of the frozen stages for samples."""
        return self._cut().rows(samples)

    def _cut(self) -> Cut:
        output = self._output_at_cut() if self.frozen_layers_ else None
        how = {"engine": self.engine, "precision": self._precision(), "dtype": "float32"}
        verbose = self.verbose if is_first_process() else 0
        run: dict[str, Any] = {"n_jobs": self.n_jobs, "verbose": verbose}
        run |= {"device": self.device, "store": as_store(self.memory)}
        return Cut(self.backbone_, output, how, max_bytes=self.max_cache_bytes, **run)

    def _place(self, cut: Cut, samples) -> Place:
        """Decide where the activations of this training are, and say so in ``cache_``."""
        n_tables = 1 + (self._augmentation().n_views or 0 if self.augment is not None else 0)
        _, n_epochs = steps_of(self, len(samples))
        layers = self._inspect(samples) if self.frozen_layers_ else {}
        place = cut.place(samples, layers, n_tables, n_epochs + 1)  # the head is initialized once
        self.cache_ = place.as_dict()
        return place

    def _output_at_cut(self) -> Output:
        # If only the head is trained, the pooled features are enough.
        pooling = "none" if self.trained_layers_ else "avg"
        return Output(self.backbone_, self.frozen_layers_[-1], pooling)

    def _usual_run(self):
        if self.frozen_layers_:
            return self._output_at_cut(), {"batch_size": "auto"}
        last = list(stages_of(self.backbone_))[-1]
        return Output(self.backbone_, last), {"batch_size": "auto", "engine": "torch"}

    def _precision(self) -> str:
        if self.precision != "auto":
            return self.precision
        return "bfloat16" if resolve_device(self.device).type == "cuda" else "float32"

    def _augmentation(self) -> Augmentation:
        given = self.augment
        return given if isinstance(given, Augmentation) else Augmentation(given)

    def _views(self, cut: Cut, place: Place, samples, plain, index, behind, seed: int) -> tuple:
        """Return tables of the training rows, one for each view, or what makes new views."""
        if self.augment is None:
            return [Table(plain, index, behind)], None
        n_views = self._augmentation().n_views
        augment = make_augment(self._augmentation().transform, self.backbone_)
        View(samples[index[0]], augment, "").open()  # raises here if augment fails on any image
        if n_views is None:
            return [], FreshViews(samples, augment, cut.stream, seed, index, behind)
        keys = fixed_keys(augment, n_views)
        if isinstance(plain, Stream):
            stream = cut.rows(Views(samples, augment, keys), place)
            parts = [index + number * len(samples) for number in range(len(keys))]
            return [Table(stream, part, behind) for part in parts], None
        chosen = [samples[i] for i in index]
        views = (cut.rows(Views(chosen, augment, [key]), place) for key in keys)
        return [Table(view, behind=behind) for view in views], None
