"""Run every task of the page about inputs, and count the lines that it needs.

Each task gives the same 16 images of two classes in another form, or puts a pipeline into another
meta-estimator. It works if the predictions of the fitted model are the labels. The lines are those
of the task itself, without imports. The table is that of docs/guide/inputs.md.

    python benchmarks/inputs.py
    python benchmarks/inputs.py --write
"""

from __future__ import annotations

import io
import re
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
from _common import parser
from PIL import Image
from sklearn.datasets import load_sample_images

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guide" / "inputs.md"
BEGIN, END = "<!-- made by benchmarks/inputs.py -->\n", "<!-- end -->\n"

IMPORTS = """
import csv, io, pathlib, tarfile, zipfile
import dask.array, fsspec, h5py, torch, webdataset, zarr
import pandas as pd, pyarrow as pa, pyarrow.parquet
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_files
from sklearn.ensemble import *
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import *
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from torchvision import datasets, tv_tensors
from sktransfer import *
"""

# The names: folder (Path, a sub-folder for each class), files, y, images (array), names (an array
# of objects of one column), model (extractor and LogisticRegression, not fitted).
INPUTS = {
    "names of files": "X = files",
    "`bytes`": "X = [pathlib.Path(file).read_bytes() for file in files]",
    "`BytesIO`": "X = [io.BytesIO(pathlib.Path(file).read_bytes()) for file in files]",
    "open files": "X = [open(file, 'rb') for file in files]",
    "members of a zip archive": """
archive = zipfile.ZipFile(folder / "all.zip")
X = [archive.open(name) for name in sorted(archive.namelist())]""",
    "paths in a zip archive": """
X = [zipfile.Path(folder / "all.zip", pathlib.Path(file).name) for file in files]""",
    "files of fsspec": "X = fsspec.open_files(files)",
    "`file://` URLs": "X = [pathlib.Path(file).as_uri() for file in files]",
    "cells of Hugging Face": """
X = [{"bytes": pathlib.Path(file).read_bytes(), "path": None} for file in files]""",
    "a folder (`imagefolder` of Hugging Face)": "X, y = load_image_folder(folder / 'images')",
    "`load_files` of scikit-learn": """
bunch = load_files(folder / "images", shuffle=False)
X, y = bunch.data, [bunch.target_names[code] for code in bunch.target]""",
    "CSV": "X, y = load_image_table(folder / 'relative.csv')",
    "Parquet with encoded images": "X, y = load_image_table(folder / 'table.parquet')",
    "a column of pandas": "X = pd.read_csv(folder / 'table.csv')['file_name']",
    "a column of pyarrow": "X = pa.parquet.read_table(folder / 'table.parquet').column('image')",
    "`ImageFolder`": "X, y = from_dataset(datasets.ImageFolder(folder / 'images'))",
    "`TensorDataset`, as it is": """
X = torch.utils.data.TensorDataset(torch.from_numpy(images).permute(0, 3, 1, 2))""",
    "WebDataset": """
shard = webdataset.WebDataset(str(folder / "shard.tar"), shardshuffle=False)
X, y = zip(*shard.decode().to_tuple("jpg", "txt"))""",
    "h5py": "X = h5py.File(folder / 'images.h5')['x']",
    "zarr": "X = zarr.open(folder / 'images.zarr')",
    "dask": "X = dask.array.from_array(images, chunks=(5, -1, -1, -1))",
    "`tv_tensors.Image`": """
X = [tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1)) for image in images]""",
    "an array `(n, 1)` of names": "X = names",
}

META = {
    "`BaggingClassifier`": "model = BaggingClassifier(model, n_estimators=3)",
    "`AdaBoostClassifier`": """
tuned = FineTunedClassifier(image_size=64, max_epochs=1)
model = AdaBoostClassifier(tuned, n_estimators=2)""",
    "`VotingClassifier`": "model = VotingClassifier([('a', model)], voting='soft')",
    "`StackingClassifier`": "model = StackingClassifier([('a', model)], cv=2)",
    "`StackingClassifier`, `passthrough`": """
last = make_column_transformer((PretrainedFeatureExtractor(image_size=64), [-1]),
                               remainder="passthrough")
final = make_pipeline(last, LogisticRegression())
model = StackingClassifier([("a", model)], final_estimator=final, passthrough=True, cv=2)""",
    "`CalibratedClassifierCV`": "model = CalibratedClassifierCV(model, cv=2)",
    "`OneVsRestClassifier`": "model = OneVsRestClassifier(model)",
    "`OneVsOneClassifier`, after the extractor": """
model = make_pipeline(model[0], OneVsOneClassifier(model[1]))""",
    "`OneVsOneClassifier`, around it": """
look_up = FunctionTransformer(lambda rows: names[rows[:, 0].astype(int)])
X = np.arange(len(names))[:, None]
model = OneVsOneClassifier(make_pipeline(look_up, model))""",
    "`SelfTrainingClassifier`, after the extractor": """
y = np.array(y, dtype=object)
model = make_pipeline(model[0], SelfTrainingClassifier(model[1]))""",
    "`GridSearchCV`": "model = GridSearchCV(model, {'logisticregression__C': [1, 10]}, cv=2)",
    "`ColumnTransformer`: images, texts and numbers": """
X = pd.DataFrame({"photo": files, "text": ["a photo"] * 16, "weight": np.arange(16.0)})
columns = make_column_transformer(
    (PretrainedFeatureExtractor(image_size=64, n_components=4), ["photo"]),
    (PretrainedFeatureExtractor("minilm_l6_v2", n_components=2), ["text"]),
    (StandardScaler(), ["weight"]))
model = make_pipeline(columns, LogisticRegression(C=100))""",
    "two columns of images, one cell missing": """
X = pd.DataFrame({"front": files, "side": [None, *files[1:]]})
model[0].set_params(missing="zero")""",
    "a validation set of one's own": """
tuned = FineTunedClassifier(image_size=64, max_epochs=3)
model = tuned.fit(files[::2], y[::2], X_val=files[1::2], y_val=y[1::2])""",
    "another loss": """
model = FineTunedClassifier(image_size=64, max_epochs=3, loss=torch.nn.CrossEntropyLoss())""",
}


