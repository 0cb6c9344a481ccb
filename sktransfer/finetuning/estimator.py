"""Base of the fine-tuned estimators: from samples and encoded targets to a tuned network."""

from __future__ import annotations

import functools
from copy import deepcopy
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet

from .._compat.sklearn import (
    HasMethods,
    Interval,
    StrOptions,
    begin_fit,
    fit_context,
    validate_parameters,
)
from ..backbones import Backbone, boundary, describe, penultimate, stages_of
from ..data import (
    ClassTarget,
    IndicatorTarget,
    check_indicator,
    check_labels,
    check_target,
    column_names,
    named_among,
    progress,
)
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
from .adapters import describe_adapters, is_adapter, is_lora
from .augmentation import Augmentation, View, Views, make_augment
from .callbacks import (
    AverageWeights,
    EpochProgress,
    KeepBest,
    LossMonitor,
    has_callback,
    is_averaged,
)
from .checkpoint import TrainingFile, describe_fit
from .dataset import ActivationCache, Activations, TrainingDataset, as_tensor
from .distributed import Processes, is_first_process
from .plan import TrainingPlan, auto_rates, check_settings
from .trainable_stages import (
    PARTIAL,
    TrainableStages,
    check_head,
    check_partial,
    head_inputs,
    make_head,
    restrict_rows,
    solve_new_rows,
    write_rows,
)
from .training import train
from .tuned import TunedNetwork, pretrained_stages

_FRESH_HEAD = 10.0  # factor on the learning rate of a head that is initialized at random
# Parameters that must not change between a fit and a later partial_fit or warm start.
_FIXED = ("backbone", "weights", "image_size", "trainable", "head")


