import numpy as np
import pytest
from scipy import sparse

from sktransfer.data.targets import (
    ClassTarget,
    IndicatorTarget,
    NumericTarget,
    class_target,
    encode_target,
)

RNG = np.random.default_rng(0)


def test_whole_numbers_are_labels_unless_told():
    y = RNG.permutation(np.arange(100, 160)) * 3.0
    with pytest.warns(UserWarning, match="60 distinct whole numbers"):
        assert encode_target(y).dtype.kind == "i"
    with pytest.warns(UserWarning, match="number of unique classes"):  # of scikit-learn
        assert encode_target(y, "classification").dtype.kind == "i"
    assert (encode_target(y, "regression") == y).all()
    with pytest.warns(UserWarning, match="number of unique classes"):
        # As an encoder numbers labels.
        assert encode_target(np.arange(60), "auto").dtype.kind == "i"
    assert encode_target(y + 0.5).dtype.kind == "f"
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


def test_numbers_whose_variance_is_not_finite_are_refused():
    with pytest.raises(ValueError, match=r"as large as 4e\+300: scale them down"):
        NumericTarget(np.arange(5.0) * 1e300)
