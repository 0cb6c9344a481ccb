import contextlib
import re

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import sparse

from sktransfer import (
    FineTunedClassifier,
    FineTunedRegressor,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    TransferClassifier,
    load_backbone,
    probe_layers,
    rank_backbones,
    recommend_strategy,
    transferability,
)
from sktransfer.data import check_labels, check_numbers, check_target, check_weights
from sktransfer.data.targets import (
    ClassTarget,
    IndicatorTarget,
    NumericTarget,
    class_target,
    column_names,
    encode_target,
    open_target,
)
from tests.support import SCIKIT_LEARN, Vectors

RNG = np.random.default_rng(0)


def of_scikit_learn():
    """Expect the warning of scikit-learn >= 1.8 about many labels."""
    many = pytest.warns(UserWarning, match="number of unique classes")
    return many if SCIKIT_LEARN >= (1, 8) else contextlib.nullcontext()


def test_whole_numbers_are_labels_unless_told():
    y = RNG.permutation(np.arange(100, 160)) * 3.0
    with pytest.warns(UserWarning, match="60 distinct whole numbers"):
        assert encode_target(y)[0] is ClassTarget
    with of_scikit_learn():
        assert encode_target(y, "classification")[0] is ClassTarget
    assert (encode_target(y, "regression")[1] == y).all()
    with of_scikit_learn():
        # As an encoder numbers labels.
        assert encode_target(np.arange(60), "auto")[1].dtype.kind == "i"
    assert encode_target(y + 0.5)[0] is NumericTarget
    with pytest.raises(ValueError, match="task='other'"):
        encode_target(y, "other")
    with pytest.raises(ValueError, match="NaN"):
        encode_target([1.5, np.nan], "regression")


def test_labels_are_encoded_and_decoded():
    target, y = class_target(["b", "a", "b"], 3)
    assert isinstance(target, ClassTarget) and target.labels == ["a", "b"]
    assert target.encode(y).tolist() == target.strata(target.encode(y)).tolist() == [1, 0, 1]
    outputs = np.array([[0.0, 2.0], [1.0, -1.0]])
    assert target.decode(outputs).tolist() == ["b", "a"]
    assert target.probabilities(outputs).sum(1) == pytest.approx(1)
    assert target.present(np.array([1, 1])) == {"b"}


def test_more_labels_may_be_announced():
    target, y = class_target(["b", "c"], 2, [["a"], ["d", "c"]])
    assert target.labels == ["a", "b", "c", "d"] and target.encode(y).tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"y: Mix of label input types"):
        class_target(["b", "c"], 2, [[1]])


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_an_indicator_matrix_is_encoded_and_decoded(form):
    matrix = np.array([[0, 1, 1], [1, 0, 0]])
    target, y = class_target(form(matrix), 2)
    assert isinstance(target, IndicatorTarget) and target.labels is None and target.n_outputs == 3
    assert (target.encode(y) == matrix).all() and target.encode(y).dtype == np.float32
    assert (target.decode(matrix - 0.5) == matrix).all()
    assert target.probabilities(np.zeros((1, 3))).tolist() == [[0.5] * 3]
    assert target.strata(matrix).tolist() == [0, 0]


def test_a_matrix_of_other_numbers_is_no_indicator():
    with pytest.raises(ValueError, match="y with several columns must be an indicator matrix"):
        class_target([[1, 2], [2, 1]], 2)


def test_numbers_are_standardised_and_come_back_in_their_units():
    y = RNG.normal(size=(20, 2)) * [3, 100] + [5, -7]
    target = NumericTarget(y)
    scaled = target.scaled(target.encode(y))
    assert scaled.mean(0) == pytest.approx(0, abs=1e-6) and scaled.std(0) == pytest.approx(1)
    np.testing.assert_allclose(target.decode(scaled), y, rtol=1e-4)
    flat = NumericTarget(y[:, 0], np.repeat([1.0, 0.0], 10))
    scaled = flat.scaled(flat.encode(y[:, 0]))
    assert scaled[:10].mean() == pytest.approx(0, abs=1e-6)
    assert flat.decode(scaled).shape == (20,)


