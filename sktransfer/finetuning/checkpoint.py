"""Keep the state of a training on disk, so that a fit that was killed goes on."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from skorch import NeuralNet
from skorch.callbacks import Callback
from skorch.history import History

from ..backbones import Backbone, describe
from ..backbones.serialization import first_unknown, from_bytes, to_bytes
from ..data import CacheError, checksum, claim_file, digest_array, replace_file
from .callbacks import AverageWeights, KeepBest, WarmupCosine, mean_loss
from .dataset import TrainingDataset
from .trainable_stages import TrainableStages

_NAME = "training.checkpoint"
_KEY = "{key}"  # in the name of a folder: a digest of the data and parameters
_MARK = b"SKTCKPT1"  # of this format
_LIBRARIES = ("skorch", "sktransfer")  # their callbacks set other attributes when they begin
_SAME_LOSS = 1e-2, 1e-4  # relative and absolute: a training may go on on another device
_CACHES = ("y_trues_", "y_preds_")  # predictions of skorch's scores, made again in each epoch
# Parameters that do not decide what is trained. The backbone counts by its content.
_OTHER = frozenset(
    ["backbone", "weights", "random_state", "warm_start", "checkpoint", "memory", "n_jobs"]
) | {"device", "engine", "max_cache_bytes", "verbose"}


class TrainingFile:
    """The file of a checkpoint folder, which belongs to one set of data and parameters.

    Parameters
    ----------
    folder : str or Path
        It is created. "{key}" in it becomes a digest of ``about``.
    about : dict of str to str
        The data and the parameters by name, each described or as a digest.
    seed : int
        Of this fit; if the file is there, ``seed`` becomes that of the fit that wrote it.

    Raises
    ------
    ValueError
        If the folder cannot be created, or the file belongs to other data or parameters.
    """

    folder: str
    about: dict[str, str]
    extends: bool  # whether the file is that of a fit of fewer epochs, which has ended
    path: Path
    seed: int
    is_written = True  # by this process

    def __init__(self, folder: str | Path, about: dict[str, str], seed: int):
        self.folder = str(folder)
        key = xxhash.xxh3_128_hexdigest(json.dumps(about, sort_keys=True).encode())
        self.path = Path(self.folder.replace(_KEY, key)) / _NAME
        self.about, self.seed = about, seed
        self.state: dict[str, Any] | None = None
        self.extends = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Whose folder it is, so that another fit finds that out before it has trained.
            is_new = not self.path.exists() and self._write({}, claim_file) is not False
            content = None if is_new else self.path.read_bytes()
        except OSError as error:
            raise ValueError(f"checkpoint={self.folder!r} cannot be used: {error}") from error
        if content is not None:
            self._open(content)

    def _write(self, state: dict, write: Callable) -> bool | None:
        """Write the file; if this fails, warn and keep the old one."""
        content = to_bytes(state | {"about": self.about, "seed": self.seed})
        try:
            return write(self.path, _MARK, checksum(content), content)
        except CacheError as error:
            warnings.warn(
                f"checkpoint: {self.path} could not be written ({error}). Training goes on; after "
                "an interruption it starts again from the epoch of the last checkpoint.",
                stacklevel=2,
            )
        return None

    def _open(self, content: bytes) -> None:
        start, rest = len(_MARK), content[len(_MARK) + 8 :]
        if content[:start] != _MARK or checksum(rest) != content[start : start + 8]:
            warnings.warn(
                f"{self.path} is damaged or of another version: training starts from the "
                "beginning.",
                stacklevel=2,
            )
            return
        state = from_bytes(rest)
        about = state["about"]
        other = [name for name in self.about if about.get(name, "") != self.about[name]]
        self.extends = other == ["max_epochs"] and state.get("finished", False)
        if other and not self.extends:
            raise self._refused(other)
        self.seed = state["seed"]
        self.state = state if "history" in state else None  # no epoch was completed

    def _refused(self, other: list[str]) -> ValueError:
        """Return the error for a file that belongs to another fit."""
        return ValueError(
            f"checkpoint={self.folder!r} holds the training of a fit with other values of "
            f"{', '.join(other)}. Fit with the same ones to go on, give another folder, or "
            f"delete {str(self.path)!r}. In a search or a cross-validation, give "
            f"checkpoint={str(Path(self.folder) / _KEY)!r}, so that each fit has a folder."
        )

    def n_left(self, max_epochs: int) -> int:
        """Return the number of epochs that are left.

        Raises
        ------
        ValueError
            If the training in the file is finished and has no fewer epochs, of another number.
        """
        if self.extends and max_epochs <= self.n_epochs:
            raise self._refused(["max_epochs"])
        return max_epochs - self.n_epochs

    def finish(self) -> None:
        """Note that the training in the file was ended by a callback, and can be extended."""
        if not self.is_written:
            return
        state = from_bytes(self.path.read_bytes()[len(_MARK) + 8 :])
        if "history" in state:
            self.save(state | {"finished": True})

    @property
    def n_epochs(self) -> int:
        """Number of epochs that the file holds."""
        return 0 if self.state is None else len(self.state["history"])

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file; if this fails, warn and keep the old one.

        Parameters
        ----------
        state : dict
        """
        if self.is_written:
            self._write(state, replace_file)


