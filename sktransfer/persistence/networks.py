"""Write and read backbones: by name and fingerprint, or with their tensors in the file."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from ..backbones import Backbone, load_backbone
from ..backbones.behavior import check_behavior
from ..backbones.preprocessing import TransformPreprocessing
from ..backbones.registry import Reference, architecture
from ..backbones.weights import load_tensors
from ..backbones.words.files import Subwords, check_finite_rows
from ..backbones.words.vectors import WordVectors, reopened
from ..backbones.wordvectors import word_backbone
from ..data import get_modality
from ..finetuning.tuned import TunedBackbone, TunedNetwork
from .archive import DamagedFileError
from .kinds import PLAIN
from .reading import Reader
from .writing import KIND, Writer

__all__ = [
    "NetworkWriter",
    "read_network",
]


class NetworkWriter:
    """Write the records of networks.

    Parameters
    ----------
    self_contained : bool
        Whether tensors of published networks are written, too.
    """

    def __init__(self, self_contained: bool):
        self.self_contained = self_contained

    def __call__(self, writer: Writer, network: Backbone | nn.Module) -> dict[str, Any]:
        """Return the record of a network, and list it in the summary of the file."""
        how, record = self._record(writer, network)
        name = getattr(network, "name", type(network).__name__)
        about = {"name": name, "how": how}
        about |= {key: record[key] for key in ("weights", "fingerprint", "given") if key in record}
        writer.networks.append(about)
        return {KIND: "network", "how": how, **record}

    def _record(self, writer: Writer, network: Any) -> tuple[str, dict]:
        if not isinstance(network, Backbone):
            return "module", _own_module(writer, network)
        if isinstance(network, TunedBackbone):
            return "tuned", _tuned(writer, network)
        if network.reference is not None and not self.self_contained:
            record = dataclasses.asdict(network.reference)
            record |= {"fingerprint": network.fingerprint, "behavior": _behavior(network)}
            return "reference", record
        if isinstance(getattr(network.preprocess, "vectors", None), WordVectors):
            return "vectors", write_vectors(writer, network, self.self_contained)
        if _is_published(network):
            return "published", _about(writer, network)
        behavior = {"behavior": network.behavior}
        return "given", _about(writer, network) | _given(writer, network) | behavior


def _tensors(writer: Writer, module: nn.Module) -> str:
    """Put the tensors of a module into the file once, and return the name of their part."""
    name = writer.places.setdefault(id(module), f"networks/{len(writer.places)}")
    if name in writer.tensors:
        return name
    state = module.state_dict()
    writer.tensors[name] = {k: v.detach().cpu().clone().contiguous() for k, v in state.items()}
    return name


def _shapes(module: nn.Module) -> tuple:
    """Return what two networks have in common if one function can make both."""
    return tuple((name, tuple(tensor.shape)) for name, tensor in module.state_dict().items())


def _about(writer: Writer, network: Backbone) -> dict:
    """Return what is written of each network whose tensors are in the file.

    Of a network at another input size these are the tensors of the original one, and those that
    were made for the size.
    """
    native = network.native or network
    return {
        "preprocess": _preprocessing(writer, native.preprocess),
        "image_size": None if network.native is None else network.input_shape[-1],
        "resized": _resized_tensors(writer, network),
        "name": network.name,
        "fingerprint": network.fingerprint,
        "licence": network.licence,
        "modality": network.modality.name,
        "classes": writer.write(None if network.classes is None else list(network.classes)),
        "class_ids": writer.write(None if network.class_ids is None else list(network.class_ids)),
        "tensors": _tensors(writer, native.module),
    }


def _resized_tensors(writer: Writer, network: Backbone) -> str | None:
    """Put the tensors that were made for an input size into the file; return their part."""
    made = {} if network.native is None else _not_shared(network.module, network.native.module)
    if not made:
        return None
    part = writer.places.setdefault(id(network.module), f"networks/{len(writer.places)}")
    writer.tensors[part] = {k: v.detach().cpu().clone().contiguous() for k, v in made.items()}
    return part


def _not_shared(module: nn.Module, native: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of a resized network that are not those of the original one."""
    shared = {tensor.data_ptr() for tensor in native.state_dict().values()}
    return {k: v for k, v in module.state_dict().items() if v.data_ptr() not in shared}


