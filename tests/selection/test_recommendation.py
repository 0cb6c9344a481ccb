import numpy as np
import pytest
from PIL import Image

from sktransfer import load_backbone, recommend_strategy
from sktransfer.data import get_modality
from sktransfer.selection.recommendation import (
    StrategyEstimate,
    decide,
    headroom_of,
    is_settled,
    note_on_size,
    update,
)
from sktransfer.selection.strategies import (
    REFERENCE,
    RULES,
    STRATEGIES,
    Evidence,
    ShareOfErrors,
)
from sktransfer.transferability import summarise
from tests.support import TINY_SIZE, Vectors, images, tiny_backbone, tiny_vit

# -- what is expected by rule ----------------------------------------------------------------------

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


# -- the choice ------------------------------------------------------------------------------------


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


def test_a_recommendation_abstains_where_nothing_is_separated():
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


# -- larger inputs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "noted"), [(16, False), (20, False), (21, True), (40, True)]
)  # 16 pixels are the input, 21 the larger one
def test_images_that_are_larger_than_the_input_are_noted(side, noted):
    note = note_on_size(tiny_backbone(), images(3, (side, side + 9)))
    assert (note is not None) == noted
    if noted:
        assert f"({side} pixels)" in note and "image_size=21" in note and "1.7 times" in note


def test_nothing_is_noted_where_no_other_size_is_possible_or_one_was_asked_for():
    X = images(3, (60, 60))
    vit = load_backbone(tiny_vit(), preprocess=TINY_SIZE)
    assert note_on_size(vit, X) is None
    assert note_on_size(tiny_backbone().with_image_size(12), X) is None
    assert note_on_size(load_backbone(Vectors()), np.zeros((3, 4), np.float32)) is None


def test_a_recommendation_contains_the_note(one_split):
    y, settings = np.arange(12) % 2, {"max_epochs": 0, "random_state": 0}
    found = recommend_strategy(images(12, (30, 30)), y, tiny_backbone(), **settings)
    assert "image_size=21" in found.reasons[-1]
    small = recommend_strategy(images(12, (16, 16)), y, tiny_backbone(), **settings)
    assert not any("image_size" in reason for reason in small.reasons)


def test_sides_are_those_of_every_form_of_an_image(tmp_path):
    torch = pytest.importorskip("torch")
    path, broken = tmp_path / "a.png", tmp_path / "b.png"
    image = Image.new("RGB", (30, 20))
    image.save(path)
    broken.write_bytes(b"no image")
    modality = get_modality("image")
    forms = [image, path, str(path), np.asarray(image), torch.zeros(3, 20, 30), np.zeros((20, 30))]
    assert [modality.side(form) for form in forms] == [20] * len(forms)
    assert [modality.side(form) for form in (broken, tmp_path / "none.png", np.zeros(3))] == [
        None
    ] * 3
    assert get_modality("text").side("a") is None
