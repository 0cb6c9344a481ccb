"""A folder of partitions as ``memory``."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sktransfer import FeatureStore, FineTunedClassifier, extract_to
from sktransfer.features.partitions import folder as folders
from tests.features.partitions.support import (
    LABELS,
    N,
    encoded,
    extractor,
    write_files,
    write_parquet,
    write_zip,
)
from tests.support import images, tiny_backbone


@pytest.fixture
def paths(tmp_path):
    return write_files(tmp_path / "x")


def test_features_of_partitions_are_not_computed_again(paths, tmp_path, counted, monkeypatch):
    monkeypatch.setattr(folders, "ROW_GROUP", 2)
    made = extractor(layer=["0", None])
    extract_to(tmp_path / "f", made, source=paths, partition_size=4)
    expected = made.fit_transform(paths)
    counted.clear()
    order = np.random.default_rng(0).permutation(N)
    found = extractor(layer=["0", None], memory=tmp_path / "f").fit_transform(
        [paths[i] for i in order]
    )
    np.testing.assert_allclose(found, expected[order], rtol=1e-5)
    one = extractor(memory=tmp_path / "f").fit_transform(paths[:3])
    np.testing.assert_allclose(one, expected[:3, -one.shape[1] :], rtol=1e-5)
    assert not counted


def test_the_source_of_the_partitions_does_not_matter(paths, tmp_path, counted):
    """Images in an archive or a table are those of files with the same content."""
    archive = write_zip(tmp_path / "t.zip", encoded())
    table = write_parquet(tmp_path / "t.parquet", encoded())
    for i, source in enumerate([archive, table]):
        extract_to(tmp_path / str(i), extractor(), source=source)
        counted.clear()
        extractor(memory=tmp_path / str(i)).fit_transform(paths)
        assert not counted


def test_a_search_runs_the_network_once(paths, tmp_path, counted):
    extract_to(tmp_path / "f", extractor(layer=["0", None]), source=paths)
    counted.clear()
    model = make_pipeline(extractor(memory=tmp_path / "f"), LogisticRegression())
    grid = {"pretrainedfeatureextractor__layer": ["0", None]}
    GridSearchCV(model, grid, cv=2).fit(paths, LABELS)
    assert not counted


def test_what_the_partitions_lack_is_stored_beside_them(paths, tmp_path, counted):
    extract_to(tmp_path / "f", extractor(), source=paths[:4])
    made = extractor(memory=tmp_path / "f").fit(paths)
    for expected in (N - 4, 0):
        counted.clear()
        X = made.transform(paths)
        assert sum(counted) == expected
    np.testing.assert_allclose(X, extractor().fit_transform(paths), rtol=1e-5)
    assert len(FeatureStore(tmp_path / "f")) == N - 4
    # Partitions that come later are found by the same store.
    extract_to(tmp_path / "f", extractor(), source=[*paths[:4], *images(20)[N:]])
    counted.clear()
    made.transform(images(20)[N:])
    assert not counted


@pytest.mark.parametrize("other", [{"pooling": "max"}, {"layer": "0"}, {"precision": "bfloat16"}])
def test_other_recipes_are_computed(other, paths, tmp_path, counted):
    extract_to(tmp_path / "f", extractor(), source=paths)
    counted.clear()
    extractor(memory=tmp_path / "f", **other).fit_transform(paths)
    assert sum(counted) == N


@pytest.mark.slow
def test_whole_activations_serve_the_training_of_later_stages(paths, tmp_path, counted):
    """Those that are kept as "flatten", with the shape that training needs."""
    settings = {"trainable": "1", "lr": 1e-3, "max_epochs": 1}
    settings |= {"random_state": 0, "batch_size": 4}
    model = FineTunedClassifier(tiny_backbone(), memory=tmp_path / "f", **settings)
    stored = FineTunedClassifier(tiny_backbone(), memory=tmp_path / "store", **settings)
    expected = stored.fit(paths, LABELS)
    counted.clear()
    stored.fit(paths, LABELS)
    behind_the_cut = list(counted)
    cut = expected.frozen_layers_[-1]
    extract_to(tmp_path / "f", extractor(layer=cut, pooling="flatten"), source=paths)
    counted.clear()
    model.fit(paths, LABELS)
    assert counted == behind_the_cut
    np.testing.assert_allclose(model.predict_proba(paths), expected.predict_proba(paths), rtol=1e-3)


def test_half_precision_is_not_enough(paths, tmp_path, counted):
    extract_to(tmp_path / "f", extractor(), source=paths, dtype="float16")
    counted.clear()
    extractor(memory=tmp_path / "f").fit_transform(paths)
    assert sum(counted) == N


@pytest.mark.slow
@pytest.mark.parametrize("at", [30, -150])
def test_damaged_partitions_count_as_missing(at, paths, tmp_path, counted):
    extract_to(tmp_path / "f", extractor(), source=paths, partition_size=4)
    file = sorted((tmp_path / "f").glob("part-*"))[1]
    content = bytearray(file.read_bytes())
    content[at : at + 20 or None] = bytes(20)
    file.write_bytes(content)
    counted.clear()
    X = extractor(memory=tmp_path / "f").fit_transform(paths)
    np.testing.assert_allclose(X, extractor().fit_transform(paths), rtol=1e-5)
    assert 4 <= sum(counted) <= N + 4
