"""Run every task of the page about inputs, and count the lines that it needs.

Each task gives the same 16 images of two classes in another form, puts a pipeline into another
meta-estimator, or begins with a mistake whose message must show what to write. It works if the
predictions of the fitted model are the labels. The lines are those of the task itself, without
imports; of a mistake, those that its message leads to. The first two lists are in
docs/guide/inputs.md, as is a table of mistakes.

    python benchmarks/inputs.py
    python benchmarks/inputs.py --write
    python benchmarks/inputs.py --only columns DataLoader
"""

from __future__ import annotations

import io
import re
import tempfile
import textwrap
import warnings
import zipfile
from pathlib import Path

import numpy as np
from _common import parser
from PIL import Image
from sklearn.datasets import load_sample_images
from skorch.callbacks import Callback

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guide" / "inputs.md"
BEGIN, END = "<!-- made by benchmarks/inputs.py -->\n", "<!-- end -->\n"

IMPORTS = """
import csv, io, pathlib, tarfile, zipfile
import dask.array, fsspec, h5py, skorch, torch, webdataset, zarr
import pandas as pd, pyarrow as pa, pyarrow.parquet
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_files
from sklearn.ensemble import *
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import *
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MultiLabelBinarizer, StandardScaler
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
    "rows that are dictionaries": "X, y = from_dataset(rows)",
    "a stream of rows": "X, y = from_dataset(list(iter(rows)))",
    "`DataLoader`": """
loader = torch.utils.data.DataLoader(datasets.ImageFolder(folder / "images"), batch_size=4)
X, y = from_dataset(loader.dataset)""",
    "images of five channels": """
X = [np.concatenate([image, image[..., :2]], axis=-1) for image in images]
model[0].set_params(backbone=load_backbone("efficientnet_lite0", channels=5))""",
    "an ONNX file as the network": """
X = images
network = load_onnx(folder / "net.onnx", preprocess=to_array)
model[0].set_params(backbone=network, image_size=None)""",
    "weights with another number of classes": """
model[0].set_params(backbone="resnet18", weights=folder / "seven_classes.pth")""",
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
    "`TransferClassifier`: images, texts and numbers": """
X = pd.DataFrame({"photo": files, "text": ["a photo"] * 16, "weight": np.arange(16.0)})
networks = {"photo": "efficientnet_lite0", "text": "minilm_l6_v2"}
model = TransferClassifier(networks, image_size=64)""",
    "`TransferClassifier`: two columns of images": """
X = pd.DataFrame({"front": files, "side": files[::-1], "weight": np.arange(16.0)})
model = TransferClassifier(image_size=64)""",
    "`TransferClassifier`: one cell missing": """
X = pd.DataFrame({"photo": [None, *files[1:]], "weight": np.arange(16.0)})
model = TransferClassifier(image_size=64, on_error="mean")""",
    "`TransferClassifier`: two networks": """
model = TransferClassifier(["efficientnet_lite0", "efficientnet_lite1"], image_size=64)""",
    "learning rates of one's own": """
groups = [("new_head.*", {"lr": 3e-3})]
model = FineTunedClassifier(image_size=64, max_epochs=5, random_state=0,
                            net_params={"optimizer__param_groups": groups})""",
    "an average of weights": """
model = FineTunedClassifier(image_size=64, max_epochs=5, random_state=0,
                            callbacks=[AverageWeights()])""",
    "a validation set of one's own": """
tuned = FineTunedClassifier(image_size=64, max_epochs=3)
model = tuned.fit(files[::2], y[::2], X_val=files[1::2], y_val=y[1::2])""",
    "another loss": """
model = FineTunedClassifier(image_size=64, max_epochs=3, loss=torch.nn.CrossEntropyLoss())""",
}

# What is wrong, words of its error or warning, and the code that these lead to.
MISTAKES = {
    "sounds, given as images": (
        "model.fit(sounds, y)",
        "modality='array'",
        """
