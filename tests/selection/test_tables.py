"""Tables: images, texts, numbers and categories in one fit."""

import pickle
from decimal import Decimal

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import (
    FineTunedClassifier,
    PretrainedFeatureExtractor,
    TransferClassifier,
    TransferRegressor,
    UnreadableSamplesError,
    load,
    load_backbone,
    model_card,
    recommend_strategy,
    save,
    to_onnx,
)
from tests.selection.support import deeper_backbone, make_table, networks, word_vectors
from tests.support import TinyNet, Vectors, tiny_backbone

pytestmark = pytest.mark.usefixtures("one_split_in_module")


@pytest.fixture(scope="module")
def table():
    X, bits = make_table()
    return X, np.array([f"{a}{b}{c}" for a, b, c in bits])


def few_rows(n=24):
    """Few rows, and labels that the photograph alone decides."""
    X, bits = make_table(n)
    return X, np.array(["dark", "light"])[bits[:, 0]]


@pytest.fixture(scope="module")
def fitted(table):
    return TransferClassifier(networks(), random_state=0, on_error="mean").fit(*table)


def test_a_photograph_a_text_and_a_price_decide_together(fitted, table):
    X, y = make_table(64, seed=1)
    y = np.array([f"{a}{b}{c}" for a, b, c in y])
    assert fitted.score(X, y) > 0.9
    kinds = {"photo": "image", "text": "text", "price": "number", "colour": "category"}
    assert fitted.column_kinds_ == kinds
    assert list(fitted.feature_names_in_) == list(kinds) and fitted.n_features_in_ == 4
    assert fitted.weights_.sum() == pytest.approx(1)
    for columns in (["photo"], ["text", "price"]):  # one column alone does not suffice
        alone = {name: net for name, net in networks().items() if name in columns}
        if alone:
            model = TransferClassifier(alone, random_state=0).fit(table[0][columns], table[1])
            assert model.score(X[columns], y) < 0.7


def test_each_row_is_predicted_alone(fitted, table):
    X, _ = table
    expected = fitted.predict_proba(X[:5])
    rows = np.vstack([fitted.predict_proba(X.iloc[[i]]) for i in range(5)])
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    assert fitted.predict(X.iloc[[0]]).shape == (1,)


def test_columns_may_be_in_another_order_and_others_are_ignored(fitted, table):
    X, _ = table
    expected = fitted.predict_proba(X[:5])
    other = X[:5].assign(more=1).iloc[:, ::-1]
    np.testing.assert_array_equal(fitted.predict_proba(other), expected)


def test_missing_columns_are_named(fitted, table):
    with pytest.raises(ValueError, match=r"lacks columns .*\['photo', 'price'\]"):
        fitted.predict(table[0].drop(columns=["photo", "price"]))
    with pytest.raises(ValueError, match=r"no table, but list.*DataFrame\(X\)"):
        fitted.predict(table[0].to_dict("records"))
    with pytest.raises(ValueError, match="no table, but ndarray"):
        fitted.predict(np.zeros((2, 4)))
    row = table[0].iloc[0]
    with pytest.raises(ValueError, match=r"no table, but Series.*X = X\.to_frame\(\)\.T"):
        fitted.predict(row)
    assert fitted.predict(row.to_frame().T).shape == (1,)
    for nothing in (table[0][[]], pl.DataFrame(), pa.table({})):
        with pytest.raises(ValueError, match=r"lacks columns .*\. It has none\."):
            fitted.predict(nothing)


def test_tables_of_other_libraries_predict_the_same(fitted, table):
    X = table[0][:5]
    expected = fitted.predict_proba(X)
    columns = {name: list(X[name]) for name in X}
    columns["photo"] = [np.asarray(image) for image in columns["photo"]]
    other = pl.DataFrame({name: pl.Series(x, dtype=pl.Object) if name == "photo" else x
                          for name, x in columns.items()})  # fmt: skip
    np.testing.assert_allclose(fitted.predict_proba(other), expected, atol=1e-6)


