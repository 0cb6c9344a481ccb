"""Networks in files: by name and fingerprint, or with their tensors, in one of seven ways.

A network is written as a *reference* to weights that the other machine has; as a *published*
architecture with its tensors; as one that the user gives, a *given* backbone or a *module*; as a
*tuned* one, which is a network and what training changed in it; as a *prompted* one, which is a
network and the vectors of the classes that texts describe; or as *vectors* of words.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import nn

from ..backbones import Backbone, load_backbone
from ..backbones.behavior import check_behavior
from ..backbones.preprocessing import TransformPreprocessing
from ..backbones.registry import Reference, architecture
from ..backbones.weights import (
    check_finite,
    load_tensors,
    take_number_of_channels,
    take_number_of_classes,
)
from ..backbones.words.files import Subwords, check_finite_rows
from ..backbones.words.vectors import WordVectors, reopened
from ..backbones.wordvectors import word_backbone
from ..backbones.zero_shot import PromptedBackbone
from ..data import get_modality, sorted_labels
from ..finetuning.tuned import TunedBackbone, TunedNetwork
from .objects import OWN, DamagedFileError, Reader, Writer, is_of_user

_OF_NETWORK = "of the network"  # a preprocessing that comes with the network that the user gives


def write_network(writer: Writer, network: Backbone | nn.Module) -> dict[str, Any]:
    """Return what is written of a network, and list it in the summary of the file.

    That is "how", and the values of this way.
    """
    record = _record(writer, network)
    about = {"name": getattr(network, "name", type(network).__name__)}
    shown = ("how", "weights", "fingerprint", "given")
    writer.networks.append(about | {key: record[key] for key in shown if key in record})
    return record


def _record(writer: Writer, network: Any) -> dict[str, Any]:
    if not isinstance(network, Backbone):
        name = type(network).__name__.lower()
        given = writer.name_of(_shapes(network), name, f"network {name!r}")
        return {
            "how": "module",
            "given": given,
            "tensors": _tensors(writer, network, network.state_dict()),
        }
    if isinstance(network, TunedBackbone):
        return {"how": "tuned"} | _tuned(network)
    if isinstance(network, PromptedBackbone):
        labels, weight, bias = network.state()
        about = {"origin": network.origin, "labels": labels, "weight": weight, "bias": bias}
        return {"how": "prompted"} | about
    if network.reference is not None and not writer.self_contained:
        behavior = network.behavior if network.carries_behavior else None
        about = {"fingerprint": network.fingerprint, "behavior": behavior}
        return {"how": "reference"} | dataclasses.asdict(network.reference) | about
    if isinstance(getattr(network.preprocess, "vectors", None), WordVectors):
        return {"how": "vectors"} | _vectors(writer, network)
    if _is_published(network):
        return {"how": "published"} | _with_tensors(writer, network)
    return {"how": "given"} | _with_tensors(writer, network) | _given(writer, network)


def read_network(reader: Reader, record: dict[str, Any]) -> Backbone | nn.Module:
    """Make a network again from what was written of it.

    A ``ValueError`` if the network on this machine is another one, or must be given and is not.
    """
    if record["how"] not in _READERS:
        raise DamagedFileError(f"it has a network of an unknown kind, {record['how']!r:.80}")
    return _READERS[record["how"]](reader, record)


# -- by reference --------------------------------------------------------------------------------


def _read_reference(reader: Reader, record: dict[str, Any]) -> Backbone:
    fields = [field.name for field in dataclasses.fields(Reference)]
    reference = Reference(**{name: record[name] for name in fields})
    if reference.name not in reader.named:
        return reference.load(record["fingerprint"], record.get("behavior"))
    network = reader.named[reference.name]()
    if not isinstance(network, Backbone):
        network = load_backbone(network, name=reference.name)
    network = network.with_channels(reference.channels).with_image_size(reference.image_size)
    network = network.with_long_texts(reference.long_texts)
    network = network.with_prompt(reference.prompt, is_text=True)
    _check_fingerprint(network, record)
    check_behavior(network, record.get("behavior"))
    return network


def _check_fingerprint(network: Backbone, record: dict[str, Any]) -> None:
    if network.fingerprint != record["fingerprint"]:
        raise ValueError(
            f"the network {network.name!r} is not the one that was saved: fingerprint "
            f"{network.fingerprint[:12]}, expected {str(record['fingerprint'])[:12]}"
        )


# -- with tensors: published architectures, and those that the user gives ------------------------


def _tensors(writer: Writer, module: nn.Module, tensors: dict[str, torch.Tensor]) -> str:
    """Put tensors of a module into the file once, and return the name of their part."""
    name = writer.places.setdefault(id(module), f"networks/{len(writer.places)}")
    if name not in writer.tensors:
        copies = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
        writer.tensors[name] = copies
    return name


def _shapes(module: nn.Module) -> tuple:
    """Return what two networks have in common if one function can make both."""
    return tuple((name, tuple(tensor.shape)) for name, tensor in module.state_dict().items())


def _with_tensors(writer: Writer, network: Backbone) -> dict[str, Any]:
    """Return what is written of each network whose tensors are in the file.

    Of a network at another input size these are the tensors of the original one, and those that
    were made for the size.
    """
    native, shape = network.native or network, network.input_shape
    return {
        "name": network.name,
        "fingerprint": network.fingerprint,
        "licence": network.licence,
        "modality": network.modality.name,
        "classes": None if network.classes is None else list(network.classes),
        "class_ids": None if network.class_ids is None else list(network.class_ids),
        "prefix_tokens": network.prefix_tokens,
        "preprocess": _preprocessing(writer, native.preprocess),
        "tensors": _tensors(writer, native.module, native.module.state_dict()),
        "image_size": None if network.native is None or shape is None else shape[-1],
        "resized": _resized_tensors(writer, network),
    }


def _resized_tensors(writer: Writer, network: Backbone) -> str | None:
    """Put the tensors that were made for an input size into the file; return their part."""
    if network.native is None:
        return None
    tensors = _not_shared(network.module, network.native.module)
    return _tensors(writer, network.module, tensors) if tensors else None


def _not_shared(module: nn.Module, native: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of a resized network that are not those of the original one."""
    shared = {tensor.data_ptr() for tensor in native.state_dict().values()}
    return {k: v for k, v in module.state_dict().items() if v.data_ptr() not in shared}


