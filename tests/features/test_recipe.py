import pytest
import torch

from sktransfer import load_backbone
from sktransfer.features.recipe import Recipe
from tests.support import TINY_SIZE, tiny_backbone


def keys(**change):
    settings = {"backbone": tiny_backbone(), "layers": ("4",), "pooling": "avg"} | change
    layer = settings.pop("layer", "4")
    return Recipe(**settings).key(layer)


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": tiny_backbone(1)},
        {"backbone": tiny_backbone(preprocess=TINY_SIZE.with_size(20))},
        {"backbone": load_backbone(tiny_backbone(), image_size=20)},
        {"backbone": load_backbone(tiny_backbone().module)},
        {"layer": "2"},
        {"pooling": "max"},
        {"pooling": torch.flatten},
        {"precision": "bfloat16"},
    ],
)
def test_a_key_holds_what_decides_the_features(change):
    assert keys(**change) != keys()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"backbone": tiny_backbone(name="other")},
        {"backbone": tiny_backbone(classes=["x", "y", "z"])},
        {"layers": ("2", "4")},
    ],
)
def test_a_key_holds_nothing_else(change):
    assert keys(**change) == keys()


def test_no_pooling_is_the_mean():
    backbone = tiny_backbone()
    assert Recipe(backbone, ("4",), None) == Recipe(backbone, ("4",), "avg")
    assert keys(pooling=None) == keys(pooling="avg")


def test_an_engine_of_other_stages_is_not_kept_with_the_backbone():
    recipe, cpu = Recipe(tiny_backbone(), ("4",)), torch.device("cpu")
    other = recipe.engine(cpu, {"4": torch.nn.ReLU()})
    assert recipe.engine(cpu) is not other
    assert recipe.engine(cpu) is recipe.engine(cpu)