def _preprocessing(writer: Writer, preprocess: Any) -> Any:
    """Write a preprocessing; a transform that is no function must come with the network."""
    if isinstance(preprocess, TransformPreprocessing):
        written = writer.write(preprocess.transform)
        return written if _is_named(written) else "of the network"
    if preprocess is None or PLAIN.get(type(preprocess).__name__) is type(preprocess):
        return writer.write(preprocess)
    return "of the network"


def _is_published(network: Backbone) -> bool:
    """Tell whether the name of a network gives its architecture.

    Raises
    ------
    ValueError
        If it is the name of a network that cannot be made without its weights.
    """
    name = network.name if network.loaded_by is None else network.loaded_by[0]
    try:
        made = architecture(name)
    except (ImportError, ValueError):  # the user's
        return False
    if not network.modality.has_tokens and _fits(made, network.native or network):
        return True
    if network.loaded_by is None:
        return False
    raise ValueError(
        f"self_contained=True: the file cannot hold backbone {network.name!r}, which is made from "
        "a folder, a package or settings of its own. Save it without self_contained."
    )


def _fits(made: Backbone, network: Backbone) -> bool:
    """Tell whether a network is another one, when it has its tensors."""
    try:
        load_tensors(made.module, network.module.state_dict(), network.name, copy=True)
    except ValueError:
        return False
    return made.fingerprint == network.fingerprint


def _given(writer: Writer, network: Backbone) -> dict:
    """Return what is written of a network that the user must give."""
    factory = writer.factories.get(id(network))
    if factory is not None:
        given = writer.name_of(factory, factory.__name__)
    else:
        name = network.name if network.loaded_by is None else network.loaded_by[0]
        given = writer.name_of(_shapes((network.native or network).module), name)
    return {"given": given, "needs_backbone": network.stages is not None}


def _own_module(writer: Writer, module: nn.Module) -> dict:
    name = type(module).__name__.lower()
    return {"given": writer.name_of(_shapes(module), name), "tensors": _tensors(writer, module)}


def _tuned(writer: Writer, network: TunedBackbone) -> dict:
    origin = network.network.origin
    resized = None if network.preprocess is origin.preprocess else network.preprocess
    return {
        "origin": writer.write(origin),
        "state": writer.write(network.network.state()),
        "classes": None if network.classes is None else list(network.classes),
        "label_rows": writer.write(network.label_rows),
        "resized": writer.write(resized),
    }


def read_network(reader: Reader, record: dict[str, Any]) -> Backbone | nn.Module:
    """Make a network again from its record.

    Parameters
    ----------
    reader : Reader
    record : dict

    Returns
    -------
    Backbone or torch.nn.Module

    Raises
    ------
    ValueError
        If the network on this machine is another one, or must be given and is not.
    """
    if record["how"] not in _HOW:
        raise DamagedFileError(f"it has a network of an unknown kind, {record['how']!r:.80}")
    return _HOW[record["how"]](reader, record)


def _read_reference(reader: Reader, record: dict) -> Backbone:
    fields = [field.name for field in dataclasses.fields(Reference)]
    reference = Reference(**{name: record[name] for name in fields})
    if reference.name not in reader.named:
        return reference.load(record["fingerprint"], record.get("behavior"))
    made = reader.named[reference.name]()
    made = made if isinstance(made, Backbone) else load_backbone(made, name=reference.name)
    made = made.with_image_size(reference.image_size).with_long_texts(reference.long_texts)
    made = made.with_prompt(reference.prompt)
    _check_fingerprint(made, record)
    check_behavior(made, record.get("behavior"))
    return made


