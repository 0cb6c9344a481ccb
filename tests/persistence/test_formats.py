"""Files of ``save`` that earlier versions wrote open, and predict the same."""

import importlib.metadata
import json
import zipfile
from pathlib import Path

import pytest

from tests.new_process import run_in_new_process

pytest.importorskip("skops")
FOLDERS = sorted((Path(__file__).parent / "formats").iterdir())
OPEN = """
import sys
from pathlib import Path

import numpy as np

import sktransfer
from tests.support import tiny_backbone

folder = Path(sys.argv[1])
with np.load(folder / "samples.npz") as stored:
    samples = {name: list(values) for name, values in stored.items()}
n_files = 0
with np.load(folder / "expected.npz") as expected:
    for path in sorted(folder.glob("*.skt")):
        model = sktransfer.load(path, modules={"tinynet": tiny_backbone})
        for key, values in expected.items():
            name, _, method = key.partition("/")
            if name != path.stem:
                continue
            given = samples["texts" if name in ("word_vectors", "blend_of_texts") else "images"]
            found = np.asarray(getattr(model, method)(given))
            if values.dtype.kind == "f":
                np.testing.assert_allclose(found, values, rtol=1e-4, atol=1e-5, err_msg=key)
            else:
                assert found.tolist() == values.tolist(), key
        n_files += 1
print(n_files)
"""


def versions(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as file:
        return json.loads(file.read("contents.json"))["versions"]


def test_the_first_release_has_files():
    assert "0.1.0" in [folder.name for folder in FOLDERS]
    assert sum(path.stat().st_size for path in FOLDERS[0].iterdir()) < 1_000_000


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_files_of_an_earlier_version_open_and_predict_the_same(folder):
    files = sorted(folder.glob("*.skt"))
    wrote = versions(files[0])["scikit-learn"]
    here = importlib.metadata.version("scikit-learn")
    if [int(n) for n in here.split(".")[:2]] < [int(n) for n in wrote.split(".")[:2]]:
        pytest.skip(f"written with scikit-learn {wrote}, and only later versions must open it")
    assert int(run_in_new_process(OPEN, folder)) == len(files) >= 12
