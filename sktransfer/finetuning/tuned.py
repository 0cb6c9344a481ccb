"""The fitted state of a fine-tuned estimator: frozen stages, trained stages and a new head."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from dataclasses import fields
from typing import Any

import numpy as np
import skorch
import torch
from skorch.history import History
from torch import nn

from ..backbones import Backbone, stages_of
from ..data import open_target
from ..features import Stream
from .adapters import check_adapters, is_adapter, with_merged_adapters
from .plan import TrainingPlan
from .trainable_stages import TrainableStages, run_rows
from .training import make_net

FORMAT = 1  # of the state that files hold; files of earlier formats must open


class TunedNetwork:
    """Hold a network whose last stages were trained: the state of a fitted estimator.

    Parameters
    ----------
    origin : Backbone
        The pretrained network, which is not changed.
    frozen : sequence of str
        The stages of the origin that were not trained.
    module : TrainableStages
        The other stages and the head.
    plan : TrainingPlan
        How the module was trained.
    history : sequence of dict, default=()
        One entry for each epoch of training, without a ``net``.
    net : skorch.NeuralNet, default=None
        The one that trained the module, on the CPU; made when needed by default.
    """

    frozen: list[str]
    origin: Backbone
    plan: TrainingPlan
    module: TrainableStages

    def __init__(
        self,
        origin: Backbone,
        frozen: Sequence[str],
        module: TrainableStages,
        plan: TrainingPlan,
        history: Sequence[dict[str, Any]] = (),
        net: skorch.NeuralNet | None = None,
    ):
        self.origin, self.frozen = origin, list(frozen)
        self.module, self.plan = module, plan
        self._history = history
        self._made: dict[Any, Any] = {}
        if net is not None:
            self.net = net

    @functools.cached_property
    def net(self) -> skorch.NeuralNet:
        """The skorch net that trained the module, or one that can train it further."""
        net = make_net(self.module, None, self.plan, torch.device("cpu"))
        net.history_ = History({**row, "batches": []} for row in self._history)
        return net

    @property
    def history(self) -> list[dict[str, Any]]:
        """One entry for each epoch of training, without the entries of its batches."""
        return [{k: v for k, v in row.items() if k != "batches"} for row in self.net.history]

    def outputs(
        self,
        activations: np.ndarray | Stream,
        positions: Sequence[int] | None = None,
        *,
        device: str,
        precision: str,
    ) -> np.ndarray:
        """Run activations at the cut through the module.

        Parameters
        ----------
        activations : ndarray of shape (n_samples, ...), array of n_samples arrays or Stream
        positions : sequence of int, default=None
            Of the samples, for messages.
        precision : {"float32", "bfloat16"}

        Returns
        -------
        ndarray of shape (n_samples, n_outputs), float64
        """

        def make() -> tuple[nn.Sequential, dict]:  # adapters merged; the engines of the body
            return nn.Sequential(*with_merged_adapters(self.module).eval().body), {}

        body, engines = self._once("body", make)
        outputs = run_rows(
            body,
            activations,
            device,
            engines,
            has_tokens=self.module.masked and bool(self.module.names),
            precision=precision,
            positions=positions,
        )
        return outputs.astype(np.float64)

    def as_backbone(
        self, classes: Sequence[str] | None, label_rows: dict[Any, int]
    ) -> TunedBackbone:
        """Return the network as a backbone, the same object until the next training.

        Parameters
        ----------
        classes : sequence of str or None
            Names of the outputs.
        label_rows : dict
            The row of the head for each label that was trained.

        Returns
        -------
        TunedBackbone
            It holds a copy of the module.
        """

        def make() -> TunedBackbone:
            module = with_merged_adapters(self.module)
            module = deepcopy(module) if module is self.module else module
            module.unfreeze("all")
            copy = TunedNetwork(self.origin, self.frozen, module, self.plan)
            return TunedBackbone(copy, classes, label_rows)

        return self._once("backbone", make)

    def _once(self, key: str, make: Callable):
        """Return an object made from the module; it is made again after each training."""
        objects = self._made  # another thread may replace the attribute
        if objects.get("n_trainings") != self.module.n_trainings:
            objects = self._made = {"n_trainings": self.module.n_trainings}
        if key not in objects:
            objects[key] = make()
        return objects[key]

    # -- the format of files ---------------------------------------------------------------

    def changed_tensors(self) -> dict[str, np.ndarray]:
        """Return the tensors that training changed, and those of adapters, without the head.

        Returns
        -------
        dict of str to ndarray
            Of word vectors, the rows that changed and their ids.
        """
        module, names = self.module, self.module.names
        bare = pretrained_stages(self.origin, names, module.train_batch_norm, module.precision)
        original, tuned = bare.state_dict(), module.state_dict()
        added = {}
        if module.adapters is not None:
            added = {name: t.numpy(force=True) for name, t in tuned.items() if is_adapter(name)}
            tuned = {name.replace(".base_layer.", "."): t for name, t in tuned.items()}
        if hasattr(bare.body[0], "restricted"):
            tuned |= _changed_rows(bare.body[0], module.body[0])
        return added | {
            name: tuned[name].numpy()
            for name, tensor in original.items()
            if not torch.equal(tuned[name], tensor)
        }

    def state(self) -> dict[str, Any]:
        """Return the content of a file with this network; the origin is not part of it.

        ============ ==================================================================
        key          value
        ============ ==================================================================
        ``format``   number of this layout
        ``frozen``   names of the stages that were not trained
        ``trained``  names of the stages that were
        ``settings`` ``train_batch_norm`` and ``precision``, ``part`` if it is not "all",
                     ``fixed``, the names of parameters that are not trained, and ``adapters``,
                     the settings of low-rank adapters
        ``tensors``  name to array: the trained tensors that differ from the origin, and those
                     of adapters; of word vectors the rows that differ and their ids
        ``head``     description of the head by names and numbers, or the module itself
                     if it has other layers than those of ``head="mlp"``
        ``weights``  name to array: the tensors of the head, if it is described
        ``plan``     fields of the training plan, without callbacks
        ``history``  one dictionary for each epoch, without the entries of its batches
        ============ ==================================================================
        """
        plan = {field.name: getattr(self.plan, field.name) for field in fields(TrainingPlan)}
        plan |= {"target": self.plan.target.state(), "callbacks": []}
        params = self.plan.net_params.items()
        plan |= {"net_params": {k: v for k, v in params if not k.startswith("callbacks")}}
        module, head = self.module, describe_module(self.module.head)
        weights = {} if isinstance(head, nn.Module) else module.head.state_dict()
        optional: dict[str, Any] = {"part": module.part} if module.part != "all" else {}
        optional |= {"fixed": sorted(module.fixed)} if module.fixed else {}
        optional |= {"adapters": module.adapters} if module.adapters is not None else {}
        settings = {"train_batch_norm": module.train_batch_norm, "precision": module.precision}
        return {
            "format": FORMAT,
            "frozen": self.frozen,
            "trained": module.names,
            "settings": settings | optional,
            "tensors": self.changed_tensors(),
            "head": head,
            "weights": {name: tensor.numpy(force=True) for name, tensor in weights.items()},
            "plan": plan,
            "history": self.history,
        }

    @classmethod
    def from_state(cls, origin: Backbone, state: dict[str, Any]) -> TunedNetwork:
        """Make a network from the content of a file and the pretrained backbone.

        Parameters
        ----------
        state : dict
            What :meth:`state` returned, in this or an earlier version of the package.

        Raises
        ------
        ValueError
            If a later version of the package wrote the state.
        """
        if state["format"] > FORMAT:
            raise ValueError(
                f"The file holds a tuned network in format {state['format']}; this version of "
                f"sktransfer reads formats up to {FORMAT}: install a later version."
            )
        head = build_module(state["head"])
        if not isinstance(state["head"], nn.Module):
            head.load_state_dict({k: torch.from_numpy(v) for k, v in state["weights"].items()})
        bare = pretrained_stages(origin, state["trained"], **state["settings"])
        module = deepcopy(bare)
        given = {name: torch.from_numpy(array) for name, array in state["tensors"].items()}
        added = {name: given.pop(name) for name in list(given) if is_adapter(name)}
        unexpected = module.load_state_dict(given, strict=False).unexpected_keys
        module.body[-1] = head
        if module.adapters is not None:
            check_adapters(module.adapters, added)
            module.add_adapters("of the file", seed=0)
        unexpected += module.load_state_dict(added, strict=False).unexpected_keys
        if unexpected:
            raise ValueError(f"The trained stages have no tensor {unexpected[0]!r:.80}.")
        plan = TrainingPlan(**state["plan"] | {"target": open_target(state["plan"]["target"])})
        return cls(origin, state["frozen"], module, plan, state["history"])


class TunedBackbone(Backbone):
    """A tuned network as a backbone, whose pickle holds the tensors that differ from its origin.

    Parameters
    ----------
    network : TunedNetwork
        It is not copied.
    classes : sequence of str or None
        Names of the outputs.
    label_rows : dict
        The row of the head for each label that was trained.
    """

    label_rows: dict[Any, int]
    network: TunedNetwork

    def __init__(
        self, network: TunedNetwork, classes: Sequence[str] | None, label_rows: dict[Any, int]
    ):
        origin = network.origin
        stages = {name: stages_of(origin)[name] for name in network.frozen}
        names = network.module.stage_names(stages)
        stages |= dict(zip(names, network.module.body, strict=True))
        super().__init__(
            f"{origin.name}_tuned",
            nn.Sequential(OrderedDict((n.replace(".", "/"), s) for n, s in stages.items())),
            modality=origin.modality,
            runtime=origin.runtime,
            preprocess=origin.preprocess,
            classes=classes,
            stages=stages,
            penultimate=list(stages)[-2],
            prefix_tokens=origin.prefix_tokens,
            has_class_token=origin.has_class_token,
        )
        self.network, self.label_rows = network, label_rows

    def __reduce_ex__(self, protocol: Any) -> str | tuple[Any, ...]:
        origin = self.network.origin
        resized = None if self.preprocess is origin.preprocess else self.preprocess
        about = (self.classes, self.label_rows, resized)
        return _open_tuned, (origin, self.network.state(), *about)


def _open_tuned(origin: Backbone, state: dict, classes, label_rows, resized) -> TunedBackbone:
    """Make a tuned backbone from the content of its pickle."""
    backbone = TunedBackbone(TunedNetwork.from_state(origin, state), classes, label_rows)
    if resized is not None:
        backbone.preprocess = resized
    return backbone


def pretrained_stages(
    backbone: Backbone,
    names: Sequence[str],
    train_batch_norm: bool,
    precision: str,
    part: str = "all",
    fixed: Collection[str] | None = None,
    adapters: dict[str, Any] | None = None,
) -> TrainableStages:
    """Return some stages of a backbone as a module without a head; tensors are shared.

    Parameters
    ----------
    names : list of str
        The stages.
    precision : {"float32", "bfloat16"}
    part : {"all", "norm", "bias", "lora"}, default="all"
        Which parameters of the stages are trained.
    fixed : collection of str, default=None
        As in :class:`TrainableStages`.
    adapters : dict, default=None
        As in :class:`TrainableStages`; they are not added.
    """
    shape = backbone.input_shape
    return TrainableStages(
        {name: stages_of(backbone)[name] for name in names},
        nn.Identity(),
        sides=(shape[1], shape[2]) if shape is not None and len(shape) == 3 else None,
        prefix_tokens=backbone.prefix_tokens,
        masked=backbone.modality.has_tokens,
        train_batch_norm=train_batch_norm,
        precision=precision,
        part=part,
        fixed=fixed,
        adapters=adapters,
    )


def _changed_rows(original, table) -> dict[str, torch.Tensor]:
    """Return the rows of a table of word vectors that differ from the original, and their ids."""
    before = original.restricted(table.index.numpy()).rows
    # Rows that the original table replaces itself must be kept, changed or not.
    keep = (table.rows != before).any(1) | torch.isin(table.index, original.index)
    return {"body.0.index": table.index[keep], "body.0.rows": table.rows.detach()[keep]}


# The arguments that rebuild a layer of each type.
_DESCRIBED = {
    nn.Linear: lambda layer: (layer.in_features, layer.out_features, layer.bias is not None),
    nn.ReLU: lambda layer: (layer.inplace,),
    nn.Dropout: lambda layer: (layer.p, layer.inplace),
}


def describe_module(module: nn.Module) -> tuple[Any, ...] | nn.Module:
    """Describe the layers of a module by names and numbers, without tensors.

    Returns
    -------
    tuple or torch.nn.Module
        ``(name of the class, settings)`` for the layers that :func:`make_head` uses; for
        ``Sequential`` the settings are ``(name, description)`` of each layer. The module itself
        if it has any other layer.
    """
    if type(module) in _DESCRIBED:
        return type(module).__name__, _DESCRIBED[type(module)](module)
    if type(module) is not nn.Sequential:
        return module
    layers = tuple((name, describe_module(layer)) for name, layer in module.named_children())
    if any(isinstance(description, nn.Module) for _, description in layers):
        return module
    return "Sequential", layers


def build_module(description: tuple[Any, ...] | nn.Module) -> nn.Module:
    """Build a module from its description, with uninitialized tensors.

    Parameters
    ----------
    description : tuple or torch.nn.Module
        What :func:`describe_module` returned. A module is copied.
    """
    if isinstance(description, nn.Module):
        return deepcopy(description)
    name, settings = description
    if name == "Sequential":
        return nn.Sequential(OrderedDict((key, build_module(layer)) for key, layer in settings))
    (cls,) = (cls for cls in _DESCRIBED if cls.__name__ == name)
    return nn.utils.skip_init(cls, *settings) if cls is nn.Linear else cls(*settings)
