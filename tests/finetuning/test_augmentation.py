import numpy as np
import pytest

from sktransfer import Augmentation, FineTunedClassifier
from tests.support import images, tiny_backbone


def darken(image):
    return image.mul_(0)


@pytest.mark.parametrize("n_views", [1, None])
def test_an_augmentation_that_works_in_place_does_not_change_the_images_of_the_user(n_views):
    X = images(4)
    before, augment = np.stack(X), Augmentation(darken, n_views=n_views)
    model = FineTunedClassifier(tiny_backbone(), augment=augment, max_epochs=1)
    model.fit(X, [0, 1, 0, 1])
    np.testing.assert_array_equal(np.stack(X), before)