def _preprocessing(writer: Writer, preprocess: Any) -> Any:
    """Return a preprocessing, the name of a function, or that it comes with the network."""
    if isinstance(preprocess, TransformPreprocessing) and is_of_user(preprocess.transform):
        transform: Any = preprocess.transform
        return {"given": writer.name_of(transform, transform.__name__, "the preprocessing")}
    is_own = preprocess is None or type(preprocess) in OWN.values()
    return preprocess if is_own else _OF_NETWORK


def _is_published(network: Backbone) -> bool:
    """Tell whether the name of a network gives its architecture.

    A network that cannot be made without its weights is a ``ValueError``.
    """
    name = network.name if network.loaded_by is None else network.loaded_by[0]
    try:
        plain = architecture(name)
    except (ImportError, OSError, ValueError):  # the user's
        return False
    if not network.modality.has_tokens:
        with contextlib.suppress(ValueError):
            native = network.native or network
            take_number_of_channels(plain.module, native.module.state_dict())
            take_number_of_classes(plain.module, native.module.state_dict())
            load_tensors(plain.module, native.module.state_dict(), name, copy=True)
            if plain.fingerprint == network.fingerprint:
                return True
    if network.loaded_by is None:
        return False
    raise ValueError(
        f"self_contained=True: the file cannot hold backbone {network.name!r}, which is made from "
        "a folder, a package or settings of its own. Save it without self_contained."
    )


def _given(writer: Writer, network: Backbone) -> dict[str, Any]:
    """Return by which name a network must be given, and what it computes."""
    factory = writer.factories.get(id(network))
    if factory is not None:
        given = writer.name_of(factory, factory.__name__, "backbone")
    else:
        name = network.name if network.loaded_by is None else network.loaded_by[0]
        shapes = _shapes((network.native or network).module)
        given = writer.name_of(shapes, name, f"backbone {name!r}")
    needs_backbone = network.stages is not None
    return {"given": given, "needs_backbone": needs_backbone, "behavior": network.behavior}


