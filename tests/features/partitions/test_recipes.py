"""The recipes for other schedulers in the guide run and give the features of the extractor."""

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from sktransfer import PretrainedFeatureExtractor
from tests.features.partitions.support import N, write_files
from tests.support import TESTS

pytestmark = [pytest.mark.integration, pytest.mark.sweep]

PAGE = (TESTS.parent / "docs" / "guide" / "cluster.md").read_text(encoding="utf-8")


def recipe(name: str) -> str:
    """A recipe of the page; it is at most 20 lines long."""
    found = re.search(rf"<!-- recipe: {name} -->\n```py\n(.*?)```", PAGE, re.DOTALL)
    assert len([line for line in found[1].splitlines() if line.strip()]) <= 20
    return found[1]


@pytest.mark.parametrize("name", ["joblib", "ray", "pyspark"])
def test_a_recipe_gives_the_features_of_the_extractor(name, tmp_path, this_machine):
    pytest.importorskip(name)
    paths = write_files(tmp_path / "x")
    pd.DataFrame({"path": paths}).to_parquet(tmp_path / "photos.parquet")
    (tmp_path / "recipe.py").write_text(recipe(name))
    run = [sys.executable, "recipe.py"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    if name == "joblib":
        X, order = np.load(tmp_path / "features.npy"), paths
    else:
        frame = pd.read_parquet(tmp_path / "features")
        X, order = np.stack(frame["features"]), frame["path"].tolist()
    assert sorted(order) == paths and len(order) == N
    expected = PretrainedFeatureExtractor(image_size=64).fit_transform(order)
    np.testing.assert_allclose(X, expected, rtol=1e-3, atol=1e-4)
