"""Data, networks and processes that several test files share."""

import contextlib
import ctypes
import gc
import importlib.util
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import sklearn
import torch
from torch import nn
from torchvision import models

from sktransfer import ImagePreprocessing, load_backbone
from sktransfer.backbones import registry, stages_of
from sktransfer.data import ImageModality
from sktransfer.engines import ENGINES, engine_for
from sktransfer.engines.compiled import CompiledEngine

SCIKIT_LEARN = tuple(map(int, sklearn.__version__.split(".")[:2]))
TESTS = Path(__file__).resolve().parent
DATA = TESTS.parents[1] / "shared" / "data"
OFFLINE = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("offline", {str(TESTS / "offline.py")!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.block_network()
del spec, module
"""


def give_memory_back() -> None:
    """Collect garbage, and return freed pages, which the C library keeps, to the system."""
    gc.collect()
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)


def require_openvino() -> None:
    """Skip without OpenVINO. pytest.importorskip would import it, and what reports its use."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed")


class Vectors(nn.Module):
    """An own network on rows of any length; the same weights each time."""

    def __init__(self, n_outputs: int = 32, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.w1 = nn.Parameter(torch.randn(64, 64, generator=generator) / 4)
        self.w2 = nn.Parameter(torch.randn(64, n_outputs, generator=generator))

    def forward(self, x):
        x = nn.functional.pad(x.flatten(1), (0, 64))[:, :64]
        return torch.tanh(x @ self.w1) @ self.w2


class TinyNet(nn.Sequential):
    """An own image classifier of four steps and three classes, batch norm included."""

    def __init__(self, seed: int = 0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            super().__init__(
                nn.Conv2d(3, 8, 3, stride=2, bias=False),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(8, 3),
            )
        enliven(self, seed)


class NotedImages(ImageModality):
    """Images of a network (``modality=``) that note what is opened, and the threads that do so."""

    def __init__(self):
        self.opened, self.threads = [], []

    def __getstate__(self):  # of which keys of the store are made, too
        return {}

    def open(self, sample):
        self.opened.append(sample)
        self.threads.append(threading.current_thread().name)
        return super().open(sample)


TINY_SIZE = ImagePreprocessing(18, 16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def tiny_backbone(seed: int = 0, **settings):
    settings = {"preprocess": TINY_SIZE, "classes": ["a", "b", "c"]} | settings
    return load_backbone(TinyNet(seed), **settings)


def tiny_vit(n_classes: int = 3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = models.VisionTransformer(
            image_size=16,
            patch_size=8,
            num_layers=2,
            num_heads=2,
            hidden_dim=12,
            mlp_dim=24,
            num_classes=n_classes,
        )
        nn.init.normal_(module.heads.head.weight)  # torchvision leaves it at zero
    return module.eval()


def tiny_swin(n_classes: int = 3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return models.SwinTransformer(
            patch_size=[4, 4],
            embed_dim=12,
            depths=[2, 2],
            num_heads=[2, 2],
            window_size=[2, 2],
            num_classes=n_classes,
        ).eval()


def enliven(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch norms statistics as after training: untouched ones would hide wrong folding."""
    generator = torch.Generator().manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.running_var, norm.weight.data):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            for tensor in (norm.running_mean, norm.bias.data):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / 4)
    return module.eval()


def random_backbone(name: str):
    """A backbone by name with random weights, without the warning that says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_backbone(name, weights=None)


def images(n: int, size=(20, 24), seed: int = 0) -> list[np.ndarray]:
    """Distinct photographs, as far as a network can tell: smooth colours with some noise."""
    rng = np.random.default_rng(seed)
    ramps = [np.linspace(0, 1, side) for side in size]
    ramp = np.add.outer(*ramps)[..., None] / 2
    colours = rng.uniform(0.2, 1, (n, 1, 1, 3))
    noise = rng.uniform(0, 60, (n, *size, 3))
    return list((ramp * colours * 195 + noise).astype(np.uint8))


def run_python(code: str, *args, timeout: float = 300, path: Path = TESTS.parent) -> str:
    """Run code in a new interpreter without network that can import what lies in ``path``.

    It has one thread, as the tests do (conftest.py): sums differ in their last bits otherwise.
    """
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE + code, *map(str, args)],
        env=os.environ | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def own_registry(loaded: dict | None = None):
    """A registry of backbones that may change. Networks that it loads are put into ``loaded``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
        patch.setattr(registry, "_SHARED", {} if loaded is None else loaded)
        yield registry._REGISTRY


def compile_with(monkeypatch, compiler):
    """Let ``engine="compile"`` use another compiler than that of C++, which is slow."""

    class OtherCompiler(CompiledEngine):
        backend = staticmethod(compiler)

    monkeypatch.setitem(ENGINES, "compile", OtherCompiler)
    torch.compiler.reset()


def make_engine(backbone, layers, pooling="avg", *, runtime="auto", whole=(), **settings):
    """The engine of a backbone on the CPU, which returns features by layer."""
    return engine_for(
        stages_of(backbone),
        {layer: (layer, pooling) for layer in layers}
        | {(layer, "none"): (layer, "none") for layer in whole},
        engine=runtime,
        kept=backbone.prepared.setdefault("engines", {}),
        network=lambda: backbone.fingerprint,
        device=torch.device("cpu"),
        modality=backbone.modality,
        opaque=backbone.opaque,
        name=backbone.name,
        **settings,
    )
