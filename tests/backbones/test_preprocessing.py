"""Images are resized, cropped and scaled bit for bit as by torchvision."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import StochasticDepth
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from sktransfer.backbones import preprocessing
from sktransfer.backbones.imagenet import imagenet_classes, imagenet_ids, unique_names
from sktransfer.backbones.lite import StochasticDepth as OwnStochasticDepth
from tests.new_process import run_in_new_process

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHAPES = [(40, 60), (60, 40), (33, 33), (224, 7), (1, 90), (500, 333)]


def image(shape, dtype, channels=3):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (*shape, channels), np.uint8)
    return pixels if dtype == "uint8" else (pixels / 255).astype(np.float32)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest", "nearest-exact"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [[32], [100], [40, 60], [17, 90]])
def test_resized_images_are_those_of_torchvision(mode, dtype, shape, size):
    for channels in (1, 3):
        x = torch.from_numpy(image(shape, dtype, channels)).permute(2, 0, 1)
        expected = F.resize(x, size, interpolation=InterpolationMode(mode), antialias=True)
        made = preprocessing.resize(x, size, mode)
        assert torch.equal(made, expected)
        assert made.dtype == expected.dtype
        assert channels == 1 or made.stride() == expected.stride()


def test_resized_images_are_those_of_torchvision_on_a_processor_without_fast_bytes():
    code = """if True:
        import platform
        import torch

        torch.backends.cpu.get_cpu_capability = lambda: "DEFAULT"
        platform.machine = lambda: "x86_64"
        from torchvision.transforms.v2 import functional as F
        from sktransfer.backbones.preprocessing import resize

        generator = torch.Generator().manual_seed(0)
        x = torch.randint(0, 256, (3, 60, 40), dtype=torch.uint8, generator=generator)
        assert torch.equal(resize(x, [25], "bilinear"), F.resize(x, [25], antialias=True))
    """
    run_in_new_process(code)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("size", [[32], [40, 60], [17, 90]])
def test_resize_by_pillow(mode, size):
    for shape in SHAPES:
        pixels = image(shape, "uint8")
        expected = F.resize(Image.fromarray(pixels), size, interpolation=InterpolationMode(mode))
        made = preprocessing.resize_by_pillow(pixels, size, mode)
        assert torch.equal(made, F.pil_to_tensor(expected))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(32, 32), (33, 40), (225, 8), (7, 91)])
def test_crop_and_scale(dtype, shape, size):
    x = torch.from_numpy(image(shape, dtype)).permute(2, 0, 1)
    before = x.clone()
    cropped = F.center_crop(x, list(size))
    expected = F.normalize(F.to_dtype(cropped, torch.float32, scale=True), MEAN, STD)
    steps = preprocessing.ImagePreprocessing(size, size, MEAN, STD)
    assert torch.equal(steps.scaled(preprocessing.center_crop(x, size)), expected)
    assert torch.equal(x, before)


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(ValueError, match="smooth"):
        preprocessing.resize(torch.zeros(3, 4, 4), [2], "smooth")


def test_names_of_classes_are_those_of_torchvision():
    from torchvision.models import ResNet18_Weights

    names = ResNet18_Weights.DEFAULT.meta["categories"]
    assert imagenet_classes() == unique_names(names, imagenet_ids())


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_stochastic_depth(p):
    x = torch.ones(50, 3, 2, 2)
    own, theirs = OwnStochasticDepth(p), StochasticDepth(p, "row")
    for training in (True, False):
        results = []
        for module in (own, theirs):
            torch.manual_seed(0)
            results.append(module.train(training)(x))
        assert torch.equal(*results)
