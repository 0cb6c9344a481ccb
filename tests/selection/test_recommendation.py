import pytest

from sktransfer.selection.recommendation import StrategyEstimate, decide, is_settled
from sktransfer.selection.strategies import RULES, STRATEGIES


def test_a_strategy_is_tried_on_until_it_can_hardly_change_the_choice():
    best = [StrategyEstimate("features", 0.0, 0.0), StrategyEstimate("early", 0.1, 0.02)]
    assert is_settled(StrategyEstimate("all", 0.0, 0.05), best)  # out of reach
    assert not is_settled(StrategyEstimate("all", 0.1, 0.05), best)
    assert is_settled(StrategyEstimate("all", 0.3, 0.05), best)  # out of doubt


def _decided(*gains):
    names = list(STRATEGIES)[1:]
    table = [
        StrategyEstimate(n, g, e, 10, 0.8 + g) for n, (g, e) in zip(names, gains, strict=False)
    ]
    return decide(table, [], "", {})


def test_the_simpler_is_taken_where_the_difference_is_below_its_uncertainty():
    gain, error = 0.02, 0.02 / RULES["caution"]
    assert _decided((0, 0), (gain, 1.1 * error)).chosen == "features"
    assert _decided((0, 0), (gain, 0.9 * error)).chosen == "early"
    tie = _decided((0, 0), (0.0, 0.0))
    assert (tie.strategy, tie.runner_up) == ("features", "early")


def test_training_stages_must_bring_more_than_its_effort():
    effort = STRATEGIES["all"].effort
    for gain, taken in ((0.8 * effort, "features"), (1.2 * effort, "all")):
        table = [
            StrategyEstimate("features", 0.0, 0.0),
            StrategyEstimate("all", gain, 0.0, effort=effort),
        ]
        assert decide(table, [], "", {}).strategy == taken


def test_the_reasons_say_which_kind_is_taken_where_little_can_be_told():
    simple, likely = _decided((0, 0), (0.001, 0.02)), _decided((0, 0), (0.03, 0.04))
    assert simple.strategy == "features" and "the simpler one is taken" in simple.reasons[0]
    assert likely.strategy == "early" and "the likelier one is taken" in likely.reasons[0]


def test_it_abstains_where_nothing_is_separated():
    vague = _decided((0, 0), (0.1, 0.3))
    assert vague.strategy is None and "too little to tell: early and features" in vague.reasons[0]
    assert vague.chosen == "early"  # the best guess
    assert _decided((0, 0), (0.5, 0.2)).strategy == "early"


def test_confidence_is_the_probability_that_no_other_is_better_by_more_than_a_point():
    assert _decided((0, 0), (0.05, 0.025)).confidence == pytest.approx(0.9918, abs=1e-4)
    assert _decided((0, 0), (0.0, 0.0)).confidence == 1.0  # whichever is taken
    # The least over all others, not that of the runner-up alone.
    three = _decided((0, 0), (0.05, 0.01), (0.03, 0.04))
    assert three.strategy == "early"
    assert three.confidence == pytest.approx(0.767, abs=1e-3)