def prepare(folder: Path) -> dict:
    """Write 16 photographs of a palace and a flower in several forms; return the names of tasks."""
    rng, names, images = np.random.default_rng(0), ("daisy", "palace"), []
    china, flower = load_sample_images().images
    for k, photo in enumerate((flower, china)):
        (folder / "images" / names[k]).mkdir(parents=True)
        for i in range(8):
            top, left = rng.integers(0, 100, 2)
            images.append(photo[top : top + 320, left + 100 : left + 420][::4, ::4])
            Image.fromarray(images[-1]).save(
                folder / "images" / names[k] / f"{k}{i}.jpg", quality=98
            )
    files = sorted(map(str, (folder / "images").glob("*/*.jpg")))
    y = [Path(file).parent.name for file in files]
    write(folder, files, y, np.stack(images))
    column = np.array(files, dtype=object)[:, None]
    return {"folder": folder, "files": files, "y": y, "images": np.stack(images), "names": column}


def write(folder: Path, files: list[str], y: list[str], images: np.ndarray) -> None:
    import tarfile

    import h5py
    import pandas as pd
    import zarr

    relative = [f"/{Path(file).relative_to(folder)}" for file in files]
    table = pd.DataFrame({"file_name": [name[1:] for name in relative], "label": y})
    table.to_csv(folder / "relative.csv", index=False)
    table.assign(file_name=files).to_csv(folder / "table.csv", index=False)
    cells = [{"bytes": Path(file).read_bytes(), "path": file} for file in files]
    pd.DataFrame({"image": cells, "label": y}).to_parquet(folder / "table.parquet")
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        for file in files:
            archive.write(file, Path(file).name)
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for i, (file, label) in enumerate(zip(files, y, strict=True)):
            for ending, content in (("jpg", Path(file).read_bytes()), ("txt", label.encode())):
                info = tarfile.TarInfo(f"{i:02d}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    with h5py.File(folder / "images.h5", "w") as file:
        file.create_dataset("x", data=images, chunks=(4, *images.shape[1:]))
    zarr.save_array(folder / "images.zarr", images)


def run(code: str, given: dict) -> str:
    """Run a task, fit its model unless it is fitted, and say whether it predicts the labels."""
    names = dict(given)
    exec(IMPORTS + FIRST + code, names)
    model, X, y = names["model"], names["X"], names["y"]
    if not hasattr(model, "classes_"):
        model.fit(X, y)
    right = np.mean(np.asarray(model.predict(X)) == np.asarray(y))
    return "yes" if right == 1 else f"{right:.0%} of the labels"


FIRST = """
import numpy as np
X = names
model = make_pipeline(PretrainedFeatureExtractor(image_size=64), LogisticRegression())
"""


def n_lines(code: str) -> int:
    return len(code.strip().splitlines())


def table(tasks: dict[str, str], given: dict) -> list[str]:
    rows = []
    for name, code in tasks.items():
        try:
            works = run(code, given)
        except Exception as error:
            works = f"no: {type(error).__name__}: {str(error).splitlines()[0][:80]}"
        rows.append(f"| {name} | {works} | {n_lines(code)} |")
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--write", action="store_true", help="write the table to the page")
    args = options.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        given = prepare(Path(place))
        rows = [*table(INPUTS, given), *table(META, given)]
    if args.write:
        text = PAGE.read_text(encoding="utf-8")
        lines = "\n".join(["| task | works | lines |", "|---|---|---|", *rows])
        pattern = f"{re.escape(BEGIN)}.*{re.escape(END)}"
        new = re.sub(pattern, lambda _: f"{BEGIN}\n{lines}\n\n{END}", text, flags=re.DOTALL)
        PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
