"""Measure integers (NNCF's quantization after training) beside float32 and bfloat16, in OpenVINO.

Each network up to its penultimate layer is converted by OpenVINO and quantized by NNCF with 48
samples, which are not measured. Processor time of one thread for a sample, in batches of eight:
the least of the rounds, which are interleaved. The error of features is the relative L2 distance
to float32. EfficientNet-Lite0 and e5 have their real weights, the others random ones, which take
the same time.

Then the accuracy of logistic regression on features of EfficientNet-Lite0 in each precision: five
tasks, twenty training samples of each class, at most 300 test samples, the mean over the draws.

    pip install nncf openvino
    OMP_NUM_THREADS=1 python benchmarks/int8.py
    OMP_NUM_THREADS=1 python benchmarks/int8.py --networks efficientnet_lite0 --draws 3
"""

from __future__ import annotations

import time
import warnings

import numpy as np
import torch
from _common import hymenoptera, parser, sst2, table
from _tasks import Task
from sklearn.linear_model import LogisticRegressionCV
from torch import nn

from sktransfer import load_backbone
from sktransfer.backbones import Backbone, pool, stages_of
from sktransfer.backbones.layers import penultimate

NETWORKS = ("efficientnet_lite0", "resnet50", "vit_b_16", "e5_small")
TASKS = ("ants and bees", "faces", "damaged", "surfaces", "shapes")
N_CALIBRATION, BATCH, WORDS = 48, 8, 32


class Features(nn.Module):
    """The stages up to the penultimate one, and the mean over positions of a feature map."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        stages, layer = stages_of(backbone), penultimate(backbone)
        self.stages = nn.ModuleList(list(stages.values())[: list(stages).index(layer) + 1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage in self.stages:
            x = stage(x)
        return pool(x, "avg")


def samples(backbone: Backbone, data) -> torch.Tensor:
    """Return the preprocessed samples: 48 for the quantization, eight to measure."""
    n = N_CALIBRATION + BATCH
    if backbone.modality == "text":
        rows = (backbone.open(text) for text in sst2(data, "train")[0])
        return torch.stack([row[:WORDS] for row in rows if len(row) >= WORDS][:n])
    paths, _ = hymenoptera(data, "train")
    chosen = np.random.default_rng(0).permutation(len(paths))[:n]
    return torch.stack([backbone.open(paths[i]) for i in chosen])


def precisions(backbone: Backbone, x: torch.Tensor) -> dict:
    """Return the compiled network in each precision."""
    import nncf
    import openvino

    network = Features(backbone).eval()
    with torch.no_grad():
        model = openvino.convert_model(network, example_input=x[:2])
    is_transformer = any(isinstance(module, nn.LayerNorm) for module in network.modules())
    calibration = nncf.Dataset([row[None].numpy() for row in x[:N_CALIBRATION]])
    integers = nncf.quantize(
        model,
        calibration,
        subset_size=N_CALIBRATION,
        model_type=nncf.ModelType.TRANSFORMER if is_transformer else None,
    )
    core = openvino.Core()

    def compiled(model, hint):
        settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": 1}
        return core.compile_model(model, "CPU", settings | {"ENABLE_CPU_PINNING": False})

    return {
        "float32": compiled(model, "f32"),
        "bfloat16": compiled(model, "bf16"),
        "int8": compiled(integers, "f32"),
        "int8, the rest in bfloat16": compiled(integers, "bf16"),
    }


def features(run, x: torch.Tensor) -> np.ndarray:
    return np.concatenate([run([part.numpy()])[0].copy() for part in x.split(BATCH)])


def measure_speed(name: str, x: torch.Tensor, runs: dict, n_rounds: int) -> list[list]:
    times: dict[str, list[float]] = {precision: [] for precision in runs}
    rows = {}
    for _ in range(n_rounds):
        for precision, run in runs.items():
            start = time.process_time()
            rows[precision] = features(run, x[N_CALIBRATION:])
            times[precision].append((time.process_time() - start) / BATCH * 1000)
    exact, least = rows["float32"], {precision: min(each) for precision, each in times.items()}
    lines = []
    for precision, milliseconds in least.items():
        error = np.linalg.norm(rows[precision] - exact, axis=1) / np.linalg.norm(exact, axis=1)
        speed = least["bfloat16"] / milliseconds
        lines.append(
            [name, precision, f"{milliseconds:.2f}", f"{speed:.2f}", f"{error.mean():.1%}"]
        )
    return lines


def measure_accuracy(backbone: Backbone, runs: dict, data, n_draws: int) -> list[list]:
    lines = []
    for source in TASKS:
        scores: dict[str, list[float]] = {precision: [] for precision in runs}
        for seed in range(n_draws):
            (X, y), (X_test, y_test) = Task(source, 20).draw(data, seed)
            opened = [torch.stack([backbone.open(s) for s in part]) for part in (X, X_test)]
            for precision, run in runs.items():
                train, test = (features(run, part) for part in opened)
                center, scale = train.mean(0), train.std(0) + 1e-6
                model = LogisticRegressionCV(Cs=np.logspace(-5, 0, 6), cv=5, max_iter=500)
                model.fit((train - center) / scale, y)
                scores[precision].append(model.score((test - center) / scale, y_test))
        lines.append([source, *(f"{np.mean(each):.3f}" for each in scores.values())])
    return lines


def main() -> None:
    arguments = parser(__doc__, rounds=12)
    arguments.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    arguments.add_argument("--draws", type=int, default=0, help="0: no accuracies")
    args = arguments.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    lines, accuracies, names = [], [], []
    for name in args.networks:
        torch.manual_seed(0)
        backbone = load_backbone(name, weights=None if name in NETWORKS[1:3] else "default")
        x = samples(backbone, args.data)
        runs = precisions(backbone, x)
        lines += measure_speed(name, x, runs, args.rounds)
        if args.draws and name == "efficientnet_lite0":
            accuracies, names = measure_accuracy(backbone, runs, args.data, args.draws), list(runs)
    table(["network", "precision", "ms", "times bfloat16", "error"], lines)
    if accuracies:
        table(["task", *names], accuracies)


if __name__ == "__main__":
    main()
