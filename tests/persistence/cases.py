"""Fitted estimators of every kind, with samples, for the tests of files and graphs."""

import functools
from types import SimpleNamespace

import numpy as np
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sktransfer import (
    FineTunedClassifier,
    FineTunedRegressor,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    TransferClassifier,
    TransferRegressor,
    load_word_vectors,
)
from sktransfer.backbones import resolve_layer
from sktransfer.features import Output
from sktransfer.selection import Blend
from sktransfer.selection.candidates import TunedCandidate
from sktransfer.transferability import GlobalScaler, LinearProbe, RidgeProbe
from tests.support import images, tiny_backbone

X = images(24)
Y = np.array(["ant", "bee", "cat"] * 8)
ROWS = np.random.default_rng(0).normal(size=(24, 5))
NUMBERS = 50 + 10 * ROWS[:, 0]
SEVERAL = (np.random.default_rng(1).normal(size=(24, 4)) > 0).astype(int)
TEXTS = [f"{a} film {b}" for a in ("good", "bad", "long") for b in "abcdefgh"]
VECTORS = {"good": [1.0, 0.0], "bad": [-1.0, 0.5], "film": [0.0, 1.0], "a": [0.3, 0.2]}
SETTINGS = {"max_epochs": 1, "random_state": 0}
MODULES = {"tinynet": tiny_backbone}


def features(**settings):
    return PretrainedFeatureExtractor(tiny_backbone(), **settings)


def words(**settings):
    return PretrainedFeatureExtractor(load_word_vectors(VECTORS), **settings)


def tuned(**settings):
    return FineTunedClassifier(tiny_backbone(), **SETTINGS | settings)


def linear():
    return make_pipeline(features(), LogisticRegression())


def table():
    import pandas as pd

    columns = {"front": X, "back": X[::-1], "text": TEXTS}
    numbers = {"length": np.arange(24.0), "age": ROWS[:, 0], "colour": ["red", "blue", "red"] * 8}
    return pd.DataFrame(columns | numbers)


def of_columns():
    """One network for two columns, another for texts, and numbers and categories beside them."""
    columns = [
        ("photos", features(n_components=2), ["front", "back"]),
        ("again", make_pipeline(features(layer="2"), StandardScaler()), "front"),
        ("words", words(), "text"),
        ("numbers", StandardScaler(), ["length", "age"]),
        ("colour", OneHotEncoder(sparse_output=False), ["colour"]),
    ]
    return make_pipeline(
        ColumnTransformer(columns, transformer_weights={"again": 0.5}), LogisticRegression()
    )


def blend_with_a_tuned_network():
    """A blend as ``time_budget`` makes it, whose network has not seen the last class."""
    model = TransferClassifier(tiny_backbone(), random_state=0).fit(X, Y)
    some = Y != "cat"
    network = tuned(trainable="all", image_size=20)
    network.fit([x for x, kept in zip(X, some, strict=True) if kept], Y[some])
    tuned_candidate = TunedCandidate(
        "trained", [output_of(network)], columns=np.array([0, 1]), n_classes=3
    )
    tuned_candidate.weight, tuned_candidate.temperature = 0.4, 1.3
    model.estimator_ = mixed(model.estimator_, tuned_candidate)
    return model


def output_of(model):
    """The outputs of a tuned network."""
    network = model.to_backbone()
    return Output(network, resolve_layer(network, -1))


def mixed(blend, tuned_candidate):
    """The same blend with a tuned network."""
    return Blend(
        list(blend.candidates),
        blend.temperature,
        classes=blend.classes,
        scaler=blend.scaler,
        vectorizers=blend.vectorizers,
        tuned=tuned_candidate,
    )


def numbers_with_a_tuned_network():
    model = TransferRegressor(tiny_backbone(), random_state=0).fit(X, NUMBERS)
    network = FineTunedRegressor(tiny_backbone(), trainable="all", **SETTINGS)
    network.fit(X[:12], NUMBERS[:12])
    candidate = TunedCandidate(
        "trained", [output_of(network)], factor=np.array([0.9]), shift=np.array([0.1])
    )
    candidate.weight = 0.4
    model.blend_ = mixed(model.blend_, candidate)
    return model