def test_arrow_tables_of_files_are_read(tmp_path):
    X, y = few_rows()
    paths = []
    for i, image in enumerate(X["photo"]):
        paths.append(str(tmp_path / f"{i}.png"))
        image.save(paths[-1])
    arrow = pa.table({"photo": paths, "price": list(X["price"])})
    model = TransferClassifier({"photo": tiny_backbone()}, random_state=0).fit(arrow, y)
    assert model.predict(arrow[:3]).shape == (3,)
    frame = arrow.to_pandas()
    np.testing.assert_allclose(model.predict_proba(frame), model.predict_proba(arrow), atol=1e-6)


def test_unknown_categories_and_missing_numbers_are_accepted(fitted, table):
    X = table[0][:4].copy()
    X["colour"] = ["blue", None, "red", np.nan]
    X["price"] = [np.nan, None, 50.0, 60.0]
    assert np.isfinite(fitted.predict_proba(X)).all()


def test_categories_are_the_same_as_numbers_and_as_texts():
    X, bits = make_table(24)
    X["colour"] = pd.Categorical(bits[:, 2])
    X = X.drop(columns=["price", "text"])
    model = TransferClassifier({"photo": tiny_backbone()}, random_state=0).fit(X, bits[:, 2])
    assert model.column_kinds_["colour"] == "category" and model.score(X, bits[:, 2]) > 0.9
    for same in (X["colour"].astype(str), X["colour"].astype(float), X["colour"].astype(object)):
        np.testing.assert_array_equal(model.predict(X.assign(colour=same)), model.predict(X))


def test_booleans_are_the_category_of_the_texts_that_mean_them():
    X, bits = make_table(24)
    texts = np.array(["false", "true"], object)[bits[:, 2]]
    booleans = bits[:, 2].astype(bool)
    mixed = np.where(np.arange(24) < 12, texts, booleans.astype(object))
    X = X.drop(columns=["price", "text"]).assign(colour=texts)
    network = {"photo": tiny_backbone()}
    model = TransferClassifier(network, random_state=0).fit(X, bits[:, 2])
    assert model.score(X, bits[:, 2]) > 0.9
    expected = model.predict_proba(X)
    other = TransferClassifier(network, random_state=0).fit(X.assign(colour=mixed), bits[:, 2])
    np.testing.assert_allclose(other.predict_proba(X), expected)
    for same in (booleans, mixed, np.char.upper(texts.astype(str)), pd.Categorical(booleans)):
        np.testing.assert_allclose(model.predict_proba(X.assign(colour=same)), expected)


def test_numbers_that_are_none_are_named(fitted, table):
    for wrong in ("cheap", np.inf, 10**400, Decimal("1e400"), Decimal("sNaN")):
        X = table[0][:3].astype({"price": object})
        X.iloc[1, 2] = wrong
        with pytest.raises(ValueError, match=r"'price' has numbers in fit, and .* in row 1"):
            fitted.predict(X)


def test_lists_and_dictionaries_are_no_categories(fitted, table):
    for wrong in (["red"], {"name": "red"}):
        X = table[0][:3].copy()
        X["colour"] = pd.Series(["red", wrong, None], dtype=object, index=X.index)
        with pytest.raises(ValueError, match=r"'colour' has categories in fit, and .* in row 1"):
            fitted.predict(X)


def test_samples_that_are_missing_are_an_error_or_the_mean():
    X, y = few_rows()
    gaps = X.copy()
    gaps.iloc[3, 0], gaps.iloc[5, 1] = None, np.nan
    model = TransferClassifier(networks(), random_state=0)
    with pytest.raises(
        UnreadableSamplesError, match=r"(?s)column 'photo'.*sample 3.*on_error='mean'"
    ):
        model.fit(gaps, y)
    model.set_params(on_error="mean").fit(gaps, y)
    assert model.score(X, y) > 0.9
    nothing = X[:2].assign(photo=[None, None], text=[None, "the good film"])
    proba = model.predict_proba(nothing)
    assert np.isfinite(proba).all() and proba.sum(axis=1) == pytest.approx(1)
    some = model.predict_proba(X[:2].assign(photo=[None, X["photo"].iloc[1]]))
    np.testing.assert_allclose(some[1], model.predict_proba(X[1:2])[0], atol=1e-6)


