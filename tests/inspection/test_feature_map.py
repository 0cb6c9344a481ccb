import numpy as np
import pytest
from sklearn.decomposition import PCA

from sktransfer import PretrainedFeatureExtractor
from sktransfer.inspection import FeatureMapDisplay
from sktransfer.inspection.feature_map import far_apart
from tests.support import images, tiny_backbone


@pytest.fixture
def extractor(colours):
    return PretrainedFeatureExtractor(tiny_backbone()).fit(colours[0])


def test_each_label_is_a_colour_and_some_samples_are_pictures(extractor, colours):
    X, y = colours
    display = FeatureMapDisplay.from_estimator(extractor, X, y, n_previews=5)
    assert [p.get_label() for p in display.points_] == ["dark", "light"]
    assert sum(len(p.get_offsets()) for p in display.points_) == len(X)
    assert len(display.previews_) == 5
    assert display.positions.shape == (24, 2)


def test_many_samples_are_placed_by_their_neighbours(extractor):
    X = images(40)
    display = FeatureMapDisplay.from_estimator(extractor, X, np.linspace(0, 1, 40))
    assert display.positions.shape == (40, 2)
    assert display.points_[0].get_array().size == 40
    again = FeatureMapDisplay.from_estimator(extractor, X)
    np.testing.assert_array_equal(display.positions, again.positions)


def test_a_projection_can_be_given_and_one_sample_has_a_place(extractor, colours):
    display = FeatureMapDisplay.from_estimator(extractor, colours[0], projection=PCA(2))
    expected = PCA(2).fit_transform(extractor.transform(colours[0]))
    np.testing.assert_allclose(display.positions, expected, rtol=1e-4, atol=1e-4)
    assert FeatureMapDisplay.from_estimator(extractor, colours[0][:1]).positions.tolist() == [
        [0, 0]
    ]


def test_pictures_are_far_from_each_other():
    positions = np.array([[0, 0], [0, 0.1], [5, 0], [0, 5.0]])
    assert set(far_apart(positions, 3)) in ({0, 2, 3}, {1, 2, 3})
    assert len(far_apart(np.zeros((4, 2)), 3)) == 1
