"""Progress in a real Jupyter kernel: `pip install ".[integration]"`."""

import re
import subprocess
import sys

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("ipywidgets")
pytest.importorskip("sklearn.callback")

# Other programs warn of what is between them and their libraries.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]

PREPARE = """
import warnings
import numpy as np
from sklearn.callback import ProgressBar
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sktransfer import FineTunedClassifier, PretrainedFeatureExtractor
from tests.support import images, tiny_backbone
warnings.simplefilter("ignore")  # that a training did not help
X, y = images(64), np.array(["ant", "bee"] * 32)
"""
CELLS = {
    "fit": "model = FineTunedClassifier(tiny_backbone(), max_epochs=3, verbose=1).fit(X, y)",
    "predict": "labels = model.predict(X)",
    "transform": """
vectors = PretrainedFeatureExtractor(tiny_backbone(), verbose=1).fit_transform(X)
""",
    "search": """
pipeline = make_pipeline(PretrainedFeatureExtractor(tiny_backbone()), LogisticRegression())
search = GridSearchCV(pipeline, {"logisticregression__C": [1, 10]}, cv=2)
search = search.set_callbacks(ProgressBar()).fit(X, y)
""",
}


# Execute the notebook of a path in a kernel of this Python, and write what it has printed.
EXECUTE = """
import sys
import nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook).execute()
nbformat.write(notebook, sys.argv[1])
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The outputs of each cell of a notebook."""
    cells = [nbformat.v4.new_code_cell(source) for source in (PREPARE, *CELLS.values())]
    path = tmp_path_factory.mktemp("notebooks") / "progress.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    # A kernel of ipykernel 7 sometimes never answers: microsoft/vscode-jupyter#17234.
    for attempts_left in (2, 1, 0):
        try:
            subprocess.run([sys.executable, "-c", EXECUTE, path], check=True, timeout=80)
            break
        except subprocess.TimeoutExpired:
            if not attempts_left:
                raise
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].outputs == []
    return dict(zip(CELLS, (cell.outputs for cell in notebook.cells[1:]), strict=True))


@pytest.mark.parametrize(
    ("cell", "texts"),
    [
        ("fit", ["tinynet features: 64/64", "training: 3/3"]),
        ("predict", ["tinynet features: 64/64"]),
        ("transform", ["tinynet features: 64/64"]),
    ],
)
def test_each_bar_is_a_line_of_text_with_its_last_state(outputs, cell, texts):
    assert {(output.output_type, output.name) for output in outputs[cell]} == {("stream", "stderr")}
    lines = "".join(output.text for output in outputs[cell]).splitlines()
    shown = [re.sub(r" 100%\|.*\| (\d+/\d+) .*", r" \1", line) for line in lines if "100%" in line]
    assert shown == texts


def test_bars_of_scikit_learn_write_no_warning(outputs):
    assert [one for one in outputs["search"] if one.output_type == "stream"] == []
