"""``on_error="nan"``: rows of NaN for samples that cannot be read, and their causes."""

import pickle

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import (
    PretrainedFeatureExtractor,
    UnreadableSamplesError,
    load_backbone,
    load_word_vectors,
)
from tests.support import Vectors, images, tiny_backbone

N = 140  # more than one chunk


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of which every seventh is empty, cut or missing; some files are equal."""
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / f"{i}.png" for i in range(N)]
    for i, (path, image) in enumerate(zip(paths, images(N), strict=True)):
        Image.fromarray(image).save(path)
        if i % 7 == 3:
            path.write_bytes(b"" if i % 2 else path.read_bytes()[:60])
    paths[24].unlink()
    return paths


BAD = [i for i in range(N) if i % 7 == 3]


def words():
    names = ["good", "bad", "film", "a"]
    return load_word_vectors(dict(zip(names, np.eye(4, 6, dtype=np.float32), strict=True)))


def extractor(**settings):
    return PretrainedFeatureExtractor(tiny_backbone(), on_error="nan", **settings)


@pytest.mark.parametrize("n_jobs", [None, 2])
@pytest.mark.parametrize("with_store", [False, True])
def test_unreadable_samples_are_nan_and_the_others_as_without_them(
    n_jobs, with_store, files, tmp_path
):
    settings = {"n_jobs": n_jobs, "memory": tmp_path if with_store else None}
    model = extractor(layer=[0, -1], **settings).fit(files)
    good = [i for i in range(N) if i not in BAD]
    wanted = clone(model).set_params(on_error="raise").fit(files)
    wanted = wanted.transform([files[i] for i in good])
    for _ in range(2):
        found = model.transform(files)
        assert found.shape == (N, model.n_features_out_)
        assert found.dtype == np.float32
        assert np.isnan(found[BAD]).all()
        np.testing.assert_allclose(found[good], wanted, rtol=1e-5, atol=1e-5)
        assert list(model.bad_samples_) == BAD
    assert model.bad_samples_[3] == "not an image (0 bytes)"
    assert "damaged image" in model.bad_samples_[10]
    assert "No such file" in model.bad_samples_[24]


def test_each_damaged_content_is_opened_once(files, monkeypatch):
    from PIL import Image

    opened, open_file = [], Image.open

    def spy(file, **settings):
        opened.append(file.getvalue())
        return open_file(file, **settings)

    monkeypatch.setattr(Image, "open", spy)
    extractor().fit(files).transform(files)
    assert opened.count(b"") == 2  # of ten files, in two chunks; each looks for rare formats too
    assert len(opened) < 2.2 * N


def test_only_unreadable_samples_give_only_nan():
    model = extractor().fit(images(2))
    found = model.transform([np.zeros(3), None, float("nan")])
    assert found.shape == (3, 8)
    assert np.isnan(found).all()
    assert "not an image" in model.bad_samples_[0]
    assert "a missing image" in model.bad_samples_[1]


def test_the_default_names_them_in_an_error(files):
    model = PretrainedFeatureExtractor(tiny_backbone()).fit(files)
    with pytest.raises(UnreadableSamplesError, match="20 samples"):
        model.transform(files)
    assert not hasattr(model, "bad_samples_")


def test_causes_are_those_of_the_last_call_and_end_with_the_next_fit(files):
    model = extractor().fit(files)
    assert model.bad_samples_ == {}
    model.transform(files)
    assert pickle.loads(pickle.dumps(model)).bad_samples_ == model.bad_samples_
    model.transform(files[:3])
    assert model.bad_samples_ == {}
    model.set_params(on_error="raise").fit(files)
    assert not hasattr(model, "bad_samples_")


@pytest.mark.parametrize(
    "last",
    [
        HistGradientBoostingClassifier(min_samples_leaf=2, max_iter=5),
        make_pipeline(SimpleImputer(), LogisticRegression()),
    ],
)
def test_a_pipeline_that_takes_missing_values_predicts_every_sample(last, files):
    y = np.array(["ant", "bee"] * (N // 2))
    model = make_pipeline(extractor(), last).fit(pd.Series(files, index=range(N, 0, -1)), y)
    assert set(model.predict(files)) <= {"ant", "bee"}
    assert len(model[0].bad_samples_) == len(BAD)


@pytest.mark.parametrize("kind", [list, np.array, pd.Series, lambda x: pd.DataFrame({"t": x})])
def test_missing_texts_are_nan(kind):
    X = kind(["a good film", None, "bad", float("nan"), "a film"])
    model = PretrainedFeatureExtractor(words(), pooling=["avg", "idf"], on_error="nan")
    found = model.fit_transform(X)
    assert np.isnan(found).all(axis=1).tolist() == [False, True, False, True, False]
    assert list(model.bad_samples_) == [1, 3]
    assert "expected a text, got" in model.bad_samples_[1]
    again = model.transform(["a good film"])
    assert np.array_equal(again[0], found[0])


def test_fit_without_any_text_is_an_error():
    with pytest.raises(UnreadableSamplesError, match="2 samples"):
        PretrainedFeatureExtractor(words(), on_error="nan").fit([None, None])
    model = PretrainedFeatureExtractor(words(), on_error="nan").fit(["a"])
    assert np.isnan(model.transform([None, None])).all()


def test_y_of_missing_texts_is_not_used_for_the_choice_of_a_layer():
    X, y = ["a good film", None, "bad", "film"] * 6, np.array(["p", "?", "n", "p"] * 6)
    model = PretrainedFeatureExtractor(words(), layer="auto", on_error="nan").fit(X, y)
    assert model.transform(X).shape[0] == 24


def test_a_table_with_nan_is_an_error_as_before():
    X = np.ones((3, 6), np.float32)
    model = PretrainedFeatureExtractor(load_backbone(Vectors()), on_error="nan").fit(X)
    X[1, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model.transform(X)
