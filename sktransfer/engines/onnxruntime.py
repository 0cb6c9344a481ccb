"""Run stages with ONNX Runtime."""

from __future__ import annotations

from typing import Any

import torch

from .exported import ExportedEngine, Run


def onnx_model(program: torch.export.ExportedProgram, **settings: Any) -> Any:
    """Convert an exported network to ONNX, with settings of ``torch.onnx.export``."""
    converted = torch.onnx.export(program, dynamo=True, verbose=False, **settings)
    assert converted is not None
    return converted.model_proto


class ONNXRuntimeEngine(ExportedEngine):
    """Run stages with ONNX Runtime on the CPU."""

    runtime = "onnxruntime"
    packages: tuple[str, ...] = ("onnxruntime", "onnx", "onnxscript")
    extra = "onnx"

    @classmethod
    def check(cls, device: torch.device, precision: str) -> None:
        super().check(device, precision)
        if precision != "float32":
            raise ValueError(
                f"precision={precision!r} cannot be used with engine='onnxruntime', which computes "
                "in float32 on the CPU. Use precision='float32', or engine='torch' or 'openvino'."
            )

    def convert(self, program: torch.export.ExportedProgram) -> dict[str, bytes]:
        return {"network.onnx": onnx_model(program).SerializeToString()}

    def load(self, files: dict[str, bytes]) -> Run:
        from ..backbones.onnx_files import open_session

        session = open_session(files["network.onnx"])
        (source,) = session.get_inputs()
        return lambda batch: session.run(None, {source.name: batch})