def _behavior(network: Backbone) -> dict[str, Any] | None:
    return network.behavior if network.is_registered else None


def _check_fingerprint(made: Backbone, record: dict) -> None:
    if made.fingerprint != record["fingerprint"]:
        raise ValueError(
            f"the network {made.name!r} is not the one that was saved: fingerprint "
            f"{made.fingerprint[:12]}, expected {str(record['fingerprint'])[:12]}"
        )


def _read_published(reader: Reader, record: dict) -> Backbone:
    made = _made_once(reader, record, _build_published)
    _check_fingerprint(made, record)
    return _at_size(reader, record, made)


def _at_size(reader: Reader, record: dict, native: Backbone) -> Backbone:
    """Return a network at the size that the file says, with the tensors made for that size."""
    made = native.with_image_size(record["image_size"])
    if record["resized"] is not None:
        own = _not_shared(made.module, native.module)
        tensors = reader.tensors[record["resized"]]
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in tensors.items()}:
            raise DamagedFileError(
                f"its tensors of {record['name']!r:.80} are not those for {made.input_shape}"
            )
        made.module.load_state_dict(tensors, strict=False)
    return made


def _build_published(reader: Reader, record: dict) -> Backbone:
    """Build a network by name, after its size was compared with that of the tensors."""
    tensors, source = reader.tensors[record["tensors"]], repr(record["name"])
    with contextlib.suppress(NotImplementedError), torch.device("meta"):  # RegNet needs numbers
        load_tensors(architecture(record["name"]).module, tensors, source)
    return architecture(record["name"])


def _made_once(reader: Reader, record: dict, build: Callable[[Reader, dict], Backbone]) -> Backbone:
    """Make a network with the tensors of the file; those of several input sizes share them."""
    part = record["tensors"]
    if part not in reader.networks:
        reader.networks[part] = made = build(reader, record)
        load_tensors(made.module, reader.tensors[part], repr(record["name"]), copy=True)
    made = object.__new__(Backbone)
    vars(made).update(vars(reader.networks[part]), reference=None, loaded_by=None, prepared={})
    _describe(reader, record, made)
    return made


def _describe(reader: Reader, record: dict, made: Backbone) -> None:
    """Set the classes, the licence and the preprocessing of a network."""
    made.licence = record.get("licence")
    for name in ("classes", "class_ids"):
        found = reader.read(record[name])
        setattr(made, name, None if found is None else tuple(found))
    if record["preprocess"] != "of the network" and not _is_named(record["preprocess"]):
        made.preprocess = reader.read(record["preprocess"])
    made.forget_fingerprint()


def _is_named(record: Any) -> bool:
    return isinstance(record, dict) and record.get(KIND) == "named"


def _read_given(reader: Reader, record: dict) -> Backbone:
    made = _made_once(reader, record, _build_given)
    if made.fingerprint != record["fingerprint"]:
        warnings.warn(
            f"The function {record['given']!r} makes another network than the one that was saved, "
            "with tensors of the same names and shapes: its code or its settings differ. "
            "Predictions may differ.",
            stacklevel=2,
        )
    made = _at_size(reader, record, made)
    check_behavior(made, record.get("behavior"))
    return made


def _build_given(reader: Reader, record: dict) -> Backbone:
    made = reader.find_named(record["given"])()
    return _own_copy(made) if isinstance(made, Backbone) else _from_given(reader, record, made)


def _from_given(reader: Reader, record: dict, module: nn.Module) -> Backbone:
    preprocess = record["preprocess"]
    if record["needs_backbone"] or preprocess == "of the network":
        raise ValueError(
            f"the function {record['given']!r} must return a Backbone, since a file does not hold "
            "stages and transforms: return load_backbone(module, preprocess=…, stages=…)"
        )
    return load_backbone(
        module,
        name=record["name"],
        modality=get_modality(record["modality"]),
        preprocess=reader.read(preprocess),
    )


