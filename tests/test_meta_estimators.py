"""Meta-estimators of scikit-learn around estimators whose samples are files."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier

from sktransfer import FineTunedClassifier, PretrainedFeatureExtractor
from tests.support import images, tiny_backbone

N = 24
Y = np.array(["a", "b", "c"] * (N // 3))
INDICATOR = np.c_[Y == "a", Y == "b"].astype(int)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Names of files, an array of objects with two columns."""
    folder = tmp_path_factory.mktemp("files")
    table = np.empty((N, 2), object)
    for i, image in enumerate(images(2 * N)):
        table[i % N, i // N] = str(folder / f"{i}.png")
        Image.fromarray(image).save(table[i % N, i // N])
    return table


def extractor(**settings):
    return PretrainedFeatureExtractor(tiny_backbone(), **settings)


def pipeline():
    return make_pipeline(extractor(), LogisticRegression())


def fine_tuned():
    return FineTunedClassifier(tiny_backbone(), max_epochs=1)


def stacked(base):
    """Stacking whose last estimator is given the predictions and the names of the files."""
    both = make_column_transformer((extractor(), [-1]), remainder="passthrough")
    final = make_pipeline(both, LogisticRegression())
    return StackingClassifier([("e", base)], final_estimator=final, passthrough=True, cv=2)


META = {
    "bagging": lambda base: BaggingClassifier(base, n_estimators=2, random_state=0),
    "one-vs-rest": OneVsRestClassifier,
    "output codes": lambda base: OutputCodeClassifier(base, random_state=0),
    "stacking": lambda base: StackingClassifier([("e", base)], cv=2),
    "voting": lambda base: VotingClassifier([("e", base)], voting="soft"),
    "calibration": lambda base: CalibratedClassifierCV(base, cv=2),
    "several outputs": MultiOutputClassifier,
    "search": lambda base: GridSearchCV(base, {}, cv=2),
}


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("meta", META)
def test_a_pipeline_in_a_meta_estimator(meta, columns, names):
    X, y = names[:, :columns], INDICATOR if meta == "several outputs" else Y
    found = META[meta](pipeline()).fit(X, y).predict(X)
    assert found.shape == y.shape


@pytest.mark.parametrize(
    "meta",
    [
        lambda base: AdaBoostClassifier(base, n_estimators=2, random_state=0),
        lambda base: BaggingClassifier(base, n_estimators=1, random_state=0),
        stacked,
    ],
)
def test_a_fine_tuned_estimator_in_a_meta_estimator(meta, names):
    X = names[:, :1]
    assert meta(fine_tuned()).fit(X, Y).predict(X).shape == (N,)


CONVERTING = {
    "one-vs-one": OneVsOneClassifier,
    "self-training": SelfTrainingClassifier,
    "chain": ClassifierChain,
}


def target(meta):
    codes = np.unique(Y, return_inverse=True)[1]
    unlabelled = np.where(np.arange(N) % 5 == 0, -1, codes)
    return {"chain": INDICATOR, "self-training": unlabelled}.get(meta, Y)


@pytest.mark.parametrize("meta", CONVERTING)
def test_features_before_a_meta_estimator_that_converts_x_to_numbers(meta, names):
    model = make_pipeline(extractor(), CONVERTING[meta](LogisticRegression()))
    assert len(model.fit(names, target(meta)).predict(names)) == N


@pytest.mark.slow
@pytest.mark.parametrize("meta", CONVERTING)
def test_positions_in_a_meta_estimator_that_converts_x_to_numbers(meta, names):
    look_up = FunctionTransformer(lambda rows: names[rows[:, 0].astype(int)])
    X = np.arange(N)[:, None]
    model = CONVERTING[meta](make_pipeline(look_up, pipeline())).fit(X, target(meta))
    assert len(model.predict(X)) == N


@pytest.mark.slow
def test_images_texts_and_numbers_in_a_column_transformer(names):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"front": names[:, 0], "side": names[:, 1], "x": rng.normal(size=N), "z": 1.0}
    ).astype({"front": object, "side": object})
    table.iloc[3, 1] = None
    both = make_column_transformer(
        (extractor(n_components=3, missing="zero"), ["front", "side"]),
        (StandardScaler(), ["x", "z"]),
    )
    found = both.fit_transform(table)
    assert found.shape == (N, 8)
    assert not found[3, 3:6].any()
    assert both.get_feature_names_out()[3].endswith("__side_tinynet_pca_0")
    model = make_pipeline(both, LogisticRegression()).fit(table, Y)
    assert model.predict(table[:5]).shape == (5,)
