"""Draw the pictures of the page on inspection.

    python docs/plot_inspection.py

The picture of a report is a screenshot by Chromium (Debian's package chromium).
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image
from skimage import data
from sklearn.datasets import load_digits, load_sample_images
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import PretrainedClassifier, PretrainedFeatureExtractor
from sktransfer.inspection import FeatureMapDisplay, SaliencyDisplay, report

FOLDER = Path(__file__).parent / "guide"


def save(figure, name: str) -> None:
    figure.savefig(FOLDER / name, dpi=80)
    with Image.open(FOLDER / name) as image:  # a palette takes a third of the space
        image.convert("RGB").quantize(256).save(FOLDER / name, optimize=True)


def draw_saliency() -> None:
    photos = [*load_sample_images().images, data.chelsea(), data.coffee()]
    classifier = PretrainedClassifier().fit(photos)
    save(SaliencyDisplay.from_estimator(classifier, photos).figure_, "saliency.png")


def draw_digits() -> None:
    digits = load_digits()
    X, y = list(digits.images[:200] / 16), digits.target[:200].copy()
    y[[20, 50]] = 7
    extractor = PretrainedFeatureExtractor(layer="blocks.9", pooling="flatten", image_size=64)
    display = FeatureMapDisplay.from_estimator(extractor.fit(X), X, y.astype(str))
    save(display.figure_, "feature_map.png")
    model = make_pipeline(extractor, LogisticRegression(C=0.01))
    with tempfile.TemporaryDirectory() as folder:
        large = [np.kron(1 - x, np.ones((8, 8))) for x in X]
        made = report(model, large, y.astype(str), Path(folder) / "report.html", cv=3, n_shown=2)
        screenshot(made.path, folder)


def screenshot(page: Path, folder: str) -> None:
    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("The picture of a report needs Chromium: apt-get install chromium")
    picture = FOLDER / "report.png"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    options += [f"--user-data-dir={folder}/chromium", "--window-size=900,1900"]
    subprocess.run([program, *options, f"--screenshot={picture}", page.as_uri()], check=True)
    with Image.open(picture) as image:
        image.convert("RGB").quantize(64).save(picture, optimize=True)


def main() -> None:
    matplotlib.use("Agg")
    draw_saliency()
    draw_digits()


if __name__ == "__main__":
    main()
