"""Base of the fine-tuned estimators: from samples and encoded targets to a tuned network."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from copy import deepcopy
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet

from .._compat.sklearn import Interval, StrOptions, begin_fit, validate_parameters
from ..backbones import Backbone, boundary, penultimate, stages_of
from ..data import ClassTarget, Target, check_labels, check_target, digest_array, named_among
from ..engines import resolve_device
from ..features import (
    BackboneEstimator,
    Count,
    Output,
    PretrainedFeatureExtractor,
    Stream,
    as_store,
    fitted_without_samples,
    learns_from_samples,
    probe_batch,
)
from ..transferability import hold_out, solve_probe
from .activation_cache import ActivationCache, CachePlacement
from .augmentation import Augmentation, FreshViews, View, Views, fixed_keys, make_augment
from .callbacks import KeepBest, epoch_progress
from .checkpoint import TrainingFile, describe_fit
from .dataset import Activations, TrainingDataset, append_kept
from .distributed import ONE_PROCESS, Processes, is_first_process
from .heads import carry_rows, make_head, solve_new_rows, write_rows
from .learning_rate import auto_rates
from .loss_monitor import LossMonitor
from .trainable_stages import (
    PARTIAL,
    TrainableStages,
    check_head,
    check_partial,
    head_inputs,
    restrict_rows,
)
from .training import TrainingPlan, check_settings, steps_of, train
from .tuned import TunedNetwork, pretrained_stages

__all__ = ["TunedEstimator", "check_given"]

# Parameters that must not change between a fit and a later partial_fit or warm start.
_FIXED = ("backbone", "weights", "image_size", "trainable", "head")


class TunedEstimator(BackboneEstimator):
    """Base of the estimators that train the end of a network.

    A subclass sets ``_target``, encodes y with it, and calls ``_fit_rows``.
    """

    best_epoch_: int
    lr_: float
    _kept: dict[str, Any] | None
    _probe: list[Any]  # shape and type of an opened sample
    _target: Any
    _tuned: TunedNetwork
    cache_: dict[str, Any]
    frozen_layers_: list[str]
    trained_layers_: list[str]

    _parameter_constraints: dict[str, Any] = {
        **BackboneEstimator._parameter_constraints,
        "trainable": [StrOptions({"head", "all", "norm", "bias"}), Count(1), str],
        "head": [StrOptions({"linear", "mlp"}), callable],
        "head_init": [StrOptions({"auto", "probe", "random"})],
        "train_batch_norm": ["boolean"],
        "augment": [StrOptions({"light", "strong"}), Augmentation, callable, None],
        "lr": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "layer_decay": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="right")],
        "loss": [StrOptions({"auto"}), callable],
        "max_epochs": [Count(0), StrOptions({"auto"})],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "warm_start": ["boolean"],
        "callbacks": [list, tuple, None],
        "net_params": [dict, None],
        "precision": [StrOptions({"auto", "float32", "bfloat16"})],
        "micro_batch_size": [Count(1), None],
        "max_cache_bytes": [Count(0, 2**62)],
        "checkpoint": [str, Path, None],
        "random_state": ["random_state"],
    }

    # -- steps of fit --------------------------------------------------------------------------

    @property
    def target_(self) -> Any:
        """How labels or numbers are encoded for the network, and its outputs decoded."""
        return self._target

    def _start_fit(self, X, y) -> list | np.ndarray:
        self._check_settings(y)
        before = None
        if self._continues():
            self._check_unchanged()
            before = self._frozen_signature()
        samples: Any = self._fit_backbone(X)
        probe = probe_batch(self.backbone_, samples)
        self._probe = [list(probe.shape[1:]), str(probe.dtype).removeprefix("torch.")]
        self._find_frozen()
        if before not in (None, self._frozen_signature()):
            raise ValueError(
                "warm_start=True continues from the previous fit, but backbone= has other weights "
                "now. Set warm_start=False to start from the pretrained weights."
            )
        self._kept = None
        self._start_progress()
        return samples

    def _check_settings(self, y) -> None:
        """Check the parameters before anything is computed."""
        validate_parameters(self)
        self._require(y)
        check_settings(self)

    def _check_unchanged(self) -> None:
        """Raise an error if a parameter changed that cannot change between fits."""
        changed = [name for name, value in self._fixed_params.items() if self._differs(name, value)]
        if changed:
            raise ValueError(
                f"{', '.join(changed)}: changed since the fit that partial_fit or warm_start=True "
                "continues from. Set the previous value, or call fit with warm_start=False."
            )

    def _differs(self, name: str, before) -> bool:
        now, plain = getattr(self, name), (str, Real, Path)
        if now is before or (isinstance(now, plain) and isinstance(before, plain)):
            return now is not before and now != before
        # A different object may hold the same network.
        return (
            name != "backbone" or isinstance(now, str) or not self._is_loaded_again(self.backbone_)
        )

    def _continues(self) -> bool:
        return self.warm_start and hasattr(self, "_tuned")

    def _frozen_signature(self) -> tuple:
        """Return what must be the same for an earlier module to be trained further."""
        return self.backbone_.fingerprint, self.frozen_layers_, self.trained_layers_

    def _start_progress(self) -> None:
        n_epochs = None if self.max_epochs == "auto" else self.max_epochs
        begin_fit(self, max_subtasks=n_epochs)

    # Training needs gradients, also if the caller has disabled them.
    @torch.inference_mode(False)
    def _fit_rows(
        self,
        samples,
        target,
        weight,
        module: TrainableStages | None = None,
        new=(),
        kept=None,
        saves=True,
        validation: Validation | None = None,
    ) -> np.ndarray | Stream:
        """Train on samples and their encoded targets.

        Parameters
        ----------
        samples : sequence
        target : ndarray of shape (n,) or (n, n_outputs)
        weight : ndarray of shape (n,)
        module : TrainableStages, default=None
            The module to train further; None starts from the pretrained weights.
        new : sequence of int, default=()
            Rows of the head of that module that were not trained yet.
        kept : tuple of three ndarray, default=None
            Activations, targets and weights kept from earlier calls.
        saves : bool, default=True
            Whether ``checkpoint`` is used.
        validation : Validation, default=None

        Returns
        -------
        ndarray or Stream
            The activations of the samples at the cache.
        """
        processes = Processes(self.device)
        about = (self.backbone_.fingerprint, digest_array(target), digest_array(weight))
        fit = functools.partial(
            self._fit_share,
            processes,
            samples,
            target,
            weight,
            module,
            new,
            kept,
            saves,
            validation,
        )
        return processes.run(fit, about)

    def _fit_share(
        self, processes: Processes, samples, target, weight, module, new, kept, saves, validation
    ) -> np.ndarray | Stream:
        """Train on the share of the samples that this process has: in one process, on all."""
        drawn = int(check_random_state(self.random_state).randint(2**31 - 1))
        file, seed = None, processes.decide(lambda: drawn)
        folder = self.checkpoint if saves else None
        if folder is not None:

            def open_file() -> TrainingFile:
                about = describe_fit(self, samples, target, weight, module, validation)
                return TrainingFile(folder, about, seed)

            file = processes.decide(open_file)
            file.is_written, seed = processes.rank == 0, file.seed
        strata = self._target.strata(target)
        index, held = processes.decide(
            lambda: hold_out(strata, weight, self.validation_fraction, seed)
        )
        self.validation_indices_ = held
        all_target, all_weight, behind = append_kept(target[index], weight[index], kept)
        held_target, held_weight = target[held], weight[held]
        samples, positions, index, held = processes.share(samples, index, held)
        with named_among(positions):
            cache = self._activation_cache()
            place = self._place(cache, samples)
            plain = cache.rows(samples, place, keep=self.augment is None)
            views, fresh = self._views(cache, place, samples, plain, index, behind, seed)
            rows = TrainingDataset(views, all_target, all_weight, fresh, processes)
            if module is None:
                module, new = self._new_module(plain[:1], seed)
            if len(new) or not self.frozen_layers_:
                start = Activations(plain, index, behind)
                restrict_rows(module, start, processes)
                if len(new):
                    self._init_head(
                        module,
                        start,
                        rows.target.numpy(),
                        rows.weight.numpy(),
                        list(new),
                        processes,
                    )
            valid = None
            if len(held_target):
                valid = TrainingDataset(
                    [Activations(plain, held)], held_target, held_weight, processes=processes
                )
            if validation is not None:
                valid = validation_rows(validation, cache, place, processes)
            fresh_head = len(new) > 0 and self._head_init() == "random"
            plan = TrainingPlan.of(self, self._target, len(rows), seed, fresh_head)
            self._train(module, rows, valid, plan, file, processes)
            self._fixed_params = {name: getattr(self, name) for name in _FIXED}
            for view in [Activations(plain), *(valid.views if valid is not None else [])]:
                if isinstance(view, Activations):
                    view.forget()  # net_ refers to the validation rows
            return plain

    def _check_validation(self, X_val, y_val) -> Validation | None:
        """Check a validation set that is given, without opening its samples."""
        with naming_samples():
            given = None if X_val is None else self._check_new(X_val)
        return None if given is None else encode_validation(given, y_val, self._target)

    def _train(
        self,
        module: TrainableStages,
        rows: TrainingDataset,
        valid: TrainingDataset | None,
        plan: TrainingPlan,
        file,
        processes,
    ) -> None:
        device = resolve_device(self.device)
        is_first = processes.rank == 0
        plan.verbose = plan.verbose if is_first else 0
        if file is not None and file.state is not None:
            plan.lr = file.state["lr"]
        elif self.lr == "auto":
            rates = auto_rates(module, rows, len(self.frozen_layers_), device)
            plan.lr, decay = processes.decide(lambda: rates)
            plan.layer_decay = decay if self.layer_decay == "auto" else plan.layer_decay
        self.lr_ = plan.lr
        watch = [] if valid is not None else [("loss_monitor", LossMonitor())]
        with epoch_progress(self, plan.max_epochs, self.verbose == 1 and is_first) as progress:
            plan.callbacks = [("progress", progress), *watch, *plan.callbacks]
            net = train(module, rows, valid, plan, device, file, processes)
        best = [c.epoch_ for _, c in net.callbacks_ if isinstance(c, KeepBest)]
        self.best_epoch_ = best[0] if best else len(net.history)
        self._tuned = TunedNetwork.of_training(self.backbone_, self.frozen_layers_, net, plan)

    # -- the frozen stages ------------------------------------------------------------------------

    def _find_frozen(self) -> None:
        """Find which stages are frozen and which are trained."""
        names = list(stages_of(self.backbone_))
        top = names.index(penultimate(self.backbone_)) + 1
        n_frozen = boundary(self.backbone_, self.trainable)
        self.frozen_layers_ = names[:n_frozen]
        self.trained_layers_ = names[n_frozen:top]

    def _activations(self, samples) -> np.ndarray | Stream:
        """Return the output of the frozen stages for samples."""
        return self._activation_cache().rows(samples)

    def _activation_cache(self) -> ActivationCache:
        output = self._output_activations() if self.frozen_layers_ else None
        how = {"engine": self.engine, "precision": self._precision(), "dtype": "float32"}
        verbose = self.verbose if is_first_process() else 0
        run: dict[str, Any] = {"n_jobs": self.n_jobs, "verbose": verbose}
        run |= {"device": self.device, "store": as_store(self.memory)}
        return ActivationCache(self.backbone_, output, how, max_bytes=self.max_cache_bytes, **run)

    def _place(self, cache: ActivationCache, samples) -> CachePlacement:
        """Decide where the activations of this training are, and say so in ``cache_``."""
        n_tables = 1 + (self._augmentation().n_views or 0 if self.augment is not None else 0)
        _, n_epochs = steps_of(self, len(samples))
        layers = self._inspect(samples) if self.frozen_layers_ else {}
        place = cache.place(samples, layers, n_tables, n_epochs + 1)  # the head is initialized once
        self.cache_ = place.as_dict()
        return place

    def _output_activations(self) -> Output:
        # If only the head is trained, the pooled features are enough.
        pooling = "none" if self.trained_layers_ else "avg"
        return Output(self.backbone_, self.frozen_layers_[-1], pooling)

    def _usual_run(self):
        if self.frozen_layers_:
            return [self._output_activations()], {"batch_size": "auto"}
        last = list(stages_of(self.backbone_))[-1]
        return [Output(self.backbone_, last)], {"batch_size": "auto", "engine": "torch"}

    def _precision(self) -> str:
        if self.precision != "auto":
            return self.precision
        return "bfloat16" if resolve_device(self.device).type == "cuda" else "float32"

    def _augmentation(self) -> Augmentation:
        given = self.augment
        return given if isinstance(given, Augmentation) else Augmentation(given)

    def _views(
        self,
        cache: ActivationCache,
        place: CachePlacement,
        samples,
        plain,
        index,
        behind,
        seed: int,
    ) -> tuple:
        """Return tables of the training rows, one for each view, or what makes new views."""
        if self.augment is None:
            return [Activations(plain, index, behind)], None
        n_views = self._augmentation().n_views
        augment = make_augment(self._augmentation().transform, self.backbone_)
        View(samples[index[0]], augment, "").open()  # raises here if augment fails on any image
        if n_views is None:
            return [], FreshViews(samples, augment, cache.stream, seed, index, behind)
        keys = fixed_keys(augment, n_views)
        if isinstance(plain, Stream):
            stream = cache.rows(Views(samples, augment, keys), place)
            parts = [index + number * len(samples) for number in range(len(keys))]
            return [Activations(stream, part, behind) for part in parts], None
        chosen = [samples[i] for i in index]
        views = (cache.rows(Views(chosen, augment, [key]), place) for key in keys)
        return [Activations(view, behind=behind) for view in views], None

    # -- the module ------------------------------------------------------------------------------

    def _new_module(self, one: np.ndarray, seed: int) -> tuple[TrainableStages, list[int]]:
        """Copy the stages to train, add a new head, and return the indices of its new rows."""
        module = deepcopy(self._pretrained_stages())
        check_partial(module.body, module.part, self.backbone_.name, module.fixed)
        n_features = head_inputs(module, one).shape[1]
        n_outputs = self._target.n_outputs
        head = make_head(self.head, n_features, n_outputs, seed)
        new, sources = list(range(n_outputs)), self._carried_rows()
        if any(source is not None for source in sources):
            old = list(stages_of(self.backbone_).values())[-1]
            carry_rows(old, head, sources, len(self.backbone_.classes or ()))
            new = [i for i, source in enumerate(sources) if source is None]
        module.body[-1] = head
        check_head(module, one, n_outputs)
        return module.unfreeze(), new

    def _copy_module(self, module: TrainableStages) -> TrainableStages:
        """Copy an earlier module to train it further with the current parameters."""
        module = deepcopy(module).unfreeze()
        module.precision, module.train_batch_norm = self._precision(), self.train_batch_norm
        return module

    def _carried_rows(self) -> list[int | None]:
        """Return for each label its row in the head of the model given as backbone."""
        return [None] * self._target.n_outputs

    def _pretrained_stages(self) -> TrainableStages:
        """Return the pretrained stages to train, without a head; tensors are shared."""
        part = self.trainable if self.trainable in PARTIAL else "all"
        settings = (self.train_batch_norm, self._precision(), part)
        return pretrained_stages(self.backbone_, self.trained_layers_, *settings)

    def _head_init(self) -> str:
        if self.head_init != "auto":
            return self.head_init
        return "probe" if self.head == "linear" else "random"

    def _init_head(
        self,
        module: TrainableStages,
        rows: Activations,
        target,
        weight,
        new: list[int],
        processes: Processes,
    ) -> None:
        """Initialize the new rows of the head with a linear model of the features."""
        if self._head_init() == "random":
            return
        features = processes.collect(head_inputs(module, rows, self.device))
        weight = weight.astype(np.float64)

        def solve() -> dict:
            if len(new) < self._target.n_outputs:
                solve_new_rows(features, target, weight, module.head, new, self._target.n_outputs)
            else:
                scaled = self._target.scaled(target)
                write_rows(module.head, *solve_probe(features, scaled, weight, self._target))
            return module.head.state_dict()

        module.head.load_state_dict(processes.decide(solve))

    # -- outputs -------------------------------------------------------------------------------

    @property
    def net_(self) -> NeuralNet:
        return self._tuned.net

    @property
    def history_(self) -> list[dict[str, Any]]:
        return self._tuned.history

    def _outputs(self, X) -> np.ndarray:
        settings = self.device, self._precision()
        samples: Any = self._transform_samples(X)
        return self._activation_cache().map(
            samples, lambda rows, at: self._tuned.outputs(rows, *settings, at)
        )

    def to_backbone(self) -> Backbone:
        """Return the tuned network as a backbone for another estimator.

        Returns
        -------
        Backbone
            Its stages are the frozen stages, the trained stages, "new_pooling" and "new_head".
        """
        check_is_fitted(
            self,
            msg="This %(name)s is not fitted. A clone of a fitted one is not fitted either: where "
            "a search clones it as a value, give its to_backbone() instead.",
        )
        return self._tuned.as_backbone(self._output_names(), self._label_rows())

    def to_features(
        self,
        *,
        layer: str | int | list[Any] | None = None,
        pooling: Any = "avg",
        memory: Any = None,
    ) -> PretrainedFeatureExtractor:
        """Return the tuned network as a transformer.

        Parameters
        ----------
        layer : str, int or list, default=None
            As in :class:`PretrainedFeatureExtractor`. None is the layer below the head.
        pooling : {"avg", "max", "flatten", "cls"} or callable, default="avg"
        memory : default=None
            As in :class:`PretrainedFeatureExtractor`.

        Returns
        -------
        PretrainedFeatureExtractor
            Fitted: ``transform`` works at once, and gives the features that it would give after a
            ``fit``. Not fitted with ``layer="auto"`` and with poolings of word vectors by learned
            weights, which need samples, and for a network of arrays that does not take ones and
            zeros. Its ``fit`` does not train the network.
        """
        extractor = PretrainedFeatureExtractor(
            self.to_backbone(),
            layer=layer,
            pooling=pooling,
            image_shape=self.image_shape,
            device=self.device,
            precision="float32" if self.precision == "auto" else self.precision,
            memory=memory,
            n_jobs=self.n_jobs,
        )
        if learns_from_samples(extractor):
            return extractor
        return fitted_without_samples(extractor, self, *self._probe)

    def _output_names(self):
        return None

    def _label_rows(self) -> dict:
        """Return the row of the head for each label that was trained."""
        return {}

    # -- pickling ------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, in which ``_network`` holds the tuned network.

        ``_network`` is the dictionary of :meth:`TunedNetwork.state`; :class:`BackboneEstimator`
        decides how the pretrained ``backbone_`` is pickled.
        """
        state = dict(super().__getstate__())
        tuned = state.pop("_tuned", None)
        return state if tuned is None else state | {"_network": tuned.state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        network = state.pop("_network", None)
        super().__setstate__(state)
        if network is not None:
            self._tuned = TunedNetwork.from_state(self.backbone_, network)


_MANY = 2**62


class Validation(NamedTuple):
    """Samples for validation and their targets, encoded as those of the training samples."""

    samples: Any
    target: np.ndarray


def check_given(X_val: Any, y_val: Any, fraction: float) -> None:
    """Refuse half of a validation set, or two.

    Parameters
    ----------
    X_val, y_val : object or None
    fraction : float
        The parameter ``validation_fraction``.

    Raises
    ------
    ValueError
        If one of the two is missing, or a fraction is to be held out as well.
    """
    if (X_val is None) != (y_val is None):
        missing = "X_val" if X_val is None else "y_val"
        raise ValueError(f"{missing}= is missing: a validation set is X_val= and y_val=.")
    if X_val is not None and fraction:
        raise ValueError(
            f"X_val= is the validation set, and validation_fraction={fraction} would hold out "
            "another: set it to 0."
        )


def encode_validation(samples: Any, y_val: Any, target: Target) -> Validation:
    """Encode the targets of a validation set.

    Parameters
    ----------
    samples : sequence
    y_val : array-like of shape (n_samples,) or (n_samples, n_outputs)
    target : Target
        Of the training samples.

    Returns
    -------
    Validation

    Raises
    ------
    ValueError
        If there are labels that no training sample has, or another number of columns.
    """
    if isinstance(target, ClassTarget):
        y_val = check_labels(y_val, len(samples), name="y_val")
        unknown = sorted(set(y_val.tolist()) - set(target.labels), key=str)
        if unknown:
            raise ValueError(f"y_val has labels that y does not have: {unknown[:5]}.")
        return Validation(samples, target.encode(y_val))
    y_val = check_target(y_val, len(samples), name="y_val")
    n_columns = 1 if y_val.ndim == 1 else y_val.shape[1]
    if n_columns != target.n_outputs:
        raise ValueError(f"y_val has {n_columns} columns, and y has {target.n_outputs}.")
    return Validation(samples, target.encode(y_val))


def naming_samples() -> AbstractContextManager[None]:
    """Name the argument in errors about its samples."""
    return named_among(range(_MANY), "X_val")


def validation_rows(
    validation: Validation,
    cache: ActivationCache,
    place: CachePlacement,
    processes: Processes = ONE_PROCESS,
) -> TrainingDataset:
    """Compute the rows of a validation set.

    Parameters
    ----------
    validation : Validation
    cache : ActivationCache
    place : CachePlacement
        Where the activations of the training samples are.
    processes : Processes, default=ONE_PROCESS
        Those that share the rows.

    Returns
    -------
    TrainingDataset
        Of equal weight.
    """
    n = len(validation.samples)
    with naming_samples():
        samples, positions, index = processes.share(validation.samples, np.arange(n))
        with named_among(positions):
            table = Activations(cache.rows(samples, place), index)
    return TrainingDataset([table], validation.target, np.ones(n), processes=processes)