# -- what a training depends on --------------------------------------------------------------------


def describe_fit(
    estimator: Any,
    samples: Sequence[Any],
    target: np.ndarray,
    weight: np.ndarray | None,
    start: TrainableStages | None,
    validation: Any = None,
) -> dict[str, Any]:
    """Describe the data and the parameters that decide a training.

    Parameters
    ----------
    estimator : TunedEstimator
        With ``backbone_``.
    target : ndarray of shape (n, ...)
        Encoded.
    weight : ndarray of shape (n,)
    start : TrainableStages or None
        That ``warm_start`` continues from.
    validation : Validation, default=None
        The validation set, where it is given.

    Returns
    -------
    dict of str to str
    """
    given, backbone = estimator.get_params(deep=False), estimator.backbone_
    about = {name: _described(given[name]) for name in sorted(set(given) - _OTHER)}
    is_seed = isinstance(estimator.random_state, int | np.integer)
    if validation is not None:
        about["X_val"] = _digest_samples(validation.samples, backbone).hex()
        about["y_val"] = _described(np.asarray(validation.target))
    parts = (backbone.preprocess, getattr(backbone, "label_rows", None))
    return about | {
        "backbone": " ".join([backbone.fingerprint, *map(_described, parts)]),
        "random_state": str(estimator.random_state) if is_seed else "drawn",
        "X": _digest_samples(samples, backbone).hex(),
        "y": _described((getattr(estimator, "classes_", None), np.asarray(target))),
        "sample_weight": digest_array(np.asarray(weight, np.float64)).hex(),
        "warm_start": "" if start is None else _digest_state(start).hex(),
    }


def _described(value) -> str:
    try:
        return describe(value)
    except ValueError:  # such as a callback that holds an open file
        return f"{type(value).__module__}.{type(value).__qualname__}"


def _digest_samples(samples: Sequence, backbone: Backbone) -> bytes:
    modality, state = backbone.modality, xxhash.xxh3_128()
    for sample in samples:
        try:
            state.update(modality.digest(modality.read(sample)))
        except Exception:  # the error is raised where the sample is opened
            state.update(b"unreadable")
    return state.digest()


def _digest_state(module: TrainableStages) -> bytes:
    state = xxhash.xxh3_128()
    for name, tensor in module.state_dict().items():
        state.update(name.encode())
        state.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return state.digest()


# -- the state of a training -----------------------------------------------------------------------


