import numpy as np
import pytest

import sktransfer
from sktransfer import FeatureStore, PretrainedFeatureExtractor
from tests.cli.running import run
from tests.support import Vectors, tiny_backbone


@pytest.fixture
def store(tmp_path):
    """The folder of a feature store with three entries."""
    X = [[float(i), 1.0] for i in range(3)]
    PretrainedFeatureExtractor(Vectors(), memory=tmp_path / "store").fit_transform(X)
    return tmp_path / "store"


def test_a_feature_store_is_counted_and_cleared(store):
    n_bytes = FeatureStore(store).nbytes
    assert f"3 entries, {n_bytes} bytes" in run("cache", store).output
    assert "0 entries, 0 bytes" in run("cache", store, "--clear").output
    assert len(FeatureStore(store)) == 0


def test_a_folder_without_a_store_is_an_error_and_stays_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="no feature store"):
        run("cache", tmp_path / "empty")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_listed_without_loading_it(tmp_path):
    pytest.importorskip("skops")
    model = PretrainedFeatureExtractor(tiny_backbone()).fit([np.zeros((16, 16, 3), np.uint8)])
    sktransfer.save(model, tmp_path / "model.skt")
    output = run("inspect", tmp_path / "model.skt").output
    assert "estimator\tPretrainedFeatureExtractor\n" in output
    assert "name tinynet, how given" in output
    assert "networks/0.safetensors 1,660 bytes" in output


def test_a_file_that_is_no_model_is_an_error(tmp_path):
    (tmp_path / "model.skt").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="cannot be loaded"):
        run("inspect", tmp_path / "model.skt")