def test_more_numbers_keep_their_units_and_their_number():
    target = NumericTarget(np.arange(5.0))
    again = target.in_the_form_of(np.ones((3, 1)))
    assert again.decode(np.zeros((2, 1))).tolist() == [[2.0], [2.0]]
    assert target.decode(np.zeros((2, 1))).tolist() == [2.0, 2.0]
    with pytest.raises(ValueError, match="y has 2 targets, 1 before"):
        target.in_the_form_of(np.ones((3, 2)))


def test_class_weights_become_factors_of_rows():
    target = ClassTarget(np.array(["a", "b", "c"]))
    codes = np.array([0, 0, 0, 2])
    assert target.class_factors("balanced", codes, False) == pytest.approx([2 / 3] * 3 + [2.0])
    assert target.class_factors({"a": 2, "b": 1, "c": 3}, codes, False).tolist() == [2, 2, 2, 3]
    with_later = {"a": 2, "later": 4}
    assert target.class_factors(with_later, codes, True).tolist() == [2, 2, 2, 1]
    with pytest.raises(ValueError, match="not in class_weight"):
        target.class_factors(with_later, codes, False)
    several = IndicatorTarget(2).class_factors([{0: 1, 1: 2}, {0: 1, 1: 3}], np.eye(2), False)
    assert several.tolist() == [2, 3]


def test_label_sets_have_the_weights_of_their_labels_by_name():
    encoded = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0]])
    for names in (["ant", "bee", "cat"], [7, 0, 3]):
        target, first, second = IndicatorTarget(3, names), *names[:2]
        factors = target.class_factors({first: 2, second: 5.0}, encoded, True)
        as_list = [{0: 1, 1: 2}, {0: 1, 1: 5}, {0: 1, 1: 1}]
        assert factors.tolist() == [2, 10, 1, 1]
        assert factors.tolist() == target.class_factors(as_list, encoded, False).tolist()
    for names in ((), [7, 0, 3]):
        factors = IndicatorTarget(3, names).class_factors({}, encoded, False)
        assert factors.tolist() == [1, 1, 1, 1]
    with pytest.raises(ValueError, match=r"^'dog' is no column of y, which has \[7, 0, 3\]"):
        target.class_factors({"dog": 2}, encoded, False)
    for names in ((), [0, 1, 2]):
        with pytest.raises(ValueError, match=r"y has none: give a DataFrame, or a list with a dic"):
            IndicatorTarget(3, names).class_factors({0: 1, 1: 5}, encoded, False)


def test_columns_that_are_numbers_keep_them_as_names():
    table = pd.DataFrame([[1, 0], [0, 0], [1, 1]], columns=[2020, 2010])
    target, _ = class_target(table, 3)
    assert target.classes.tolist() == target.columns == [2020, 2010]
    with pytest.raises(ValueError, match=r"y has the columns \[2010, 2020\], and in fit they were"):
        target.check_names(column_names(table[[2010, 2020]]), "y")
    with pytest.raises(ValueError, match=r"were \[2020, 2010\]: give these, in this order\.$"):
        target.check_names(["ant", "bee"], "y")
    for unnamed in (table.to_numpy(), pd.DataFrame(table.to_numpy())):
        other, _ = class_target(unnamed, 3)
        assert other.classes.tolist() == [0, 1] and other.columns == []
        target.check_names(column_names(unnamed), "y")
    numbers = NumericTarget(table.to_numpy(), None, column_names(table))
    assert open_target(numbers.state()).columns == [2020, 2010]