X = sounds
network = load_backbone(torch.nn.Linear(800, 64), modality="array")
model = make_pipeline(PretrainedFeatureExtractor(network), LogisticRegression())""",
    ),
    "CT scans, with values below zero": (
        "model.fit(scans, y)",
        "np.clip((image",
        "X = [np.clip((scan + 1000) / 3000, 0, 1) for scan in scans]",
    ),
    "names of images, given to a network for texts": (
        "PretrainedFeatureExtractor('minilm_l6_v2').fit(files)",
        "'efficientnet_lite0'",
        "X = files",
    ),
    "CSV whose first row is a sample": (
        "load_image_table(folder / 'bare.csv')",
        "The first row of a file must be names",
        """
table = pd.read_csv(folder / "bare.csv", names=["image", "label"])
X, y = load_image_table(table, folder=folder)""",
    ),
    "CSV with two columns of labels": (
        "load_image_table(folder / 'two.csv')",
        "give label='label'",
        "X, y = load_image_table(folder / 'two.csv', label='label')",
    ),
    "`head=nn.Sequential(...)`": (
        "FineTunedClassifier(head=torch.nn.Sequential(torch.nn.Linear(1280, 2))).fit(files, y)",
        "def head(n_in, n_out)",
        """
def head(n_in, n_out): return torch.nn.Sequential(torch.nn.Linear(n_in, n_out))
model = FineTunedClassifier(head=head, image_size=64, max_epochs=3, random_state=0)""",
    ),
    "a callback that cannot be copied, in a search": (
        """
tuned = FineTunedClassifier(image_size=64, callbacks=[WithFile(open(folder / "log", "w"))])
clone(tuned)""",
        "on_train_begin",
        """
class Log(skorch.callbacks.Callback):
    def on_train_begin(self, net, **given): self.file_ = open(folder / "log", "w")
    def on_train_end(self, net, **given): self.file_.close()
tuned = FineTunedClassifier(image_size=64, max_epochs=3, callbacks=[Log()], random_state=0)
model = clone(tuned)""",
    ),
    "gradient boosting in `to_onnx`": (
        """
trees = make_pipeline(model[0], HistGradientBoostingClassifier()).fit(files, y)
to_onnx(trees, folder / "trees.onnx")""",
        "RandomForestClassifier()",
        """
model = make_pipeline(model[0], RandomForestClassifier(random_state=0)).fit(X, y)
to_onnx(model, folder / "trees.onnx")""",
    ),
    "a table, given to `FineTunedClassifier`": (
        """
X = pd.DataFrame({"photo": files, "weight": np.arange(16.0)})
FineTunedClassifier().fit(X, y)""",
        "TransferClassifier(backbone={'photo': 'efficientnet_lite0'})",
        """
X = pd.DataFrame({"photo": files, "weight": np.arange(16.0)})
model = TransferClassifier(backbone={"photo": "efficientnet_lite0"}, image_size=64)""",
    ),
    "a blend of a table in `to_onnx`": (
        """
X = pd.DataFrame({"photo": files, "weight": np.arange(16.0)})
to_onnx(TransferClassifier(image_size=64).fit(X, y), folder / "table.onnx")""",
        "make_column_transformer((PretrainedFeatureExtractor('efficientnet_lite0'), ['photo'])",
        """
X = pd.DataFrame({"photo": files, "weight": np.arange(16.0)})
columns = make_column_transformer(
    (PretrainedFeatureExtractor(image_size=64), ["photo"]), (StandardScaler(), ["weight"]))
model = make_pipeline(columns, LogisticRegression()).fit(X, y)
to_onnx(model, folder / "table.onnx")""",
    ),
    "label sets, as lists": (
        "FineTunedClassifier(image_size=64).fit(files, label_sets)",
        "MultiLabelBinarizer().fit_transform(y)",
        """