@pytest.mark.slow
def test_files_that_cannot_be_read_are_an_error_or_the_mean(tmp_path):
    X, y = few_rows()
    paths = []
    for i, image in enumerate(X["photo"]):
        paths.append(str(tmp_path / f"{i}.png"))
        image.save(paths[-1])
    X = X.assign(photo=paths)
    (tmp_path / "7.png").write_bytes(b"nothing")
    model = TransferClassifier(networks(), random_state=0)
    with pytest.raises(UnreadableSamplesError, match="1 sample of column 'photo'") as error:
        model.fit(X, y)
    assert [i for i, _, _ in error.value.problems] == [7]
    model.set_params(on_error="mean").fit(X, y)
    proba = model.predict_proba(X[5:9])
    absent = X[5:9].assign(photo=[*X["photo"][5:7], None, X["photo"].iloc[8]])
    np.testing.assert_allclose(model.predict_proba(absent), proba, atol=1e-6)
    model.set_params(on_error="raise")
    with pytest.raises(UnreadableSamplesError, match="sample 2"):
        model.predict(X[5:9])


def test_a_column_without_samples_is_named(table):
    X = table[0].assign(photo=None)
    with pytest.raises(ValueError, match="'photo' has no sample: leave it out"):
        TransferClassifier(networks(), on_error="mean").fit(X, table[1])


def test_one_network_reads_all_columns_that_are_no_numbers():
    X, bits = make_table(40)
    other, more = make_table(40, seed=3)
    two = pd.DataFrame(
        {"front": X["photo"].array, "back": other["photo"].array, "price": X["price"].array}
    )
    y = [f"{a}{b}" for a, b in zip(bits[:, 0], more[:, 0], strict=True)]
    model = TransferClassifier(tiny_backbone(), random_state=0).fit(two, y)
    assert model.column_kinds_ == {"front": "image", "back": "image", "price": "number"}
    assert len(model.backbones_) == 1 and model.score(two, y) > 0.9
    exchanged = two.rename(columns={"front": "back", "back": "front"})
    assert not np.array_equal(model.predict(two), model.predict(exchanged))


@pytest.mark.slow
def test_classes_of_each_network_are_mapped_in_all_columns_that_it_reads():
    front, bits = make_table(48)
    back, _ = make_table(48, seed=3)
    X = pd.DataFrame({"front": front["photo"].array, "back": back["photo"].array})
    both = [tiny_backbone(), deeper_backbone()]
    class_map = [None, {0: ["a"], 1: ["b", "c"]}]
    model = TransferClassifier(both, class_map=class_map, random_state=0).fit(X, bits[:, 0])
    assert len(model.backbones_) == 2 and model.score(X, bits[:, 0]) > 0.9
    class_map = [None, {0: ["a"]}]
    with pytest.raises(ValueError, match="class_map names no classes of the network for 1"):
        clone(model).set_params(class_map=class_map).fit(X, bits[:, 0])


@pytest.mark.slow
def test_several_text_columns_and_several_networks_of_a_column():
    X, bits = make_table(40)
    two = pd.DataFrame({"title": X["text"].array, "body": X["text"].sample(frac=1).array})
    model = TransferClassifier(word_vectors(), random_state=0).fit(two, bits[:, 1])
    assert model.score(two, bits[:, 1]) == 1
    both = {"photo": [tiny_backbone(), deeper_backbone()], "text": word_vectors()}
    X = X.drop(columns=["price", "colour"])
    model = TransferClassifier(both, random_state=0).fit(X, bits[:, 0])
    assert [network.name for network in model.backbones_][:2] == ["tinynet", "deeper"]
    assert model.score(X, bits[:, 0]) > 0.9