@pytest.mark.parametrize("names", [[0, 1], [1, 0]], ids=str)
def test_columns_zero_and_one_in_another_order_are_noticed(names):
    table = pd.DataFrame([[1, 0], [0, 0], [1, 1]], columns=names)
    target, _ = class_target(table, 3)
    assert target.classes.tolist() == names
    of_array, _ = class_target(table.to_numpy(), 3)
    assert of_array.classes.tolist() == [0, 1] and of_array.columns == []
    numbers = NumericTarget(table.to_numpy(), None, column_names(table))
    assert numbers.columns == target.columns == ([] if names == [0, 1] else names)
    opened = [open_target(one.state()) for one in (target, numbers)]
    for one in (target, numbers, *opened):
        one.check_names(column_names(table), "y")
        one.check_names(column_names(table.to_numpy()), "y")
        line = f"in fit they were {names}: give these, in this order: y = y[{names}]"
        with pytest.raises(ValueError, match=re.escape(line)) as error:
            one.check_names(column_names(table[names[::-1]]), "y")
        # Columns 0 and 1, in this order, are perhaps those of an array.
        is_default = names == [1, 0]
        assert str(error.value).endswith("without names.") == is_default
        assert ("or y.to_numpy() if its columns are those of fit" in str(error.value)) == is_default
    for default in (target, of_array, numbers) if names == [0, 1] else ():
        default.check_names(column_names(pd.DataFrame(table.to_numpy())), "y")
        default.check_names(["a", "b"], "y")
    several, _ = class_target(["x", "y", "x"], 3)
    several.check_names([1, 0], "y")  # labels have no columns


def test_numbers_whose_variance_is_not_finite_are_refused():
    with pytest.raises(ValueError, match=r"as large as 4e\+300: scale them down"):
        NumericTarget(np.arange(5.0) * 1e300)


N = 12
X = np.random.default_rng(0).normal(size=(N, 8)).astype(np.float32)
PROBABILITIES = np.exp(X) / np.exp(X).sum(1, keepdims=True)
CODES = np.arange(N) % 2


def backbone():
    return load_backbone(Vectors(3), classes=["a", "b", "c"])


class Unchanged:
    def transform(self, X):
        return X


def partial_fit(y):
    model = FineTunedClassifier(backbone(), max_epochs=0).fit(X, CODES)
    return model.partial_fit(X, y)


# Every public function that takes y, called with labels.
ENTRIES = {
    "FineTunedClassifier": lambda y: FineTunedClassifier(backbone()).fit(X, y),
    "partial_fit": partial_fit,
    "PretrainedClassifier": lambda y: PretrainedClassifier(backbone(), class_map="learn").fit(X, y),
    "TransferClassifier": lambda y: TransferClassifier(backbone()).fit(X, y),
    "recommend_strategy": lambda y: recommend_strategy(X, y, backbone()),
    "extractor": lambda y: PretrainedFeatureExtractor(backbone(), layer="auto").fit(X, y),
    "probe_layers": lambda y: probe_layers(X, y, backbone()),
    "rank_backbones": lambda y: rank_backbones(X, y, {"one": backbone()}),
    "rank_backbones nce": lambda y: rank_backbones(X, y, {"one": backbone()}, score="nce"),
    "logme": lambda y: transferability.logme(X, y),
    "h_score": lambda y: transferability.h_score(X, y),
    "transrate": lambda y: transferability.transrate(X, y),
    "probe_score": lambda y: transferability.probe_score(X, y),
    "leep": lambda y: transferability.leep(PROBABILITIES, y),
    "explained_share": lambda y: transferability.explained_share(PROBABILITIES, y),
    "nce": lambda y: transferability.nce(CODES, y),
    "nce of source_labels": lambda y: transferability.nce(y, CODES),
    "scorer": lambda y: transferability.make_transferability_scorer("logme")(Unchanged(), X, y),
    "scorer of a callable": lambda y: transferability.make_transferability_scorer(
        lambda features, y: 0.0
    )(Unchanged(), X, y),
}
# The same with numbers to regress on.
NUMERIC = {
    "FineTunedRegressor": lambda y: FineTunedRegressor(backbone()).fit(X, y),
    "score_layers": lambda y: (
        PretrainedFeatureExtractor(backbone()).fit(X).score_layers(X, y, task="regression")
    ),
    "probe_layers": lambda y: probe_layers(X, y, backbone(), task="regression"),
    "rank_backbones": lambda y: rank_backbones(X, y, {"one": backbone()}, task="regression"),
    "logme": lambda y: transferability.logme(X, y, task="regression"),
    "probe_score": lambda y: transferability.probe_score(X, y, task="regression"),
}
each_entry = pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
each_numeric_entry = pytest.mark.parametrize("entry", NUMERIC.values(), ids=NUMERIC)

