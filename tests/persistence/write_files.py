"""Write the files of fitted models of this version, which later versions must open.

Run ``python -m tests.persistence.write_files`` once for each released version, and keep the files
of earlier ones: ``test_versions.py`` opens each of them in a new process.
"""

import joblib
import numpy as np

from sktransfer import __version__, save
from tests.finetuning.write_files import models, outputs
from tests.support import TESTS

FILES = TESTS / "data" / "files"


def main() -> None:
    number = __version__.rpartition(".dev")[0] or __version__
    folder = FILES / f"version_{number}"
    folder.mkdir(parents=True, exist_ok=True)
    fitted = models()
    for name, (model, _) in fitted.items():
        save(model, folder / f"{name.replace(' ', '_')}.skt")
    joblib.dump({name: model for name, (model, _) in fitted.items()}, folder / "all.joblib", 3)
    expected = {name: outputs(model, X) for name, (model, X) in fitted.items()}
    samples = {f"X {name}": np.array(X) for name, (_, X) in fitted.items()}
    np.savez_compressed(folder / "expected.npz", **expected, **samples)


if __name__ == "__main__":
    main()
