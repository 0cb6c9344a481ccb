import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV

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


def test_the_number_of_views_is_searched_over():
    model = FineTunedClassifier(tiny_backbone(), augment=Augmentation(n_views=2), max_epochs=1)
    search = GridSearchCV(model, {"augment__n_views": [1, None]}, cv=2)
    assert search.fit(images(6), [0, 1] * 3).best_params_["augment__n_views"] in (1, None)
    assert model.augment.n_views == 2


@pytest.mark.parametrize("settings", [{"n_views": 0}, {"n_views": True}, {"transform": "weak"}])
def test_settings_that_an_augmentation_does_not_take_are_named(settings):
    model = FineTunedClassifier(tiny_backbone(), augment=Augmentation(**settings))
    with pytest.raises(ValueError, match=f"augment=.*{next(iter(settings))} is"):
        model.fit(images(4), [0, 1] * 2)
