"""Run stages with OpenVINO."""

from __future__ import annotations

import collections
import sys
import tempfile
import threading
from pathlib import Path

import joblib
import numpy as np
import torch

from .exported import ExportedEngine, Run

_IMPORTING = threading.Lock()
_STREAMS = 4  # at most, since each has its own memory for activations
_TYPES = {"float32": "f32", "bfloat16": "bf16"}


class OpenVINOEngine(ExportedEngine):
    """Run stages with OpenVINO on the CPU."""

    runtime = "openvino"
    packages: tuple[str, ...] = ("openvino",)
    extra = "openvino"

    @classmethod
    def check(cls, device: torch.device, precision: str) -> None:
        super().check(device, precision)
        capabilities = _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bfloat16" and "BF16" not in capabilities:
            raise ValueError(
                "precision='bfloat16' with engine='openvino' needs a processor that computes in "
                "bfloat16, which this one does not. Use precision='float32'."
            )

    def convert(self, program: torch.export.ExportedProgram) -> dict[str, bytes]:
        openvino = _openvino()
        model = openvino.convert_model(program)
        with tempfile.TemporaryDirectory() as folder:
            openvino.save_model(model, Path(folder) / "network.xml", compress_to_fp16=False)
            return {path.name: path.read_bytes() for path in Path(folder).iterdir()}

    def load(self, files: dict[str, bytes]) -> Run:
        openvino = _openvino()
        core = openvino.Core()
        weights = np.frombuffer(files["network.bin"], np.uint8)
        model = core.read_model(files["network.xml"], openvino.Tensor(weights))
        return _Requests(core.compile_model(model, "CPU", self._settings()))

    def _settings(self) -> dict:
        # A stream runs one request at a time. More than one lets several of the user's threads run
        # at once, each as many threads as a call of torch uses.
        n_threads = torch.get_num_threads()
        n_streams = min(_STREAMS, max(1, joblib.cpu_count() // n_threads))
        return {
            # Its default is bfloat16 where the processor has it.
            "INFERENCE_PRECISION_HINT": _TYPES[self.precision],
            "INFERENCE_NUM_THREADS": n_threads * n_streams,
            "NUM_STREAMS": n_streams,
            "ENABLE_CPU_PINNING": False,  # other work may run on the same cores
        }


class _Requests:
    """Run a compiled network from any number of threads, each with a request of its own."""

    def __init__(self, compiled):
        self.compiled = compiled
        self.free: collections.deque = collections.deque()

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        try:
            request = self.free.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        outputs = request.infer([batch], share_inputs=True)
        self.free.append(request)
        return [outputs[i] for i in range(len(self.compiled.outputs))]


def _openvino():
    """Import OpenVINO, without the package that reports its import over the network."""
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    with _IMPORTING:
        reporter = sys.modules.get("openvino_telemetry")
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        try:
            import openvino
        finally:
            sys.modules.pop("openvino_telemetry")
            if reporter is not None:
                sys.modules["openvino_telemetry"] = reporter
    return openvino