def test_the_line_to_write_is_shown_where_a_network_does_not_fit(table):
    X, y = table
    line = r"backbone=\{'photo': 'efficientnet_lite0', 'text': 'e5_small'\}"
    with pytest.raises(ValueError, match=line):
        TransferClassifier().fit(X, y)
    with pytest.raises(ValueError, match=line):
        TransferClassifier(word_vectors()).fit(X, y)
    with pytest.raises(ValueError, match=r"'foto'.* Is 'photo' meant\?"):
        TransferClassifier({"foto": tiny_backbone()}).fit(X, y)
    with pytest.raises(ValueError, match=line):
        TransferClassifier({"text": word_vectors()}).fit(X, y)
    with pytest.raises(ValueError, match=r"'when' has dates.*X\['when'\].dt.dayofyear"):
        TransferClassifier(networks()).fit(X.assign(when=pd.Timestamp("2026-01-01")), y)
    with pytest.raises(ValueError, match="no table, but list"):
        TransferClassifier(networks()).fit(list(X["photo"]), y)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pd.Series([pd.Timedelta(1, "h"), pd.NaT] * 4), r"durations.*X\['x'\]\.dt\.total_seconds"),
        (pd.Series([np.timedelta64("NaT"), np.timedelta64(3, "s")] * 4, dtype=object), "durations"),
        (pd.Series([1 + 2j, 3] * 4), r"'x' has complex numbers.*X\['x'\]\.abs\(\)"),
    ],
)
def test_durations_and_complex_numbers_are_refused(column, message):
    X, bits = make_table(8)
    X = X[["photo"]].assign(x=column.array)
    for backbone in ({"photo": tiny_backbone()}, tiny_backbone()):
        with pytest.raises(ValueError, match=message):
            TransferClassifier(backbone).fit(X, bits[:, 0])


def test_missing_times_and_complex_numbers_in_a_column_of_numbers():
    X, bits = make_table(16)
    X = X[["photo", "price"]].astype({"price": object})
    model = TransferClassifier({"photo": tiny_backbone()}, random_state=0).fit(X, bits[:, 0])
    expected = model.predict_proba(X[:1].assign(price=np.nan))
    rows = X[:1].copy()
    for missing in (np.timedelta64("NaT"), np.float32("nan"), pd.NaT):
        rows["price"] = pd.Series([missing], dtype=object, index=rows.index)
        np.testing.assert_array_equal(model.predict_proba(rows), expected)
    for wrong in (np.timedelta64(3, "s"), 1 + 2j):
        rows["price"] = pd.Series([wrong], dtype=object, index=rows.index)
        with pytest.raises(
            ValueError, match=r"'price' has numbers in fit, and .*: give a finite number"
        ):
            model.predict(rows)


def test_a_column_that_the_network_does_not_read_is_named(table):
    X, y = table
    message = r"reads images, and column 'text' has no images\. .*'text': 'e5_small'\}\.$"
    with pytest.raises(ValueError, match=message):
        TransferClassifier().fit(X[["photo"]].assign(text=[f"film {i}" for i in range(64)]), y)
    as_category = r"column 'colour' has no images.*X\['colour'\]\.astype\('category'\)\.$"
    with pytest.raises(ValueError, match=as_category):
        TransferClassifier().fit(X[["photo", "colour"]], y)
    with pytest.raises(ValueError, match=r"\['price', 'size'\] have no images\."):
        TransferClassifier().fit(X[["price"]].assign(size=1), y)


@pytest.mark.parametrize("channels", [3, 5])
def test_files_of_arrays_are_images(channels, tmp_path):
    X, bits = make_table(24)
    paths = []
    for i, bit in enumerate(bits[:, 0]):
        paths.append(str(tmp_path / f"{i}.npy"))
        np.save(paths[-1], np.full((16, 16, channels), 255 * bit, np.uint8))
    X = X[["price"]].assign(photo=paths)
    network = tiny_backbone() if channels == 3 else tiny_backbone().with_channels(channels)
    model = TransferClassifier(network, random_state=0).fit(X, bits[:, 0])
    assert model.column_kinds_["photo"] != "category" and model.score(X, bits[:, 0]) > 0.9
    with pytest.raises(ValueError, match="'photo': 'efficientnet_lite0'"):
        TransferClassifier(word_vectors()).fit(X, bits[:, 0])