def _read_published(reader: Reader, record: dict[str, Any]) -> Backbone:
    network = _filled_once(reader, record, _build_published)
    _check_fingerprint(network, record)
    return _at_size(reader, record, network)


def _build_published(reader: Reader, record: dict[str, Any]) -> Backbone:
    """Build a network by name, after its size was compared with that of the tensors."""
    tensors, source = reader.tensors[record["tensors"]], repr(record["name"])
    with contextlib.suppress(NotImplementedError), torch.device("meta"):  # RegNet needs numbers
        empty = architecture(record["name"]).module
        take_number_of_channels(empty, tensors)
        take_number_of_classes(empty, tensors)
        load_tensors(empty, tensors, source)
    network = architecture(record["name"])
    take_number_of_channels(network.module, tensors)
    take_number_of_classes(network.module, tensors)
    network.modality = get_modality(record["modality"])
    return network


def _read_given(reader: Reader, record: dict[str, Any]) -> Backbone:
    network = _filled_once(reader, record, _build_given)
    if network.fingerprint != record["fingerprint"]:
        warnings.warn(
            f"The function {record['given']!r} makes another network than the one that was saved, "
            "with tensors of the same names and shapes: its code or its settings differ. "
            "Predictions may differ.",
            stacklevel=2,
        )
    network = _at_size(reader, record, network)
    check_behavior(network, record.get("behavior"))
    return network


def _build_given(reader: Reader, record: dict[str, Any]) -> Backbone:
    given = _made_by(reader, record["given"])
    if not isinstance(given, Backbone):
        return _from_module(reader, record, given)
    copy = object.__new__(Backbone)  # its owner may use the tensors elsewhere
    vars(copy).update(vars(given))
    copy.module, copy.stages = deepcopy((given.module, given.stages))
    return copy


def _made_by(reader: Reader, name: str) -> Any:
    """Call the function that the user gives by a name; return a Backbone or a module."""
    function = reader.find_named(name)
    if isinstance(function, Backbone | nn.Module) or not callable(function):
        kind = type(function).__name__
        raise ValueError(
            f"modules={{{name!r}: ...}}: give a function that returns the network, not the "
            f"{kind} itself: modules={{{name!r}: lambda: network}}"
        )
    return function()


def _from_module(reader: Reader, record: dict[str, Any], module: nn.Module) -> Backbone:
    preprocess = record["preprocess"]
    if record["needs_backbone"] or preprocess == _OF_NETWORK:
        raise ValueError(
            f"the function {record['given']!r} must return a Backbone, since a file does not hold "
            "stages and transforms: return load_backbone(module, preprocess=…, stages=…)"
        )
    if isinstance(preprocess, dict):
        preprocess = reader.find_named(preprocess["given"])
    modality = get_modality(record["modality"])
    settings: dict[str, Any] = {"modality": modality, "preprocess": preprocess}
    settings["prefix_tokens"] = record.get("prefix_tokens")
    return load_backbone(module, name=record["name"], **settings)


def _filled_once(
    reader: Reader, record: dict[str, Any], build: Callable[[Reader, dict[str, Any]], Backbone]
) -> Backbone:
    """Make a network with the tensors of the file; those of several input sizes share them."""
    part = record["tensors"]
    if part not in reader.networks:
        reader.networks[part] = build(reader, record)
        module = reader.networks[part].module
        load_tensors(module, reader.tensors[part], repr(record["name"]), copy=True)
    network = object.__new__(Backbone)
    vars(network).update(vars(reader.networks[part]), reference=None, loaded_by=None, prepared={})
    network.licence = record.get("licence")
    for name in ("classes", "class_ids"):
        setattr(network, name, None if record[name] is None else tuple(record[name]))
    if record["preprocess"] != _OF_NETWORK and not isinstance(record["preprocess"], dict):
        network.preprocess = record["preprocess"]
    network.forget_fingerprint()
    return network


