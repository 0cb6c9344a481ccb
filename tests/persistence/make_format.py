"""Write files of ``save`` that all later versions must open.

    python -m tests.persistence.make_format

The folder tests/persistence/formats/VERSION gets a small file for each of some estimators, the
samples, and what the estimators return for them. Networks are those of ``tests/support.py``, with
random weights, and the default one by its name. Run it for a release that changes the format.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import sktransfer
from tests.persistence.cases import CASES, TEXTS, X, Y, outputs

FOLDER = Path(__file__).resolve().parent / "formats"
IMAGES = (
    "extractor",
    "direct",
    "class map",
    "tuned",
    "several labels",
    "numbers",
    "blend with a map",
    "regressor",
    "pipeline",
    "search",
)
OF_TEXTS = ("word vectors", "blend of texts")


def main(folder: Path = FOLDER / sktransfer.__version__) -> None:
    if folder.exists():
        sys.exit(f"{folder} exists: the files of a version stay as they are")
    folder.mkdir(parents=True)
    default = make_pipeline(
        sktransfer.PretrainedFeatureExtractor(image_size=32), LogisticRegression()
    )
    models = {"default network": default.fit(X, Y)} | {name: CASES[name]()[0] for name in IMAGES}
    models |= {name: CASES[name]()[0] for name in OF_TEXTS}
    expected = {}
    for name, model in models.items():
        sktransfer.save(model, folder / f"{name.replace(' ', '_')}.skt")
        samples = TEXTS if name in OF_TEXTS else X
        for method, values in outputs(model, samples).items():
            expected[f"{name.replace(' ', '_')}/{method}"] = values
    np.savez_compressed(folder / "samples.npz", images=np.stack(X), texts=np.array(TEXTS))
    np.savez_compressed(folder / "expected.npz", **expected)


if __name__ == "__main__":
    main()