y = MultiLabelBinarizer().fit_transform(label_sets)
model = FineTunedClassifier(image_size=64, max_epochs=5, random_state=0)""",
    ),
}
LISTED = {"Samples and columns": INPUTS, "Around a model": META}


class WithFile(Callback):
    """A callback with an open file, as TensorBoard(SummaryWriter()) has one."""

    def __init__(self, file):
        self.file = file


def to_array(sample) -> np.ndarray:
    return np.asarray(sample, np.float32)[:64, :64].transpose(2, 0, 1) / 255


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
    pitch = np.array([40.0 if label == "daisy" else 90.0 for label in y])
    moments = np.linspace(0, 1, 800)
    return {
        "folder": folder,
        "files": files,
        "y": y,
        "images": np.stack(images),
        "names": column,
        "rows": [
            {"image": Image.open(f), "label": label} for f, label in zip(files, y, strict=True)
        ],
        "label_sets": [["daisy"] if label == "daisy" else ["palace", "stone"] for label in y],
        "sounds": list(np.sin(2 * np.pi * pitch[:, None] * moments + rng.random((16, 1)))),
        "scans": [image.mean(axis=-1) / 255 * 3000 - 1000 for image in images],
        "WithFile": WithFile,
        "to_array": to_array,
    }


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
    (folder / "bare.csv").write_text(
        "\n".join(f"{n[1:]},{k}" for n, k in zip(relative, y, strict=True))
    )
    table.assign(**{"class": 0}).to_csv(folder / "two.csv", index=False)
    write_networks(folder)


def write_networks(folder: Path) -> None:
    import torch
    from torchvision.models import resnet18

    torch.manual_seed(0)
    torch.save(resnet18(num_classes=7).state_dict(), folder / "seven_classes.pth")
    convolution = torch.nn.Conv2d(3, 16, 8, stride=8)
    network = torch.nn.Sequential(convolution, torch.nn.ReLU(), torch.nn.Flatten())
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_shapes": ({0: "n"},)}
    x = torch.zeros(2, 3, 64, 64)
    torch.onnx.export(network, (x,), folder / "net.onnx", dynamo=True, verbose=False, **names)


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


def message_of(code: str, given: dict) -> str:
    """Run a mistake, and return what its errors and warnings say."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            exec(IMPORTS + FIRST + code, dict(given))
        except Exception as error:
            return str(error)
    return "\n".join(str(warning.message) for warning in caught)


def n_lines(code: str) -> int:
    return len(code.strip().splitlines())


def outcomes(tasks: dict, given: dict, only: list[str]) -> dict[str, str]:
    """Run the tasks; return "yes", or what went wrong, by their names."""
    found = {}
    for name, task in tasks.items():
        if only and not any(word in name for word in only):
            continue
        wrong, words, code = ("", "", task) if isinstance(task, str) else task
        try:
            works = run(code, given)
            if words not in (message_of(wrong, given) if wrong else ""):
                works = "no: the message does not say it"
        except Exception as error:
            works = f"no: {type(error).__name__}: {str(error).splitlines()[0][:80]}"
        found[name] = works
        print(f"| {name} | {works} | {n_lines(code)} |", flush=True)
    return found


def listed(found: dict[str, dict[str, str]]) -> str:
    """Return the names of the tasks as text, with what does not work."""
    lines = []
    for noun, works in found.items():
        names = [name if works[name] == "yes" else f"{name} ({works[name]})" for name in works]
        text = f"- **{noun}**: {'; '.join(names)}."
        lines.append(textwrap.fill(text, 118, subsequent_indent="  "))
    return "\n".join(lines)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--write", action="store_true", help="write the list to the page")
    options.add_argument("--only", nargs="*", default=[], help="words of the names of tasks")
    args = options.parse_args()
    if args.write and args.only:
        options.error("--write needs all tasks")
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        given = prepare(Path(place))
        found = {noun: outcomes(tasks, given, args.only) for noun, tasks in LISTED.items()}
        outcomes(MISTAKES, given, args.only)  # the page has a table of mistakes
    if args.write:
        text = PAGE.read_text(encoding="utf-8")
        pattern = f"{re.escape(BEGIN)}.*{re.escape(END)}"
        new = re.sub(pattern, lambda _: f"{BEGIN}\n{listed(found)}\n\n{END}", text, flags=re.DOTALL)
        PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