def _at_size(reader: Reader, record: dict[str, Any], native: Backbone) -> Backbone:
    """Return a network at the size that the file says, with the tensors made for that size."""
    network = native.with_image_size(record["image_size"])
    if record["resized"] is not None:
        own = _not_shared(network.module, native.module)
        tensors = reader.tensors[record["resized"]]
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in tensors.items()}:
            raise DamagedFileError(
                f"its tensors of {record['name']!r:.80} are not those for {network.input_shape}"
            )
        network.module.load_state_dict(tensors, strict=False)
        check_finite(repr(record["name"]), network.module)
    return network


def _read_module(reader: Reader, record: dict[str, Any]) -> nn.Module:
    given = _made_by(reader, record["given"])
    module = deepcopy(given.module if isinstance(given, Backbone) else given)
    return load_tensors(module, reader.tensors[record["tensors"]], repr(record["given"]), copy=True)


# -- tuned networks ------------------------------------------------------------------------------


def _tuned(network: TunedBackbone) -> dict[str, Any]:
    origin = network.network.origin
    return {
        "origin": origin,
        "state": network.network.state(),
        "classes": None if network.classes is None else list(network.classes),
        "label_rows": network.label_rows,
        "resized": None if network.preprocess is origin.preprocess else network.preprocess,
    }


def _read_tuned(reader: Reader, record: dict[str, Any]) -> TunedBackbone:
    tuned = TunedNetwork.from_state(record["origin"], record["state"])
    network = TunedBackbone(tuned, record["classes"], record["label_rows"])
    if record["resized"] is not None:
        network.preprocess = record["resized"]
    return network


# -- networks with classes that texts describe ---------------------------------------------------


def _read_prompted(reader: Reader, record: dict[str, Any]) -> PromptedBackbone:
    origin, labels, weight, bias = (record[key] for key in ("origin", "labels", "weight", "bias"))
    if not isinstance(origin, Backbone) or type(bias) is not float:
        raise DamagedFileError(
            f"prompts of a {type(origin).__name__}, with a bias of {type(bias).__name__}"
        )
    is_table = isinstance(weight, np.ndarray) and weight.ndim == 2 and weight.dtype == np.float32
    if not is_table or type(labels) is not list or len(labels) != len(weight):
        raise DamagedFileError("prompts whose vectors are not those of its labels")
    if sorted_labels(dict.fromkeys(labels), "prompts") != labels:
        raise DamagedFileError(f"prompts for the labels {labels!r:.80}")
    return PromptedBackbone(origin, labels, weight, bias)


# -- word vectors --------------------------------------------------------------------------------


def _vectors(writer: Writer, network: Backbone) -> dict[str, Any]:
    preprocess: Any = network.preprocess
    vectors, tokenizer = preprocess.vectors, preprocess.tokenizer
    name = None if tokenizer is None else getattr(tokenizer, "__name__", "tokenizer")
    by_path = vectors.source is not None and not writer.self_contained
    return {
        "name": network.name,
        "digest": vectors.content_digest,
        "tokenizer": None if name is None else writer.name_of(tokenizer, name, "the tokenizer"),
        "source": vectors.source if by_path else None,
        "table": None if by_path else _table(vectors),
    }


def _table(vectors: WordVectors) -> dict[str, Any]:
    subwords: Any = vectors.subwords
    return {
        "words": [vectors.vocabulary.word(i + 1) for i in range(vectors.n_words)],
        "matrix": vectors.matrix.numpy(),
        "subwords": None if subwords is None else list(dataclasses.astuple(subwords)),
    }


def _read_vectors(reader: Reader, record: dict[str, Any]) -> Backbone:
    source, name = record["source"], record["tokenizer"]
    if source is None:
        vectors = _read_table(record)
    else:
        vectors = reopened(source, record["digest"])
    tokenizer = None if name is None else reader.find_named(name)
    return word_backbone(record["name"], vectors, tokenizer)


def _read_table(record: dict[str, Any]) -> WordVectors:
    table = record["table"]
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


_READERS: dict[str, Callable[[Reader, dict[str, Any]], Any]] = {
    "given": _read_given,
    "module": _read_module,
    "prompted": _read_prompted,
    "published": _read_published,
    "reference": _read_reference,
    "tuned": _read_tuned,
    "vectors": _read_vectors,
}