class TunedEstimator(BackboneEstimator):
    """Base of the estimators that train the end of a network.

    A subclass sets ``_target``, encodes y with it, and calls ``_fit_rows``.
    """

    best_epoch_: int | None
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
        "trainable": [
            StrOptions({"head", "all", "norm", "bias", "lora"}),
            Count(1),
            str,
            HasMethods("to_dict"),  # a LoraConfig of peft
        ],
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

    def __sklearn_clone__(self) -> Any:
        try:
            return super().__sklearn_clone__()
        except Exception as error:  # of any type: a callback is copied by its own methods
            try:
                clone(self.callbacks, safe=False)
            except Exception:
                raise TypeError(
                    f"callbacks= cannot be copied ({error}), as searches and cross-validation do. "
                    "Open files and connections in a callback's method on_train_begin, not before "
                    "it is given."
                ) from error
            raise

    # -- steps of fit --------------------------------------------------------------------------

    @property
    def target_(self) -> Any:
        """How labels or numbers are encoded for the network, and its outputs decoded."""
        return self._target

    def _start_fit(self, X, y, X_val=None, y_val=None) -> list | np.ndarray:
        """Check everything but the targets, load the backbone and divide it; return the samples."""
        if (X_val is None) != (y_val is None):
            missing = "X_val" if X_val is None else "y_val"
            raise ValueError(f"{missing}= is missing: a validation set is X_val= and y_val=.")
        self._check_settings(y)
        if X_val is not None and self.validation_fraction:
            raise ValueError(
                "X_val= is the validation set, and validation_fraction="
                f"{self.validation_fraction} would hold out another: set it to 0."
            )
        continues, before = self._continues(), None
        if continues:
            self._check_unchanged()
            before = self.backbone_.fingerprint, self.frozen_layers_, self.trained_layers_
        samples: Any = self._fit_backbone(X)
        probe = probe_batch(self.backbone_, samples)
        self._probe = [list(probe.shape[1:]), str(probe.dtype).removeprefix("torch.")]
        names = list(stages_of(self.backbone_))
        top = names.index(penultimate(self.backbone_)) + 1
        n_frozen = boundary(self.backbone_, "lora" if is_lora(self.trainable) else self.trainable)
        self.frozen_layers_, self.trained_layers_ = names[:n_frozen], names[n_frozen:top]
        now = self.backbone_.fingerprint, self.frozen_layers_, self.trained_layers_
        if continues and now != before:
            raise ValueError(
                "warm_start=True continues from the previous fit, but backbone= has other weights "
                "now. Set warm_start=False to start from the pretrained weights."
            )
        self._kept = None
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
        if is_lora(now) and is_lora(before):
            return describe_adapters(now) != describe_adapters(before)
        # A different object may hold the same network.
        return (
            name != "backbone" or isinstance(now, str) or not self._is_loaded_again(self.backbone_)
        )

    def _continues(self) -> bool:
        return self.warm_start and hasattr(self, "_tuned")

    # Training needs gradients, also if the caller has disabled them.
    @torch.inference_mode(False)
    def _fit_rows(
        self,
        samples,
        target,
        weight,
        module: TrainableStages | None = None,
        new=(),
        kept: KeptRows | None = None,
        saves=True,
        validation: Validation | None = None,
    ) -> np.ndarray | Stream:
        """Train on samples and their encoded targets.

        scikit-learn's callbacks are told of the begin. Who calls this tells them of the end, when
        the estimator is complete.

        Parameters
        ----------
        samples : sequence
        target : ndarray of shape (n,) or (n, n_outputs)
        weight : ndarray of shape (n,)
        module : TrainableStages, default=None
            The module to train further; None starts from the pretrained weights.
        new : sequence of int, default=()
            Rows of the head of that module that were not trained yet.
        kept : KeptRows, default=None
            Rows of earlier calls that are trained again.
        saves : bool, default=True
            Whether ``checkpoint`` is used.

        Returns
        -------
        ndarray or Stream
            The activations of the samples at the cache.
        """
        begin_fit(self, max_subtasks=None if self.max_epochs == "auto" else self.max_epochs)
        processes = Processes(self.device)
        with processes.fitting(self.backbone_.fingerprint, target, weight):
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            seed, file = processes.from_first(seed), None
            if saves and self.checkpoint is not None:
                if processes.rank == 0:
                    description = describe_fit(self, samples, target, weight, module, validation)
                    file = TrainingFile(self.checkpoint, description, seed)
                file = processes.from_first(file)
                file.is_written, seed = processes.rank == 0, file.seed

            index, held = processes.from_first(
                hold_out(self._target.strata(target), weight, self.validation_fraction, seed)
                if processes.rank == 0
                else None
            )
            self.validation_indices_ = held
            train_target, train_weight, behind = target[index], weight[index], None
            if kept is not None:
                behind = kept.activations
                train_target = np.concatenate([train_target, kept.target])
                train_weight = np.concatenate([train_weight, kept.weight])
            held_target, held_weight = target[held], weight[held]
            samples, positions, index, held = processes.share(samples, index, held)
            plan = TrainingPlan.of(self, self._target, len(train_target), seed)

            with named_among(positions):
                cache, augmentation = self._activation_cache(), self.augment
                if not isinstance(augmentation, Augmentation | None):
                    augmentation = Augmentation(augmentation)
                n_views = 0 if augmentation is None else augmentation.n_views or 0
                # The head is initialized once.
                self.cache_ = cache.place(samples, 1 + n_views, plan.max_epochs + 1)
                plain = cache.rows(samples, keep=augmentation is None)
                unchanged = Activations(plain, index, behind)  # without augmentation
                views, fresh = [unchanged], None
                if augmentation is not None:
                    views, fresh = self._views(augmentation, cache, samples, unchanged, seed)
                dataset = TrainingDataset(views, train_target, train_weight, fresh, processes)
                valid = None
                if validation is not None:
                    valid = _validation_dataset(validation, cache, processes)
                elif len(held_target):
                    held_rows = [Activations(plain, held)]
                    valid = TrainingDataset(
                        held_rows, held_target, held_weight, processes=processes
                    )

                if module is None:
                    module, new = self._new_module(plain[:1], seed)
                if not self.frozen_layers_:
                    restrict_rows(module, unchanged, processes)
                has_probe = self.head_init != "random" and self.head == "linear"
                if len(new) and (has_probe or self.head_init == "probe"):
                    self._init_head(module, unchanged, dataset, list(new), processes)
                elif len(new):
                    plan.head_factor = _FRESH_HEAD
                module.add_adapters(self.backbone_.name, seed)
                self._train(module, dataset, valid, plan, file, processes)
                self._fixed_params = {name: getattr(self, name) for name in _FIXED}
                Activations(plain).forget()  # net_ refers to the validation rows
                for view in valid.views if valid is not None else ():
                    if isinstance(view, Activations):
                        view.forget()
        return plain

    def _check_validation(self, X_val, y_val) -> Validation | None:
        """Check a validation set and encode its targets, without opening its samples."""
        if X_val is None:
            return None
        with named_among(range(_MANY), "X_val"):
            samples = self._transform_samples(X_val)
        if isinstance(self._target, ClassTarget):
            y_val = check_labels(y_val, len(samples), name="y_val")
            unknown = sorted(set(y_val.tolist()) - set(self._target.labels), key=str)
            if unknown:
                raise ValueError(f"y_val has labels that y does not have: {unknown[:5]}.")
        else:
            names = column_names(y_val)
            y_val = check_target(y_val, len(samples), name="y_val")
            n_columns, n_outputs = 1 if y_val.ndim == 1 else y_val.shape[1], self._target.n_outputs
            if n_columns != n_outputs:
                raise ValueError(f"y_val has {n_columns} columns, and y has {n_outputs}.")
            self._target.check_names(names, "y_val")
            if isinstance(self._target, IndicatorTarget):
                check_indicator(y_val, name="y_val")
        return Validation(samples, self._target.encode(y_val))

    def _train(
        self,
        module: TrainableStages,
        dataset: TrainingDataset,
        valid: TrainingDataset | None,
        plan: TrainingPlan,
        file: TrainingFile | None,
        processes: Processes,
    ) -> None:
        """Find the learning rates, train, and keep the tuned network."""
        device, is_first = resolve_device(self.device), processes.rank == 0
        plan.verbose = plan.verbose if is_first else 0
        if file is not None and file.state is not None:
            plan.lr = file.state["lr"]
        elif self.lr == "auto":
            rates = auto_rates(module, dataset, len(self.frozen_layers_), device)
            plan.lr, decay = processes.from_first(rates)
            plan.layer_decay = decay if self.layer_decay == "auto" else plan.layer_decay
        self.lr_ = plan.lr
        context = fit_context(self)
        shown = self.verbose == 1 and is_first
        with progress("training", plan.max_epochs, shown, "epochs") as advance:
            own: list[Any] = [("progress", EpochProgress(advance, context, self))]
            last: list[Any] = []  # it judges the weights that the others leave
            if valid is None or has_callback(plan.callbacks, AverageWeights):
                last.append(("loss_monitor", LossMonitor()))
            plan.callbacks = [*own, *plan.callbacks, *last]
            net = train(module, dataset, valid, plan, device, file, processes)
        best = [c.epoch_ for _, c in net.callbacks_ if isinstance(c, KeepBest)]
        kept = best[0] if best else len(net.history)
        self.best_epoch_ = None if is_averaged(net) else kept
        self._tuned = TunedNetwork(self.backbone_, self.frozen_layers_, module, plan, net=net)

    # -- the frozen stages ------------------------------------------------------------------------

    def _activation_cache(self) -> ActivationCache:
        output = self._frozen_output() if self.frozen_layers_ else None
        run: dict[str, Any] = {"device": self.device, "engine": self.engine}
        run |= {"precision": self._precision(), "n_jobs": self.n_jobs}
        store, verbose = as_store(self.memory), self.verbose if is_first_process() else 0
        return ActivationCache(self.backbone_, output, run, self.max_cache_bytes, store, verbose)

    def _frozen_output(self) -> Output:
        # If only the head is trained, the pooled features are enough.
        pooling = "none" if self.trained_layers_ else "avg"
        return Output(self.backbone_, self.frozen_layers_[-1], pooling)

    def _usual_run(self):
        if self.frozen_layers_:
            return [self._frozen_output()], {"batch_size": "auto"}
        last = list(stages_of(self.backbone_))[-1]
        return [Output(self.backbone_, last)], {"batch_size": "auto", "engine": "torch"}

    def _precision(self) -> str:
        if self.precision != "auto":
            return self.precision
        return "bfloat16" if resolve_device(self.device).type == "cuda" else "float32"

    def _views(
        self,
        augmentation: Augmentation,
        cache: ActivationCache,
        samples,
        unchanged: Activations,
        seed: int,
    ) -> tuple:
        """Return tables of the training rows, one for each view, or what makes new views."""
        index, behind = unchanged.index, unchanged.behind
        n_views, modality = augmentation.n_views, self.backbone_.modality
        augment = make_augment(augmentation.transform, self.backbone_)
        # raises here if augment fails on any image
        View(samples[index[0]], modality, augment, "").open()
        if n_views is None:

            def make_views(epoch_seed: int) -> Activations:
                views = Views(samples, modality, augment, [f"{seed}/{epoch_seed}"])
                return Activations(cache.stream(views), index, behind)

            return [], make_views
        # The same in every fit: folds, candidates and processes share the computed activations.
        keys = [f"{describe(augment)}|{number}" for number in range(n_views)]
        if unchanged.is_streamed:
            stream = cache.rows(Views(samples, modality, augment, keys))
            parts = [index + number * len(samples) for number in range(len(keys))]
            return [Activations(stream, part, behind) for part in parts], None
        chosen = [samples[i] for i in index]
        views = (cache.rows(Views(chosen, modality, augment, [key])) for key in keys)
        return [Activations(view, behind=behind) for view in views], None

    # -- the module ------------------------------------------------------------------------------

    def _new_module(self, first: np.ndarray, seed: int) -> tuple[TrainableStages, list[int]]:
        """Copy the stages to train, add a new head, and return the indices of its new rows.

        ``first`` are the activations of the first sample.
        """
        part, adapters = "all", None
        if is_lora(self.trainable):
            part, adapters = "lora", describe_adapters(self.trainable)
        elif self.trainable in PARTIAL:
            part = self.trainable
        # Without a head; tensors are those of the backbone.
        bare = pretrained_stages(
            self.backbone_,
            self.trained_layers_,
            self.train_batch_norm,
            self._precision(),
            part=part,
            adapters=adapters,
        )
        if part == "lora" and any(map(is_adapter, bare.state_dict())):
            raise ValueError(
                f"backbone {self.backbone_.name!r} has low-rank adapters, which trainable='all' "
                "trains: parameters that have requires_grad=False are not trained."
            )
        module = deepcopy(bare)
        check_partial(module, self.backbone_.name)
        row = as_tensor(first[0])
        with torch.no_grad():
            n_features = module.eval()(row[None]).shape[1]
        head = make_head(self.head, n_features, self._target.n_outputs, seed)
        new = self._carry_rows(head)
        module.body[-1] = head
        check_head(module, row, self._target.n_outputs)
        return module.unfreeze(), new

    @torch.inference_mode(False)
    def _copy_module(self, module: TrainableStages) -> TrainableStages:
        """Copy an earlier module to train it further with the current parameters."""
        module = deepcopy(module).unfreeze()
        module.precision, module.train_batch_norm = self._precision(), self.train_batch_norm
        return module

    def _carry_rows(self, head: torch.nn.Module) -> list[int]:
        """Copy what the given backbone knows of labels into a new head; return its other rows."""
        return list(range(self._target.n_outputs))

    def _init_head(
        self,
        module: TrainableStages,
        activations: Activations,
        dataset: TrainingDataset,
        new: list[int],
        processes: Processes,
    ) -> None:
        """Initialize the new rows of the head with a linear model of the features."""
        features = processes.collect(head_inputs(module, activations, self.device))
        if processes.rank == 0:
            target, weight = dataset.target.numpy(), dataset.weight.numpy()
            if len(new) < self._target.n_outputs:
                n_outputs = self._target.n_outputs
                solve_new_rows(features, target, weight, module.body[-1], new, n_outputs)
            else:
                scaled = self._target.scaled(target)
                probe = solve_probe(features, scaled, weight, self._target)
                write_rows(module.body[-1], *probe)
        head = module.body[-1]
        head.load_state_dict(processes.from_first(head.state_dict()))

    # -- outputs -------------------------------------------------------------------------------

    @property
    def net_(self) -> NeuralNet:
        return self._tuned.net

    @property
    def history_(self) -> list[dict[str, Any]]:
        return self._tuned.history

    def _outputs(self, X) -> np.ndarray:
        samples: Any = self._transform_samples(X)
        run: dict[str, Any] = {"device": self.device, "precision": self._precision()}
        then = functools.partial(self._tuned.outputs, **run)
        outputs: Any = self._activation_cache().rows(samples, then=then)
        return outputs

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


_MANY = 2**62  # samples, among which errors name positions as they are


class KeptRows(NamedTuple):
    """Rows that ``rehearsal`` keeps: activations at the cache, encoded targets and weights."""

    activations: np.ndarray
    target: np.ndarray
    weight: np.ndarray


class Validation(NamedTuple):
    """Samples for validation and their targets, encoded as those of the training samples."""

    samples: Any
    target: np.ndarray


def _validation_dataset(
    validation: Validation, cache: ActivationCache, processes: Processes
) -> TrainingDataset:
    """Compute the rows of a validation set, of equal weight, where those of the training are."""
    n = len(validation.samples)
    with named_among(range(_MANY), "X_val"):
        samples, positions, index = processes.share(validation.samples, np.arange(n))
        with named_among(positions):
            table = Activations(cache.rows(samples), index)
    return TrainingDataset([table], validation.target, np.ones(n), processes=processes)
