"""Share between estimators: parameters about running, checks of X, the backbone, pickling."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from .._compat.sklearn import (
    CallbackSupportMixin,
    HasMethods,
    Interval,
    StrOptions,
    begin_fit,
    callback_state,
    clone_parametrized,
    end_fit,
    fit_context,
    validate_parameters,
    with_callbacks,
)
from ..backbones import Backbone, load_backbone, modality_of
from ..data import (
    documentation_link,
    named_among,
    network_line,
    package_versions,
    some_cells,
    table_columns,
    take,
    warn_later_versions,
)
from ..engines import ENGINES, check_engine, resolve_device
from .compute import compute_outputs, describe_runs
from .output import Output, layers_of, side_of
from .store import FeatureStore, as_store

_VECTORS = ("keys", "get_vector", "build_vocab")
_MOST_JOBS = 2**15

_Copied = TypeVar("_Copied")
_Method = TypeVar("_Method", bound=Callable[..., Any])
Fit = TypeVar("Fit", bound=Callable[..., Any])


class Count(Interval):
    """Constrain a parameter to whole numbers, without booleans, which Python counts among them."""

    def __init__(self, least: int, most: int = 2**31 - 1):
        super().__init__(Integral, least, most, closed="both")

    def is_satisfied_by(self, val: object) -> bool:
        return not isinstance(val, bool | np.bool_) and super().is_satisfied_by(val)


class BackboneEstimator(CallbackSupportMixin, BaseEstimator):
    """Base of all estimators that run samples through a backbone."""

    backbone_: Backbone
    backbone: Any
    image_size_: int | list[int] | None
    n_features_in_: int
    feature_names_in_: np.ndarray
    truncated_rate_: float
    oov_rate_: float
    prompts: Any = None

    _parameter_constraints: dict[str, Any] = {
        "backbone": [str, nn.Module, Backbone, HasMethods("to_backbone"), callable],
        # What load_word_vectors takes: pairs, mappings, gensim's vectors and models.
        "weights": [str, Path, None, tuple, list, *map(HasMethods, _VECTORS)],
        "image_size": [Count(1), None],
        "image_shape": ["array-like", None],
        "batch_size": [StrOptions({"auto"}), Count(1)],
        "device": [str],
        "engine": [StrOptions({"auto", *ENGINES})],
        "precision": [StrOptions({"float32", "bfloat16"})],
        "memory": [None, str, Path, FeatureStore, HasMethods("cache")],
        "n_jobs": [StrOptions({"auto"}), Count(1, _MOST_JOBS), Count(-_MOST_JOBS, -1), None],
        "verbose": ["verbose"],
    }

    def _require(self, y) -> None:
        """Raise an error if there is no target."""
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None."
            )

    def _fit_backbone(self, X) -> list | np.ndarray:
        """Load the backbone, check X and inspect the layers on a sample; return the samples."""
        self._check_running()
        self.backbone_ = self._load()
        samples = self._check_samples(X, reset=True)
        layers_of(self.backbone_, samples)
        self.__dict__.update(self._check_by_preprocessing(samples, fitting=True))
        return samples

    def _check_running(self) -> None:
        """Check parameters, before anything is computed, and forget rates of an earlier fit."""
        validate_parameters(self)
        as_store(self.memory)
        check_engine(self.engine, resolve_device(self.device), self._precision())
        for name in ("oov_rate_", "truncated_rate_"):
            self.__dict__.pop(name, None)

    def _check_by_preprocessing(self, samples, *, fitting: bool) -> dict:
        """Let the preprocessing warn about samples, and return what it has measured."""
        check = getattr(self.backbone_.preprocess, "check", None)
        return {} if check is None else check(samples, fitting=fitting)

    def _check_samples(self, X, *, reset: bool = False) -> list | np.ndarray:
        columns, modality = table_columns(X), self.backbone_.modality
        is_table = any(map(modality.looks_like, map(some_cells, columns.values())))
        if len(columns) > 1 and self.image_shape is None and is_table:
            given, line = list(columns), f"TransferClassifier({network_line(columns)})"
            raise ValueError(
                f"{type(self).__name__} takes one column of {modality.noun}, and X has the columns "
                f"{given!r:.200}. Give one, X[{given[0]!r}]; {line} and TransferRegressor take all."
            )
        validate = functools.partial(validate_data, self, reset=reset)
        return modality.check(X, image_shape=self.image_shape, validate=validate)

    def _compute(
        self,
        samples,
        outputs: Sequence[Output],
        rows=None,
        *,
        bad: dict | None = None,
    ) -> list[np.ndarray]:
        """Compute outputs for samples, or for those at some positions among them."""
        samples = samples if rows is None else take(samples, rows)
        with contextlib.nullcontext() if rows is None else named_among(rows):
            return compute_outputs(
                samples,
                outputs,
                batch_size=self.batch_size,
                device=self.device,
                engine=self.engine,
                precision=self._precision(),
                store=as_store(self.memory),
                n_jobs=self.n_jobs,
                verbose=self.verbose,
                bad=bad,
            )

    def _precision(self) -> str:
        return self.precision

    @property
    def execution_(self) -> dict[str, Any]:
        check_is_fitted(self)
        run = {"batch_size": self.batch_size, "engine": self.engine, "device": self.device}
        run |= {"precision": self._precision(), "store": as_store(self.memory)}
        outputs, changed = self._usual_run()
        return next(iter(describe_runs(outputs, **run | changed).values()))

    def _usual_run(self) -> tuple[list[Output], dict[str, Any]]:
        """Return the outputs of one pass of a usual call, and settings that are no parameters."""
        raise NotImplementedError

    def _transform_samples(self, X) -> list | np.ndarray:
        """Check samples other than those that the estimator is fitted to."""
        check_is_fitted(self)
        samples = self._check_samples(X)
        self._check_by_preprocessing(samples, fitting=False)
        return samples

    def _get_doc_link(self) -> str:
        """Return the page of the documentation, for the representation as HTML."""
        root, name = __name__.partition(".")[0], type(self).__name__
        is_ours = type(self).__module__.partition(".")[0] == root
        return documentation_link(f"generated/{root}.{name}.html") if is_ours else ""

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        modality = modality_of(self.backbone)
        modality.set_tags(tags.input_tags, from_table=self.image_shape is not None)
        return tags

    def __sklearn_clone__(self) -> Any:
        """Clone the estimator, and share a fitted model that was given as ``backbone``."""
        if not _is_tuned(self.backbone):
            return clone_parametrized(self)
        new = clone_parametrized(shallow_copy(self, backbone=self.backbone.to_backbone()))
        new.backbone = self.backbone
        return new

    def set_params(self, **params: Any) -> Self:
        """Set parameters. Those of a fitted model given as ``backbone`` are set on a copy."""
        if "backbone" in params:
            super().set_params(backbone=params.pop("backbone"))
        nested = any(name.startswith("backbone__") for name in params)
        if nested and _is_tuned(self.backbone):
            self.backbone = shallow_copy(self.backbone)  # clones share it with its owner
        return super().set_params(**params)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle.

        ========================== =========== ===========================================
        attribute                  pickled     why
        ========================== =========== ===========================================
        parameters                 yes         as given; a module of the user's by value
        ``backbone_``, registered  reference   name and fingerprint; weights stay where
                                               they are and must be the same at load
        ``backbone_``, from a file yes         the file may not be there at load
        ``backbone_``, of the      no          made again from the parameter, unless that
        user's module or vectors               was changed since ``fit``
        prepared networks          no          they live beside the backbone, not here
        ``_versions``              added       those of the packages; later ones warn
        ========================== =========== ===========================================
        """
        state = super().__getstate__() | {"_versions": package_versions()}
        fitted = state.get("backbone_")
        own = isinstance(self.backbone, nn.Module) or hasattr(self.backbone, "to_backbone")
        own = own or not isinstance(self.weights, str | Path | None)
        if fitted is not None and own and self._is_loaded_again(fitted):
            state = state | {"backbone_": None}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A file of an earlier version has no value of a parameter that was added since.
        parameters = inspect.signature(type(self).__init__).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        state = dict(state)
        warn_later_versions(state.pop("_versions", {}), f"The {type(self).__name__}")
        super().__setstate__(defaults | state)
        if "backbone_" in state and state["backbone_"] is None:
            self.backbone_ = self._load_again()

    def _is_loaded_again(self, fitted: Backbone) -> bool:
        """Tell whether the parameter still gives the backbone of the fit."""
        try:
            return self._load_again().fingerprint == fitted.fingerprint
        except Exception:  # the parameter may be anything, such as an estimator without a fit
            return False

    def _load(self) -> Backbone:
        """Load the backbone at its size, or the first of several; "auto" begins at the native."""
        sizes = self._asked_sizes()
        size = None if isinstance(self.image_size, str) else self.image_size
        return self._load_at(sizes[0] if sizes else size)

    def _load_again(self) -> Backbone:
        """Load the backbone of the fit, for a pickle without it."""
        size = getattr(self, "image_size_", self.image_size)
        return self._load_at(size[0] if isinstance(size, list) else size)

    def _load_at(self, image_size: int | None) -> Backbone:
        return load_backbone(
            self.backbone,
            weights=self.weights,
            image_size=image_size,
            prompts=self.prompts,
        )

    def _asked_sizes(self) -> list[int] | None:
        """Check a list of sizes; None if a single size is asked for."""
        if not isinstance(self.image_size, list):
            return None
        wrong = [size for size in self.image_size if not Count(1).is_satisfied_by(size)]
        if wrong or not self.image_size:
            what = f": {wrong[0]!r} is no size" if wrong else " names no size"
            raise ValueError(f"image_size={self.image_size!r}{what}. Give sides in pixels.")
        if len(set(self.image_size)) < len(self.image_size):
            raise ValueError(f"image_size={self.image_size!r}: give each size once.")
        return [int(size) for size in self.image_size]

    def _find_sizes(self, samples) -> None:
        """Set the input size or sizes, and check the network at each."""
        self.image_size_ = self._asked_sizes() or side_of(self.backbone_)
        for backbone in self._sized:
            layers_of(backbone, samples)

    @property
    def _sized(self) -> list[Backbone]:
        """The backbone for each size."""
        if not isinstance(self.image_size_, list):
            return [self.backbone_]
        return [self.backbone_.with_image_size(size) for size in self.image_size_]

    @contextlib.contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Report a phase of a fit that is decorated by :func:`reported`."""
        root = fit_context(self)
        if root is None or not root.max_subtasks:
            yield
            return
        task = root.subcontext(task_name=name)
        task.call_on_fit_task_begin(estimator=self)
        yield
        task.call_on_fit_task_end(estimator=self)


def checked_samples(estimator: BackboneEstimator, X: Any) -> list[Any] | np.ndarray:
    """Check X as a fitted estimator does, and return its samples, none opened."""
    return estimator._transform_samples(X)


def reported(n_phases: int = 0) -> Callable[[Fit], Fit]:
    """Decorate a fit that calls ``_phase`` so often: callbacks are told of its begin and end."""

    def decorate(fit: Fit) -> Fit:
        @with_callbacks
        @functools.wraps(fit)
        def run(self, *args, **kwargs):
            begin_fit(self, max_subtasks=n_phases)
            result = fit(self, *args, **kwargs)
            end_fit(self)
            return result

        return cast(Fit, run)

    return decorate


def shallow_copy(estimator: _Copied, **changed: Any) -> _Copied:
    """Copy an estimator with some other attributes; ``copy.copy`` would use the pickle's state."""
    twin = object.__new__(type(estimator))
    vars(twin).update(vars(estimator) | changed)
    return twin


def _is_tuned(backbone) -> bool:
    """Tell whether a backbone is a fitted fine-tuned estimator."""
    return hasattr(backbone, "to_backbone") and hasattr(backbone, "backbone_")


def all_or_nothing(method: _Method) -> _Method:
    """Decorate a fit so that a failing call leaves the estimator as it was.

    Restoring the attributes is enough, since a fit changes no object of an earlier fit in place.
    """

    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = dict(vars(self))
        try:
            return method(self, *args, **kwargs)
        except BaseException:
            running = callback_state(self)
            vars(self).clear()
            vars(self).update(before | running)
            raise

    return cast(_Method, guarded)