@pytest.mark.slow
def test_categories_of_arrow_tables_and_intervals_are_categories(tmp_path):
    X, bits = make_table(24)
    paths = [str(tmp_path / f"{i}.png") for i in range(24)]
    for path, image in zip(paths, X["photo"], strict=True):
        image.save(path)
    sizes = pa.array([f"{b} m" for b in bits[:, 2]])
    arrow = pa.table({"photo": paths, "size": sizes.dictionary_encode()})
    codes = pa.table({"photo": paths, "size": pa.array(bits[:, 2]).dictionary_encode()})
    intervals = pd.DataFrame({"photo": paths, "size": pd.cut(bits[:, 2], [-1, 0, 1])})
    for table in (arrow, codes, intervals):
        model = TransferClassifier(tiny_backbone(), random_state=0).fit(table, bits[:, 2])
        assert model.column_kinds_ == {"photo": "image", "size": "category"}
        assert model.score(table, bits[:, 2]) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("make", [np.array, list])
def test_an_own_network_reads_a_column_of_arrays(make):
    X, bits = make_table(24)
    vectors = np.random.default_rng(0).normal(size=(24, 8)) + 3 * bits[:, :1]
    X = X[["photo", "price"]].assign(v=[make(row) for row in vectors])
    own = load_backbone(Vectors(), modality="array")
    extractor = PretrainedFeatureExtractor(own)
    expected = extractor.fit_transform(vectors)
    for column in (X["v"], X[["v"]], list(X["v"]), pl.Series(vectors.tolist())):
        np.testing.assert_allclose(extractor.fit_transform(column), expected, atol=1e-6)
    networks = {"photo": tiny_backbone(), "v": own}
    model = TransferClassifier(networks, image_size=12, random_state=0).fit(X, bits[:, 0])
    assert model.column_kinds_["v"] == "array" and model.score(X, bits[:, 0]) > 0.9
    wrong = X.iloc[:2].assign(v=[make([1.0]), make([1.0, 2.0])])
    with pytest.raises(ValueError, match=r"'v'.*\(1,\) in row 0, \(2,\) in row 1"):
        model.predict(wrong)


@pytest.mark.parametrize("y", [[{"a"}, {"b", "c"}], [["a"], ["b", "c"]], [("a",), ("b", "c")]])
def test_sets_of_labels_show_the_line_to_write(table, y):
    for kind in (TransferClassifier, FineTunedClassifier):
        with pytest.raises(ValueError, match=r"MultiLabelBinarizer\(\)\.fit_transform\(y\)"):
            kind(tiny_backbone()).fit(table[0]["photo"][:2], y)


def test_texts_in_a_column_of_categories_are_told():
    X, bits = make_table(48)
    X = X[["photo"]].assign(name=[f"a long title {i}" for i in range(48)])
    with pytest.warns(UserWarning, match="'name' has 48 different texts.*'name': 'e5_small'"):
        TransferClassifier({"photo": tiny_backbone()}, random_state=0).fit(X, bits[:, 0])


@pytest.mark.slow
def test_copies_pickles_and_files_predict_the_same(fitted, table, tmp_path):
    X, y = table
    expected = fitted.predict_proba(X[:7])
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_allclose(again.predict_proba(X[:7]), expected, atol=1e-12)
    copied = clone(fitted).fit(X, y)
    np.testing.assert_allclose(copied.predict_proba(X[:7]), expected, atol=1e-12)
    other = few_rows()[0][["photo", "text"]]
    assert copied.fit(other, y[:24]).column_kinds_ == {"photo": "image", "text": "text"}
    save(fitted, tmp_path / "model.skt")
    opened = load(tmp_path / "model.skt", modules={"tinynet": TinyNet})
    np.testing.assert_allclose(opened.predict_proba(X[:7]), expected, atol=1e-12)
    assert opened.column_kinds_ == fitted.column_kinds_