def case(make, y=Y, samples=X, **also):
    """Make a case, fitted once: of an estimator, or of a function that makes one."""

    @functools.cache
    def fitted():
        given = samples() if callable(samples) else samples
        model = make()
        return (model.fit(given, y, **also) if y is not None else model), given

    fitted.make = make
    return fitted


# Each public estimator is the outermost one of a case at least.
CASES = {
    "extractor": case(features),
    "word vectors": case(words, samples=TEXTS),
    "direct": case(lambda: PretrainedClassifier(tiny_backbone())),
    "class map": case(lambda: PretrainedClassifier(tiny_backbone(), class_map={"x": ["a", 1]})),
    "prompts": case(
        lambda: PretrainedClassifier(
            load_word_vectors(VECTORS), prompts={1: ["good film", "good"], 0: "bad film"}
        ),
        samples=TEXTS,
    ),
    "tuned": case(tuned),
    "loss": case(lambda: tuned(loss=torch.nn.functional.cross_entropy)),
    "several labels": case(tuned, SEVERAL),
    "numbers": case(lambda: FineTunedRegressor(tiny_backbone(), **SETTINGS), NUMBERS),
    "huber": case(
        lambda: FineTunedRegressor(
            tiny_backbone(), loss=torch.nn.functional.huber_loss, **SETTINGS
        ),
        np.column_stack([NUMBERS, -NUMBERS]),
    ),
    "blend": case(lambda: TransferClassifier(tiny_backbone(), random_state=0)),
    "blend with a map": case(
        lambda: TransferClassifier(
            tiny_backbone(), class_map={"ant": "a", "bee": "b", "cat": ["c"]}, random_state=0
        )
    ),
    "blend with unlabelled samples": case(
        lambda: TransferClassifier(tiny_backbone(), random_state=0), X_unlabelled=images(12, seed=1)
    ),
    "blend with a tuned network": case(blend_with_a_tuned_network, None),
    "numbers of a tuned network": case(numbers_with_a_tuned_network, None),
    "blend of texts": case(
        lambda: TransferClassifier(load_word_vectors(VECTORS), random_state=0), samples=TEXTS
    ),
    "regressor": case(lambda: TransferRegressor(tiny_backbone(), random_state=0), NUMBERS),
    "loss of torch": case(
        lambda: tuned(loss=torch.nn.BCEWithLogitsLoss(pos_weight=torch.full([4], 2.0))), SEVERAL
    ),
    "linear probe": case(LinearProbe, samples=ROWS),
    "ridge probe": case(RidgeProbe, NUMBERS, ROWS),
    "scaler": case(GlobalScaler, samples=ROWS),
    "pipeline": case(linear),
    "union": case(
        lambda: make_pipeline(
            FeatureUnion(
                [("a", features()), ("b", features(layer="2"))], transformer_weights={"b": 2.0}
            ),
            LogisticRegression(),
        )
    ),
    "columns": case(of_columns, samples=table),
    "search": case(lambda: GridSearchCV(linear(), {"logisticregression__C": [0.1, 1.0]}, cv=2)),
    "voting": case(lambda: VotingClassifier([("a", linear()), ("b", tuned())], voting="soft")),
    "stacking": case(lambda: StackingClassifier([("a", linear()), ("b", tuned())], cv=2)),
    "calibrated": case(lambda: CalibratedClassifierCV(linear(), cv=2)),
    "one or the rest": case(lambda: OneVsRestClassifier(linear())),
    "regression": case(lambda: make_pipeline(features(), Ridge()), NUMBERS),
}


def outputs(model, samples) -> dict:
    methods = ("predict_proba", "decision_function", "predict", "transform")
    return {m: np.asarray(getattr(model, m)(samples)) for m in methods if hasattr(model, m)}


def of(name: str) -> SimpleNamespace:
    model, samples = CASES[name]()
    return SimpleNamespace(model=model, samples=samples)