def _own_copy(backbone: Backbone) -> Backbone:
    """Copy a backbone with its tensors, which its owner may use elsewhere."""
    made = object.__new__(Backbone)
    vars(made).update(vars(backbone))
    made.module, made.stages = deepcopy((backbone.module, backbone.stages))
    return made


def _read_module(reader: Reader, record: dict) -> nn.Module:
    made = reader.find_named(record["given"])()
    module = deepcopy(made.module if isinstance(made, Backbone) else made)
    return load_tensors(module, reader.tensors[record["tensors"]], repr(record["given"]), copy=True)


def _read_tuned(reader: Reader, record: dict) -> TunedBackbone:
    origin = reader.read(record["origin"])
    network = TunedNetwork.from_state(origin, reader.read(record["state"]))
    made = TunedBackbone(network, record["classes"], reader.read(record["label_rows"]))
    resized = reader.read(record["resized"])
    if resized is not None:
        made.preprocess = resized
    return made


# -- word vectors ------------------------------------------------------------------------------


def write_vectors(writer: Writer, network: Backbone, self_contained: bool) -> dict[str, Any]:
    """Return the record of a backbone of word vectors.

    Parameters
    ----------
    writer : Writer
    network : Backbone
    self_contained : bool
        Whether the vectors of a file are written, too.

    Returns
    -------
    dict
    """
    preprocess: Any = network.preprocess
    vectors, tokenizer = preprocess.vectors, preprocess.tokenizer
    name = None if tokenizer is None else getattr(tokenizer, "__name__", "tokenizer")
    by_path = vectors.source is not None and not self_contained
    return {
        "name": network.name,
        "digest": vectors.content_digest,
        "tokenizer": None if name is None else writer.name_of(tokenizer, name),
        "source": writer.write(vectors.source) if by_path else None,
        "table": None if by_path else _table(writer, vectors),
    }


def _table(writer: Writer, vectors: WordVectors) -> dict:
    subwords: Any = vectors.subwords
    return {
        "words": writer.write([vectors.vocabulary.word(i + 1) for i in range(vectors.n_words)]),
        "matrix": writer.write(vectors.matrix.numpy()),
        "subwords": None if subwords is None else list(dataclasses.astuple(subwords)),
    }


def read_vectors(reader: Reader, record: dict[str, Any]) -> Backbone:
    """Make a backbone of word vectors again.

    Parameters
    ----------
    reader : Reader
    record : dict

    Returns
    -------
    Backbone

    Raises
    ------
    ValueError
        If the file of vectors on this machine is another one.
    """
    source, name = reader.read(record["source"]), record["tokenizer"]
    if source is None:
        vectors = _read_table(reader, record)
    else:
        vectors = reopened(source, record["digest"])
    tokenizer = None if name is None else reader.find_named(name)
    return word_backbone(record["name"], vectors, tokenizer)


def _read_table(reader: Reader, record: dict) -> WordVectors:
    table = reader.read(record["table"])
    words, matrix = table["words"], table["matrix"]
    subwords = None if table["subwords"] is None else Subwords(*table["subwords"])
    n_rows = len(words) + (0 if subwords is None else subwords.n_buckets)
    if matrix.ndim != 2 or len(matrix) != n_rows:
        raise DamagedFileError(f"{len(words)} words and vectors of shape {matrix.shape}")
    check_finite_rows(words, matrix, "word vectors")
    vectors = WordVectors.from_words(words, matrix, subwords=subwords)
    if vectors.content_digest != record["digest"]:
        raise DamagedFileError("the word vectors are not those that were saved")
    return vectors


_HOW: dict[str, Callable[[Reader, dict[str, Any]], Any]] = {
    "given": _read_given,
    "module": _read_module,
    "published": _read_published,
    "reference": _read_reference,
    "tuned": _read_tuned,
    "vectors": read_vectors,
}