@pytest.mark.slow
def test_searches_and_cross_validation_of_scikit_learn_take_tables():
    X, y = few_rows()
    model = TransferClassifier(networks(), random_state=0)
    assert cross_val_score(model, X, y, cv=2).mean() > 0.6
    search = GridSearchCV(model, {"class_weight": ["balanced"]}, cv=2, error_score="raise")
    with joblib.parallel_config("multiprocessing", n_jobs=2):
        assert search.fit(X, y).best_score_ > 0.6
    assert search.predict(X[:2]).shape == (2,)


@pytest.mark.slow
def test_classifiers_of_the_user_get_all_columns():
    X, y = few_rows()
    for classifier in (LogisticRegression(max_iter=1000), KNeighborsClassifier(3)):
        estimator = make_pipeline(StandardScaler(), classifier)
        model = TransferClassifier(networks(), estimator=estimator, random_state=0).fit(X, y)
        assert model.score(X, y) > 0.8


@pytest.mark.slow
def test_numbers_of_several_columns_add_up():
    X, bits = make_table(64)
    y = bits @ [1.0, 2.0, 4.0]
    test, more = make_table(64, seed=1)
    model = TransferRegressor(networks(), random_state=0).fit(X, y)
    assert model.score(test, more @ [1.0, 2.0, 4.0]) > 0.9
    two = TransferRegressor(networks(), random_state=0).fit(X[:24], np.column_stack([y, -y])[:24])
    assert two.predict(test[:3]).shape == (3, 2)
    frozen = pickle.loads(pickle.dumps(model))
    np.testing.assert_allclose(frozen.predict(test), model.predict(test))


def test_the_input_size_is_that_of_the_columns_of_images():
    X, y = few_rows()
    model = TransferClassifier(networks(), image_size=12, random_state=0).fit(X, y)
    assert model.backbone_.input_shape == (3, 12, 12) and model.predict(X[:2]).shape == (2,)


@pytest.mark.slow
def test_few_samples_weights_and_unlabelled_ones_are_taken():
    X, y = few_rows()
    model = TransferClassifier(networks(), random_state=0)
    assert model.fit(X[:2], ["a", "b"]).predict(X[:3]).shape == (3,)
    weight = (X["colour"] == "red").to_numpy(float)
    wrong = np.where(weight == 0, "unseen", y)
    assert "unseen" not in clone(model).fit(X, wrong, sample_weight=weight).predict(X)
    unlabelled, _ = make_table(10, seed=5)
    assert clone(model).fit(X, y, X_unlabelled=unlabelled).score(X, y) > 0.9


def test_functions_for_one_column_show_the_line_for_a_table(fitted, table, tmp_path):
    X, y = table
    line = (
        r"make_column_transformer\(\(PretrainedFeatureExtractor\('tinynet'\), \['photo'\]\), .*"
        r"\(StandardScaler\(\), \['price'\]\), \(OneHotEncoder\(\), \['colour'\]\)\), Logistic"
    )
    pytest.importorskip("skl2onnx")
    with pytest.raises(ValueError, match=line):
        to_onnx(fitted, tmp_path / "model.onnx", X=X[:4])
    with pytest.raises(ValueError, match="strategy='auto' combines several"):
        TransferClassifier(networks(), strategy="head").fit(X, y)
    with pytest.raises(ValueError, match="strategy='head' is for one column"):
        TransferClassifier(tiny_backbone(), strategy="head").fit(X[["photo", "price"]], y)
    for recommended in (X[["photo", "price"]], X[["text", "photo"]]):
        with pytest.raises(ValueError, match=r"give X\['photo'\]"):
            recommend_strategy(recommended, y, tiny_backbone())
    with pytest.raises(ValueError, match=r"give X\['text'\] and backbone='e5_small'"):
        recommend_strategy(X, y, {"text": "e5_small"})
    with pytest.raises(ValueError, match="tables of several columns"):
        TransferClassifier(tiny_backbone(), on_error="mean").fit(X["photo"], y)
    card = model_card(fitted, X=X, y=y).render()
    assert "tinynet" in card and "photo (image), text (text), price (number)" in card
