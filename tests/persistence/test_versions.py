"""Files of this and of earlier versions open."""

import warnings

import joblib
import numpy as np
import pytest

from sktransfer import PretrainedFeatureExtractor, load
from sktransfer.data import package_versions, warn_later_versions
from tests.finetuning import write_files
from tests.new_process import run_in_new_process
from tests.persistence.write_files import FILES
from tests.support import tiny_backbone

OPEN = """
import sys
from pathlib import Path
import joblib
import numpy as np
from sktransfer import load
from tests.finetuning.write_files import module, outputs
folder = Path(sys.argv[1])
kept = np.load(folder / "expected.npz")
for name, model in joblib.load(folder / "all.joblib").items():
    X = list(kept["X " + name])
    again = load(folder / (name.replace(" ", "_") + ".skt"), modules={"sequential": make(name)})
    for one in (model, again):
        np.testing.assert_allclose(outputs(one, X), kept[name], rtol=1e-4, atol=1e-5, err_msg=name)
    print(name)
"""


@pytest.mark.integration
@pytest.mark.parametrize("version", sorted(path.name for path in FILES.glob("version_*")))
def test_files_of_each_version_open_in_a_new_process(version):
    make = "make = lambda name: module\n"
    names = run_in_new_process(make + OPEN, FILES / version).splitlines()
    assert sorted(names) == sorted(write_files.models())


def test_pickles_hold_the_versions_and_warn_of_later_ones(tmp_path):
    model = PretrainedFeatureExtractor(tiny_backbone()).fit([np.zeros((16, 16, 3), np.uint8)])
    assert model.__getstate__()["_versions"] == package_versions()
    joblib.dump(model, tmp_path / "model.joblib")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = joblib.load(tmp_path / "model.joblib")
    assert not hasattr(again, "_versions")
    state = model.__getstate__() | {"_versions": {"torch": "99.0", "scikit-learn": "1.0"}}
    with pytest.warns(UserWarning, match=r"was saved with torch 99\.0 \(here: "):
        again.__setstate__(state)


@pytest.mark.parametrize("recorded", [{}, {"torch": ""}, {"torch": "x.y"}, {"other": "99.0"}])
def test_other_versions_are_no_warning(recorded):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_later_versions(recorded, "file")


def test_loading_in_this_process_gives_what_the_other_gave():
    folder = sorted(FILES.glob("version_*"))[-1]
    kept = np.load(folder / "expected.npz")
    model = load(folder / "numbers.skt", modules={"sequential": write_files.module})
    np.testing.assert_allclose(model.predict(kept["X numbers"]), kept["numbers"], rtol=1e-4)
