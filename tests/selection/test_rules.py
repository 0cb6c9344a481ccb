import numpy as np
import pytest

from sktransfer.selection.recommendation import headroom_of, update
from sktransfer.selection.strategies import REFERENCE, STRATEGIES, Evidence, ShareOfErrors
from sktransfer.transferability import summarise

SHARES = [
    name for name, strategy in STRATEGIES.items() if isinstance(strategy.prior, ShareOfErrors)
]


def expected_gain(name, headroom, smallest, similarity, hint):
    """What the record of a strategy expects; the hint is for whichever input takes one."""
    seen = Evidence(headroom, smallest, similarity, hint, {"early": hint})
    return STRATEGIES[name].prior(seen)


@pytest.mark.parametrize("name", SHARES)
def test_what_is_expected_is_continuous_in_size_and_similarity(name):
    by_size = [expected_gain(name, 0.2, n, 0.2, 0.0)[0] for n in range(5, 500, 5)]
    by_similarity = [expected_gain(name, 0.2, 50, s, 0.0)[0] for s in np.linspace(0, 1, 50)]
    assert np.abs(np.diff(by_size)).max() < 0.03
    assert np.abs(np.diff(by_similarity)).max() < 0.03
    assert expected_gain(name, 0.0, 100, 0.2, 0.0) == (0.0, 0.0)  # nothing is left to gain


def test_fixed_features_are_what_gains_are_measured_from():
    assert expected_gain(REFERENCE, 0.5, 5, None, 0.0) == (0.0, 0.0)


def test_training_and_earlier_layers_are_expected_to_pay_more_where_data_are_unlike():
    for name in ("early", "all"):
        unlike, alike = (expected_gain(name, 0.2, 50, s, 0.0)[0] for s in (0.1, 0.9))
        assert unlike > alike


def test_direct_use_is_expected_to_pay_where_its_classes_explain_the_labels():
    knows, does_not = (expected_gain("direct", 0.1, 5, 0.9, share)[0] for share in (0.95, 0.5))
    assert knows > 0 > does_not


def test_measurement_replaces_expectation_as_it_grows_surer():
    expected = (0.1, 0.05)
    assert update(expected, summarise(np.array([]))) == expected
    few, many = (update(expected, summarise(np.zeros(n))) for n in (10, 1000))
    assert 0 < many[0] < few[0] < 0.1
    assert many[1] < few[1] < 0.05


def test_errors_to_come_are_never_thought_to_be_none():
    assert 0.05 < headroom_of(1.0, 10) < 0.15
    assert headroom_of(1.0, 1000) < 0.01
    assert headroom_of(0.6, 10_000) == pytest.approx(0.4, abs=1e-3)
    assert headroom_of(float("nan"), 0) == 0.5