class SaveTraining(Callback):
    """Save the state of a training after each epoch, and restore it before the first.

    It is the last callback, so that the others have done their part of an epoch.
    """

    file: TrainingFile
    module: TrainableStages

    def __init__(self, file: TrainingFile, module: TrainableStages):
        self.file, self.module = file, module
        self._order: torch.Tensor | None = None  # of the rows, to go on from

    def on_train_begin(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        state = self.file.state
        if state is None:
            return
        module, self._order = self.module, state["order"]
        module.load_state_dict(state["module"])
        self._compare(state.get("loss"), _first_loss(net, X))
        module.seed = state["module_seed"]
        net.history_ = History(state["history"])
        if self.file.extends:
            self._extend(net, state["callbacks"])
            return
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in state["learned"])
        net.optimizer_.load_state_dict(state["optimizer"])
        for name, callback in self._others(net):
            _restore(callback, state["callbacks"].get(name, {}))

    def on_epoch_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        generator = getattr(net.train_batches, "generator", None)
        if self._order is not None and generator is not None:
            generator.set_state(self._order)
        self._order = None

    def _extend(self, net: NeuralNet, callbacks: dict[str, Any]) -> None:
        """Go on from the weights that a finished training has, with new schedules."""
        for name, callback in self._others(net):
            if isinstance(callback, KeepBest):
                _restore(callback, callbacks[name])
                net.module_.load_state_dict(callback.state_)
            elif isinstance(callback, AverageWeights):  # behind KeepBest, whose epoch it replaces
                if (average := callbacks[name]["average_"]) is not None:
                    net.module_.load_state_dict(average)
            elif isinstance(callback, WarmupCosine):
                callback.restart(net, net.max_epochs - len(net.history))

    def _compare(self, before: float | None, loss: float | None) -> None:
        """Raise an error if the restored weights give another loss than when they were saved."""
        if before is not None and loss is not None and not np.isclose(before, loss, *_SAME_LOSS):
            raise ValueError(
                f"checkpoint={self.file.folder!r} holds a training whose loss on its first batch "
                f"was {before:.4g} and is {loss:.4g} with the same weights: code of the network, "
                "its preprocessing, an augmentation or the loss has changed. Fit with the same "
                f"code to go on, give another folder, or delete {str(self.file.path)!r}."
            )

    def on_epoch_end(
        self, net: NeuralNet, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any
    ) -> None:
        module, generator = self.module, getattr(net.train_batches, "generator", None)
        state = {
            "module": module.state_dict(),
            "module_seed": module.seed,
            "loss": _first_loss(net, dataset_train),
            "learned": [name for name, p in module.named_parameters() if p.requires_grad],
            "optimizer": net.optimizer_.state_dict(),
            "history": list(net.history),
            "order": None if generator is None else generator.get_state(),
            "callbacks": {name: _state_of(name, c) for name, c in self._others(net)},
            "lr": net.lr,
            "finished": len(net.history) >= net.max_epochs,
        }
        self.file.save(state)

    def on_train_end(self, net: NeuralNet, **kwargs: Any) -> None:
        if net.was_stopped and self.file.path.exists():
            self.file.finish()

    def _others(self, net) -> list[tuple[str, Callback]]:
        return [(name, callback) for name, callback in net.callbacks_ if callback is not self]


def _first_loss(net: NeuralNet, rows: Any) -> float | None:
    """Return the loss of the first rows without dropout; None for rows that are not ours."""
    return mean_loss(net, rows, net.batch_size) if isinstance(rows, TrainingDataset) else None


def _state_of(name: str, callback: Callback) -> dict[str, Any]:
    """Return the attributes of a callback that are not parameters, as far as a file takes them."""
    parameters = inspect.signature(type(callback).__init__).parameters
    state = {}
    for key, value in vars(callback).items():
        if key in parameters or key in _CACHES:
            continue
        if hasattr(value, "state_dict") and not isinstance(value, type):
            value = {"state_dict": value.state_dict()}
        if (unknown := first_unknown(value)) is None:
            state[key] = value
        elif type(callback).__module__.partition(".")[0] not in _LIBRARIES:
            raise TypeError(
                f"checkpoint= cannot keep the attribute {key!r} of the callback {name!r}, which "
                f"holds a {unknown.__name__}. Keep numbers, texts, lists, dictionaries and tensors "
                "in it, or pass the object to the constructor."
            )
    return state


def _restore(callback: Callback, state: dict[str, Any]) -> None:
    for key, value in state.items():
        if isinstance(value, dict) and set(value) == {"state_dict"}:
            getattr(callback, key).load_state_dict(value["state_dict"])
        else:
            setattr(callback, key, value)