LABELS = ["a", "b"] * (N // 2)
DAYS = np.array(["2026-01-01", "2026-01-02"] * (N // 2), "datetime64[D]")
VALUES = X[:, 0].astype(float).tolist()
MASK = np.arange(N) == 7


def at_7(value, labels=LABELS) -> list:
    return [*labels[:7], value, *labels[8:]]


COMMON = {
    "list with NaN": at_7(float("nan")),
    "list with None": at_7(None),
    "list with pandas' NA": at_7(pd.NA),
    "array of NaT": np.where(MASK, np.datetime64("NaT"), DAYS),
    "floats": np.where(MASK, np.nan, CODES),
    "Series": pd.Series(at_7(None)),
    "masked": np.ma.array(LABELS, mask=MASK),
}
MISSING = COMMON | {
    "list of numbers": at_7(float("nan"), CODES.tolist()),
    "list with a float32": at_7(np.float32("nan")),
    "list with pandas' NaT": at_7(pd.NaT),
    "list with NaT": at_7(np.datetime64("NaT"), list(DAYS)),
    "list of differences": at_7(np.timedelta64("NaT"), list(DAYS - DAYS[0])),
    "objects": np.array(at_7(float("nan")), dtype=object),
    "column": np.array(at_7(None), dtype=object)[:, None],
    "Series of strings": pd.Series(at_7(None), dtype="string"),
    "Series of Int64": pd.Series(at_7(None, CODES.tolist()), dtype="Int64"),
    "Series of booleans": pd.Series(at_7(None, [False, True] * (N // 2)), dtype="boolean"),
    "Series of categories": pd.Series(at_7(None), dtype="category"),
    "Series of dates": pd.Series(at_7(pd.NaT, list(pd.to_datetime(DAYS)))),
    "Categorical": pd.Categorical(at_7(None)),
    "DataFrame": pd.DataFrame({"label": at_7(None)}),
    "polars": pl.Series(at_7(None)),
    "polars numbers": pl.Series(at_7(None, CODES.tolist())),
    "pyarrow": pa.array(at_7(None)),
    "masked numbers": np.ma.array(CODES, mask=MASK),
}
if hasattr(np.dtypes, "StringDType"):  # from NumPy 2 on
    strings = np.dtypes.StringDType(na_object=np.nan)
    MISSING["StringDType"] = np.array(at_7(np.nan), dtype=strings)


@pytest.mark.parametrize("y", COMMON.values(), ids=COMMON)
@each_entry
def test_a_missing_label_is_refused_wherever_labels_are_taken(entry, y):
    with pytest.raises(ValueError, match=r"(y|source_labels) contains NaN or a missing .* at 7"):
        entry(y)


@pytest.mark.parametrize("y", MISSING.values(), ids=MISSING)
def test_a_missing_label_is_found_in_every_container(y):
    with pytest.raises(ValueError, match=r"Input name contains NaN or a missing label: .* at 7"):
        check_target(y, name="name")


NUMBERS = {
    "list": at_7(None, VALUES),
    "array": np.where(MASK, np.nan, VALUES),
    "columns": np.where(MASK[:, None], np.nan, X[:, :2]),
    "Float64": pd.Series(at_7(None, VALUES), dtype="Float64"),
    "polars": pl.Series(at_7(None, VALUES)),
    "masked": np.ma.array(VALUES, mask=MASK),
}


@pytest.mark.parametrize("y", [NUMBERS["list"], NUMBERS["array"], NUMBERS["masked"]])
@each_numeric_entry
def test_a_missing_number_is_refused_wherever_numbers_are_taken(entry, y):
    with pytest.raises(ValueError, match=r"y contains NaN or a missing .* at 7"):
        entry(y)


@pytest.mark.parametrize("y", NUMBERS.values(), ids=NUMBERS)
def test_a_missing_number_is_found_in_every_container(y):
    with pytest.raises(ValueError, match=r"y contains NaN or a missing .* at 7"):
        check_numbers(y)


# As they would be in a list; the type of some arrays is that of scikit-learn's own conversion.
COMPLETE = {
    "strings": (LABELS, ["a", "b"]),
    "a label that reads nan": (at_7("nan"), ["a", "b", "nan"]),
    "dates": (DAYS, DAYS[:2].tolist()),
    "column of strings": (np.array(LABELS)[:, None], ["a", "b"]),
    "Series of strings": (pd.Series(LABELS, dtype="string"), ["a", "b"]),
    "Series of Int64": (pd.Series([3, 1] * (N // 2), dtype="Int64"), [1, 3]),
    "Series of booleans": (pd.Series([True, False] * (N // 2), dtype="boolean"), [False, True]),
    "Series of categories": (pd.Series(LABELS, dtype="category"), ["a", "b"]),
    "polars": (pl.Series(LABELS), ["a", "b"]),
    "pyarrow": (pa.array(LABELS), ["a", "b"]),
    "masked nowhere": (np.ma.array(LABELS), ["a", "b"]),
    "whole floats": (CODES + 1.0, [1.0, 2.0]),
}


@pytest.mark.filterwarnings("ignore:A column-vector y was passed")
@pytest.mark.parametrize(("y", "classes"), COMPLETE.values(), ids=COMPLETE)
def test_complete_labels_are_learned(y, classes):
    model = PretrainedClassifier(backbone(), class_map="learn").fit(X, y)
    assert model.classes_.tolist() == classes
    assert FineTunedClassifier(backbone(), max_epochs=0).fit(X, y).classes_.tolist() == classes


@pytest.mark.parametrize("dtype", ["int64", "Int64", "boolean", "int64[pyarrow]"])
def test_an_indicator_matrix_may_be_a_table(dtype):
    matrix = np.column_stack([CODES, 1 - CODES])
    checked = check_target(pd.DataFrame(matrix, dtype=dtype))
    assert checked.dtype.kind in "ib" and (checked == matrix).all()


NO_LABELS = {
    "too few": LABELS[:-1],
    "a number": 3,
    "a text": "abc",
    "three dimensions": np.zeros((N, 2, 2)),
    "lists of different lengths": [[1], [1, 2]] * (N // 2),
    "numbers with fractions": X[:, 0],
    "infinite": [np.inf] * N,
    "a dictionary": {"a": 1},
    "complex": CODES * 1j,
    "objects": [object()] * N,
    "bytes": [b"a", b"b"] * (N // 2),
    "texts and numbers": ["a", 1] * (N // 2),
    "nothing": None,
    "two columns of texts": np.array([LABELS, LABELS]).T,
    "no values": [],
}


@pytest.mark.parametrize("y", NO_LABELS.values(), ids=NO_LABELS)
def test_an_error_about_labels_names_the_parameter(y):
    with pytest.raises(ValueError, match=r"\bname\b") as found:
        check_labels(y, N, name="name")
    assert len(str(found.value)) < 500


@pytest.mark.parametrize("y", [LABELS[:-1], 3, [object()] * N, ["a", 1] * (N // 2), None, []])
@pytest.mark.parametrize("entry", list(ENTRIES.values())[:-1], ids=list(ENTRIES)[:-1])
def test_errors_of_public_functions_name_y(entry, y):
    with pytest.raises(ValueError, match=r"\b(y|source_labels)\b"):
        entry(y)


NO_NUMBERS = {
    "too few": VALUES[:-1],
    "texts": LABELS,
    "texts that read as numbers": ["1", "2"] * (N // 2),
    "dates": DAYS,
    "infinite": [np.inf] * N,
    "complex": CODES * 1j,
    "objects": [object()] * N,
}


@pytest.mark.parametrize("y", NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_an_error_about_numbers_names_the_parameter(y):
    with pytest.raises(ValueError, match=r"\by\b"):
        check_numbers(y, N)


def test_float32_targets_keep_their_type_and_others_become_float64():
    assert check_numbers(X[:, 0]).dtype == np.float32
    assert check_numbers(CODES).dtype == check_numbers(VALUES).dtype == np.float64


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.coo_array])
@pytest.mark.parametrize("n_targets", [1, 2])
def test_a_regressor_takes_a_sparse_y(form, n_targets):
    y = np.where(X[:, :n_targets] > 0, X[:, :n_targets], 0).astype(float)
    model = FineTunedRegressor(backbone(), max_epochs=1, random_state=0)
    dense = model.fit(X, y).predict(X)
    np.testing.assert_array_equal(model.fit(X, form(y)).predict(X), dense)


NO_WEIGHTS = {
    "too few": np.ones(3),
    "two columns": np.ones((N, 2)),
    "NaN": np.full(N, np.nan),
    "negative": -np.ones(N),
    "infinite": np.full(N, np.inf),
    "texts": ["a"] * N,
    "a text": "balanced",
    "texts of digits": np.array(["1"] * N, object),
    "None": [None] * N,
    "nearly zero": np.full(N, 1e-320),
    "a nearly zero number": 1e-320,
    "zero": np.zeros(N),
    "masked": np.ma.array(np.ones(N), mask=MASK),
    "a dictionary": {"a": 1},
    "complex": np.ones(N) * 1j,
    "too large together": np.full(N, 1e308),
}


@pytest.mark.parametrize("weight", NO_WEIGHTS.values(), ids=NO_WEIGHTS)
def test_an_error_about_weights_names_the_parameter(weight):
    with pytest.raises(ValueError, match="sample_weight"):
        check_weights(weight, N)


def test_weights_are_one_where_none_are_given():
    assert check_weights(None, 3).tolist() == [1.0, 1.0, 1.0]
    assert check_weights([1, 0, 2], 3).dtype == np.float64


@pytest.mark.filterwarnings("ignore:Singular matrix")
@pytest.mark.parametrize("factor", [1e-300, 1e300])
@pytest.mark.parametrize("cls", [FineTunedClassifier, FineTunedRegressor])
def test_weights_that_a_float32_cannot_hold_count(cls, factor):
    weight = np.linspace(1, 2, N)
    model = cls(backbone(), max_epochs=3, random_state=0, head_init="random")
    expected = model.fit(X, CODES, sample_weight=weight).predict(X)
    found = model.fit(X, CODES, sample_weight=weight * factor).predict(X)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    model.set_params(head_init="probe").fit(X, CODES, sample_weight=weight * factor)
    outputs = getattr(model, "predict_proba", model.predict)(X)
    assert np.isfinite(outputs).all()


SETS = r"set of labels.*MultiLabelBinarizer\(\).fit_transform\(y\).*MultiOutputClassifier"


@pytest.mark.parametrize("y", [[["a", "b"], ["c", "d"]], np.array([["a", "b"], ["c", "a"]])])
def test_rows_of_labels_are_told_what_to_give_for_sets_and_for_columns(y):
    for check in (class_target, check_labels):
        with pytest.raises(ValueError, match=r"1d array, got an array of shape \(2, 2\).*" + SETS):
            check(y, 2)


def test_rows_of_numbers_that_are_no_indicators_are_told_the_same():
    for check in (class_target, check_labels):
        with pytest.raises(ValueError, match=SETS):
            check([[1, 2], [3, 4]], 2)
    with pytest.raises(ValueError) as indicators:
        check_labels([[1, 1], [0, 1]])
    assert "MultiLabelBinarizer" not in str(indicators.value)
    with pytest.raises(ValueError, match=r"y\.argmax"):
        check_labels([[1, 0], [0, 1]])


@pytest.mark.parametrize("table", [pd.DataFrame, pl.DataFrame])
def test_columns_of_a_table_name_the_labels_of_sets(table):
    y = table({"red": [1, 0, 1], "round": [1, 1, 0]})
    target, encoded = class_target(y, 3)
    assert target.classes.tolist() == ["red", "round"]
    assert target.encode(encoded).tolist() == [[1, 1], [0, 1], [1, 0]]
    assert open_target(target.state()).classes.tolist() == ["red", "round"]


@pytest.mark.parametrize("columns", [["a", "a"], ["a", 1], [0, 1]])
def test_columns_without_a_text_for_each_keep_their_positions(columns):
    y = pd.DataFrame([[1, 0], [1, 1], [0, 0]], columns=columns)
    assert class_target(y, 3)[0].classes.tolist() == [0, 1]
