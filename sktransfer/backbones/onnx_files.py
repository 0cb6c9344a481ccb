"""Backbones of ONNX files, which ONNX Runtime runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data import Modality, get_modality
from .backbone import Backbone
from .preprocessing import as_preprocessing, usual_modality
from .weights import first_line

_LARGEST = 2**31 - 1  # bytes of a graph with its tensors, the limit of protobuf
_INPUTS: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
_INPUTS |= {"tensor(uint8)": np.uint8}


def load_onnx(
    file: str | os.PathLike[str],
    *,
    output: str | None = None,
    preprocess: Callable[..., Any] | None = None,
    classes: Sequence[str] | None = None,
    modality: str | Modality | None = None,
    name: str | None = None,
) -> Backbone:
    """Make a backbone of an ONNX file, for its features.

    ONNX Runtime computes one output of the graph, which is the only layer of the backbone. Nothing
    of it can be trained.

    Parameters
    ----------
    file : str or path-like
        With one input of numbers, whose first axis counts samples. Tensors in other files are read
        if these are in the same folder or below.
    output : str, default=None
        The output of the graph that is the layer; by default the last one. For another tensor of
        the graph, add it to its outputs, with ``onnx.utils.extract_model`` or where the file is
        exported.
    preprocess : callable, default=None
        From a sample to the input of the graph for it, without a batch axis. As for modules in
        :func:`load_backbone`: an :class:`ImagePreprocessing`, a transform of images or, without it,
        samples are arrays, which are the input of the graph.
    classes : sequence of str, default=None
        For classifiers: the names of the entries of the output.
    modality : str or Modality, default=None
        As in :func:`load_backbone`.
    name : str, default=None
        In feature names; by default that of the file.

    Returns
    -------
    Backbone

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no ONNX file that ONNX Runtime runs, takes texts or more than one input, or refers
        to a file outside its folder; if there is no such output.
    ImportError
        Without ONNX Runtime, which is in the extra ``onnx``.

    Notes
    -----
    It computes in the precision of the graph: inputs and outputs are float32, whatever the
    ``precision`` of an estimator, and ``execution_`` says so. Other values of ``engine`` than
    "auto" and "torch" are refused.

    A pickle of an estimator holds the graph. A file of :func:`save` does not: give this function to
    :func:`load`. An ONNX file runs no code of Python, but a graph of an unknown author may be wrong
    on purpose, or need much memory and time.

    Examples
    --------
    >>> import os, tempfile
    >>> from onnx import TensorProto, helper, save_model
    >>> from sktransfer import PretrainedFeatureExtractor, load_onnx
    >>> names = ["vector", "positive"]
    >>> source, output = (
    ...     helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in names
    ... )
    >>> node = helper.make_node("Relu", names[:1], names[1:])
    >>> graph = helper.make_graph([node], "relu", [source], [output])
    >>> versions = {"ir_version": 10, "opset_imports": [helper.make_opsetid("", 18)]}
    >>> file = os.path.join(tempfile.mkdtemp(), "relu.onnx")
    >>> save_model(helper.make_model(graph, **versions), file)
    >>> PretrainedFeatureExtractor(load_onnx(file)).fit_transform([[1.0, -2.0, 3.0, 4.0]])
    array([[1., 0., 3., 4.]], dtype=float32)
    """
    path = Path(file).expanduser()
    module = OnnxNetwork(_read_graph(path), output)
    modality = get_modality(modality or usual_modality(preprocess))
    if modality.has_tokens:
        raise ValueError(
            f"{str(path)!r}: texts are not supported for ONNX files, which do not say how a text "
            "is split. Give the folder of the network: backbone='hf:<folder>'."
        )
    return Backbone(
        name or path.stem,
        module,
        modality=modality,
        preprocess=as_preprocessing(preprocess, modality),
        classes=classes,
        stages={module.output: module},
        why_whole="it is an ONNX file, of which one output is computed",
        runtime="ONNX Runtime",
    )


class OnnxNetwork(nn.Module):
    """A graph that ONNX Runtime runs on the CPU, as a module without parameters.

    It is given as a serialized ONNX model with all of its tensors. ``output`` of None is the last
    one.
    """

    graph: torch.Tensor

    def __init__(self, graph: bytes, output: str | None):
        super().__init__()
        self.register_buffer("graph", torch.frombuffer(bytearray(graph), dtype=torch.uint8))
        self._lock = threading.Lock()
        self._session: Any = None
        session = self._opened()
        inputs, outputs = session.get_inputs(), [item.name for item in session.get_outputs()]
        kinds = {item.name: (item.type, item.shape) for item in inputs}
        if len(inputs) != 1 or inputs[0].type not in _INPUTS:
            texts = any("int" in kind or "string" in kind for kind, _ in kinds.values())
            hint = " For texts give the folder of the network: backbone='hf:<folder>'."
            raise ValueError(
                f"The ONNX graph takes {kinds}; it must take one input of numbers, float or uint8."
                + (hint if texts else "")
            )
        if output is not None and output not in outputs:
            raise ValueError(f"output={output!r}: the outputs of the ONNX graph are {outputs}.")
        self.output: str = outputs[-1] if output is None else output
        first = inputs[0].shape[0] if inputs[0].shape else 0
        if isinstance(first, int) and first != 1:
            raise ValueError(
                f"The ONNX graph takes {inputs[0].shape}, a fixed number of samples. Export it "
                "with a first axis of any length."
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (source,) = self._opened().get_inputs()
        _check_shape(tuple(x.shape[1:]), source.shape[1:])
        rows = x.detach().cpu().float().numpy().astype(_INPUTS[source.type], copy=False)
        # A graph with a first axis of length one takes samples one by one.
        parts = np.split(rows, len(rows)) if source.shape[0] == 1 and len(rows) > 1 else [rows]
        try:
            made = [self._opened().run([self.output], {source.name: part})[0] for part in parts]
        except MemoryError:
            raise
        except Exception as error:  # such as a free axis whose length does not fit a matrix
            shape = tuple(x.shape[1:])
            raise ValueError(
                f"the ONNX graph cannot run samples of shape {shape}: {first_line(error)}"
            ) from error
        return torch.from_numpy(np.concatenate(made)).float().to(x.device)

    def _opened(self) -> Any:
        with self._lock:
            if self._session is None:
                self._session = open_session(self.graph.cpu().numpy().tobytes())
            return self._session

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxNetwork:
        return self  # nothing in it changes

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_session": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._lock = threading.Lock()


def _check_shape(given: tuple[int, ...], wanted: Sequence[int | str | None]) -> None:
    """Refuse samples that the graph does not take; names stand for axes of any length."""
    fits = len(given) == len(wanted) and all(
        n == k or not isinstance(k, int) for n, k in zip(given, wanted, strict=True)
    )
    if fits:
        return
    shape = ", ".join("?" if k is None else str(k) for k in wanted)
    message = f"the ONNX graph takes samples of shape ({shape}), got {given}"
    if len(wanted) == 3:
        crop = f"({wanted[1]}, {wanted[2]})" if wanted[1] != wanted[2] else wanted[1]
        size = f"crop={crop}, " if all(isinstance(k, int) for k in wanted[1:]) else ""
        means = f" with {wanted[0]} means" if isinstance(wanted[0], int) else ""
        message += f". Give preprocess=ImagePreprocessing(…, {size}…){means}"
    raise ValueError(message)


def open_session(graph: bytes) -> Any:
    """Open a serialized graph with ONNX Runtime, for the CPU, with as many threads as torch has."""
    runtime = _packages()[1]
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Idle threads would keep the cores from other work, such as a second model of a service.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors; what it warns about is not the user's to change
    try:
        return runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no class of their own
        raise ValueError(f"ONNX Runtime refuses the graph: {first_line(error)}") from error


def _packages() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError:
        raise ImportError("ONNX files need packages: pip install 'sktransfer[onnx]'") from None
    return onnx, onnxruntime


# -- reading -------------------------------------------------------------------------------------


def _read_graph(path: Path) -> bytes:
    """Read a graph with the tensors that other files hold, if these are in its folder."""
    onnx, _ = _packages()
    if not path.is_file():
        raise FileNotFoundError(f"no ONNX file {str(path)!r}")
    if path.stat().st_size == 0:
        raise ValueError(f"{str(path)!r} is no ONNX file: it is empty")
    try:
        model = onnx.load_model(path, load_external_data=False)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"{str(path)!r} is no ONNX file ({first_line(error)})") from error
    n_bytes = path.stat().st_size
    for tensor in _external_tensors(model):
        n_bytes += _check_place(tensor, path)
        onnx.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
        if n_bytes > _LARGEST:
            raise ValueError(f"{str(path)!r}: graph and tensors have more than 2 GiB")
    return model.SerializeToString()


def _external_tensors(message: Any) -> Iterator[Any]:
    """Yield all tensors of a graph, also inside its branches and functions, that a file holds."""
    if message.DESCRIPTOR.name == "TensorProto":
        if message.data_location == message.EXTERNAL or message.external_data:
            yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "DESCRIPTOR") else value:
                yield from _external_tensors(part)


def _check_place(tensor: Any, path: Path) -> int:
    """Check that the file of a tensor is a regular one in the folder of the graph; return bytes."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    folder = path.parent.resolve()
    place = (folder / entries.get("location", "")).resolve()  # behind symbolic links
    if not place.is_relative_to(folder) or not place.is_file():
        raise ValueError(
            f"{str(path)!r}: tensor {tensor.name!r} is in {entries.get('location')!r:.80}, which "
            "is no file in the folder of the graph. Such a graph is not read."
        )
    size = place.stat().st_size
    try:
        start, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    except ValueError:
        start, length = -1, -1
    if start < 0 or length < 0 or start + length > size:
        raise ValueError(f"{str(path)!r}: tensor {tensor.name!r} is not whole in {place.name!r}")
    return length
