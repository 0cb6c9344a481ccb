"""Files that somebody wrote to do harm, or that were damaged: made from an honest one by a seed.

``python -m tests.persistence.hostile FOLDER`` writes them all.
"""

import copy
import io
import json
import pickle
import struct
import sys
import warnings
import zipfile
from pathlib import Path

import joblib
import numpy as np

from sktransfer import PretrainedClassifier, load_backbone, load_word_vectors, save
from sktransfer.persistence.files import CONTENTS, read_archive, write_archive

TOUCHED = "touched"  # a file that code in a hostile file would make


class Touch:
    """Its pickle makes a file when it is opened."""

    def __reduce__(self):
        return open, (TOUCHED, "w")


PICKLE = pickle.dumps(Touch())
DEEP = 100_000


def wide(megabytes: int) -> bytes:
    """Return empty objects of JSON, whose values take 25 times the memory of their text."""
    return b",".join([b"{}"] * (megabytes * 10**6 // 3))


class Corpus:
    """Write hostile files.

    Parameters
    ----------
    honest : Path
        A file of ``sktransfer.save`` with a network inside.
    folder : Path
    seed : int
    """

    def __init__(self, honest: Path, folder: Path, seed: int = 0):
        self.folder = folder
        self.raw = honest.read_bytes()
        self.contents, self.parts = read_archive(honest)
        self.rng = np.random.default_rng(seed)
        self.files: dict[str, Path] = {}

    def write(self) -> dict[str, Path]:
        for make in (
            self.containers,
            self.cut,
            self.names,
            self.bombs,
            self.tables,
            self.wide,
            self.pickles,
            self.tensors,
            self.types,
            self.arrays_of_skops,
            self.records,
            self.references,
            self.prompted,
        ):
            make()
        return self.files

    # -- how a file is written -------------------------------------------------------------

    def add(self, name: str, content: bytes) -> None:
        path = self.folder / f"{len(self.files):03d}.skt"
        path.write_bytes(content)
        self.files[name] = path

    def rewrite(self, name: str, contents: dict | None = None, **parts: bytes) -> None:
        """Write a file whose checksums are right, with other parts."""
        path = self.folder / f"{len(self.files):03d}.skt"
        new = {key.replace("__", "/"): part for key, part in parts.items()}
        kept = {k: v for k, v in (contents or self.contents).items() if k != "sha256"}
        write_archive(path, kept, self.parts | new)
        self.files[name] = path

    def zipped(self, name: str, members: list[tuple[str, bytes]], **settings) -> None:
        file = io.BytesIO()
        with warnings.catch_warnings(), zipfile.ZipFile(file, "w", **settings) as archive:
            warnings.filterwarnings("ignore", "Duplicate name")
            for member, content in members:
                archive.writestr(member, content)
        self.add(name, file.getvalue())

    @property
    def members(self) -> list[tuple[str, bytes]]:
        return [(CONTENTS, json.dumps(self.contents).encode()), *self.parts.items()]

    # -- containers ------------------------------------------------------------------------

    def containers(self) -> None:
        self.add("empty", b"")
        self.add("text", b"not a zip file\n" * 100)
        self.add("zeros", bytes(10_000))
        self.add("noise", self.rng.bytes(10_000))
        self.add("only the end of a zip", self.raw[-22:])
        self.zipped("no members", [])
        self.zipped("no contents", list(self.parts.items()))
        self.zipped("a part is missing", self.members[:-1])
        self.zipped("one part more", [*self.members, ("more.json", b"{}")])
        for i in range(len(self.members)):
            doubled = [*self.members, self.members[i]]
            self.zipped(f"{self.members[i][0]} twice", doubled)
        self.zipped("20,000 members", [*self.members, *((f"a{i}.bin", b"") for i in range(20_000))])

    def cut(self) -> None:
        for tenth in range(1, 10):
            self.add(f"cut after {tenth} tenths", self.raw[: len(self.raw) * tenth // 10])
        self.add("cut by one byte", self.raw[:-1])
        self.add("the middle is missing", self.raw[:500] + self.raw[-5000:])
        for i in range(10):
            place = int(self.rng.integers(100, len(self.raw) * 9 // 10))
            changed = bytearray(self.raw)
            changed[place] ^= 1 << int(self.rng.integers(8))
            self.add(f"bit {i} flipped", bytes(changed))

    def names(self) -> None:
        for bad in ("../evil.json", "/etc/evil.json", "a/../../evil.json", "C:\\evil.json"):
            self.zipped(f"named {bad}", [*self.members, (bad, b"{}")])
        for bad in ("x" * 60_000, "a\\..\\b.json", "networks/", ".json", "a b.json", "é.json"):
            self.zipped(f"named {bad:.20}", [*self.members, (bad, b"{}")])

    def bombs(self) -> None:
        deflated = {"compression": zipfile.ZIP_DEFLATED}
        zeros = bytes(10**8)
        self.zipped("a part of zeros", [*self.members, ("zeros.bin", zeros)], **deflated)
        inner = [(name, content) for name, content in self.members if name != "arrays.safetensors"]
        self.zipped("arrays of zeros", [*inner, ("arrays.safetensors", zeros)], **deflated)
        self.zipped("all deflated", self.members, **deflated)
        self.zipped("all by bzip2", self.members, compression=zipfile.ZIP_BZIP2)
        self.zipped("all by lzma", self.members, compression=zipfile.ZIP_LZMA)
        for size in (2**31, 2**32 - 2):
            self.add(f"announces {size} bytes", self._announcing(size))
        self.add("encrypted", self._with_flag(1))
        objects = io.BytesIO()
        with zipfile.ZipFile(objects, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("schema.json", zeros)
        self.rewrite("objects of zeros", **{"scikit-learn.skops": objects.getvalue()})

    def _central(self) -> int:
        """Return the place of the first entry of the directory at the end of the file."""
        return struct.unpack("<I", self.raw[-6:-2])[0]

    def _announcing(self, size: int) -> bytes:
        changed, place = bytearray(self.raw), self._central()
        changed[place + 20 : place + 28] = struct.pack("<II", size, size)
        return bytes(changed)

    def _with_flag(self, flag: int) -> bytes:
        changed, place = bytearray(self.raw), self._central()
        changed[place + 8] |= flag
        return bytes(changed)

    # -- the table of contents -------------------------------------------------------------

    def tables(self) -> None:
        digests = self.contents["sha256"]
        for name, change in {
            "of a later format": {"format": 99},
            "of a format in words": {"format": "one"},
            "without versions": {"versions": None},
            "digests in a list": {"sha256": list(digests)},
            "digests of zeros": {"sha256": dict.fromkeys(digests, "0" * 64)},
        }.items():
            table = json.dumps(self.contents | change).encode()
            self.zipped(name, [(CONTENTS, table), *self.members[1:]])
        for name, table in {
            "a table nested deeply": b"[" * DEEP + b"]" * DEEP,
            "objects nested deeply": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
            "a table of one number": b"1",
            "a number of 100,000 digits": b'{"format": ' + b"9" * 100_000 + b"}",
            "a table in UTF-16": json.dumps(self.contents).encode("utf-16"),
            "half a table": self.members[0][1][:200],
            "a table of NaN": b'{"format": NaN}',
        }.items():
            self.zipped(name, [(CONTENTS, table), *self.members[1:]])

    def wide(self) -> None:
        """JSON whose values need many times the memory of its text."""
        for name, table in {
            "empty objects in the table": b'{"format": 1, "a": [' + wide(15) + b"]}",
            "lists in the table": b'{"format": 1, "a": [' + b"[1]," * 500_000 + b"1]}",
            "a wide table in UTF-16": (b'{"a": [' + wide(1) + b"]}").decode().encode("utf-16-le"),
            "a table of one long text": b'{"format": 1, "a": "' + b"a" * 10**7 + b'"}',
        }.items():
            self.zipped(name, [(CONTENTS, table), *self.members[1:]])
        text = wide(3).decode()
        self.schema_of("a wide schema", b"[" + wide(20) + b"]")
        self.schema_of("a wide schema in UTF-16", wide(1).decode().encode("utf-16-le"))
        self.objects("a wide text", _json(1) | {"content": f"[{text}]"})
        escaped = "".join(rf"\u{ord(sign):04x}" for sign in text[: 10**6])
        content = json.dumps(_json(1)).replace('"1"', f'" \\u005b{escaped}"')
        self.schema_of("a wide text of escapes", content.encode())
        values = b'{"objects": [{"kind": "values", "value": [' + wide(13)
        self.rewrite("wide values", **{"estimator.json": values + b']}], "estimator": {"#": 0}}'})
        tensor = '"{}": {{"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}'
        header = "{" + ", ".join(map(tensor.format, range(200_000))) + "}"
        network = next(name for name in self.parts if name.startswith("networks/"))
        for part in ("arrays.safetensors", network):
            self.rewrite(f"{part} of many", **{part: _join(header.encode(), b"")})

    def schema_of(self, name: str, content: bytes) -> None:
        """Write a file whose part of skops has a schema of these bytes."""
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("schema.json", content)
        self.rewrite(name, **{"scikit-learn.skops": file.getvalue()})

    # -- code ------------------------------------------------------------------------------

    def pickles(self) -> None:
        file = io.BytesIO()
        joblib.dump(Touch(), file)
        self.add("a joblib file", file.getvalue())
        self.add("a pickle", PICKLE)
        self.add("a zip behind a pickle", PICKLE + self.raw[:1000])
        self.zipped("a pickle more", [*self.members, ("estimator.pkl", PICKLE)])
        for part in self.parts:
            self.rewrite(f"{part} is a pickle", **{part: PICKLE})
        array = io.BytesIO()
        np.save(array, np.array([Touch()], object), allow_pickle=True)
        self.objects("an array of pickles", _npy("a.npy"), {"a.npy": array.getvalue()})
        self.objects("a pickle in the objects", None, {"a.pkl": PICKLE})

    def objects(self, name: str, schema=None, more: dict[str, bytes] | None = None) -> None:
        """Write a file whose part of skops has another schema or more members."""
        before = self.schema()
        schema = before if schema is None else schema | _PROTOCOL(before)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for member, content in (more or {}).items():
                archive.writestr(member, content)
            archive.writestr("schema.json", json.dumps(schema))
        self.rewrite(name, **{"scikit-learn.skops": file.getvalue()})

    def schema(self) -> dict:
        with zipfile.ZipFile(io.BytesIO(self.parts["scikit-learn.skops"])) as archive:
            return json.loads(archive.read("schema.json"))

    def types(self) -> None:
        for module, name, loader in (
            ("os", "system", "FunctionNode"),
            ("builtins", "eval", "TypeNode"),
            ("subprocess", "Popen", "ObjectNode"),
            ("subprocess", "Popen", "ConstructorFromReduceNode"),
            ("sktransfer.features.store", "FeatureStore", "ObjectNode"),
            ("torch.nn.modules.linear", "Linear", "ObjectNode"),
            ("this", "that", "ObjectNode"),
            ("sklearn.tree._tree", "Tree", "TreeNode"),
        ):
            self.objects(f"{loader} of {module}.{name}", _node(module, name, loader))
        call = _node("operator", "methodcaller", "OperatorFuncNode")
        self.objects("a call of a method", call | {"attrs": _json(["system"])})
        inner = _node("os", "system", "FunctionNode")
        content = {"func": inner, "args": _json([]), "kwds": _json({}), "namespace": _json({})}
        partial = _node("functools", "partial", "PartialNode") | {"content": content}
        self.objects("a partial", partial)
        self.objects("an unknown loader", _node("builtins", "list", "NoNode"))
        self.objects("no schema", {})
        self.objects("a schema of a list", {"content": []})
        nested = _json(1)
        for _ in range(300):
            nested = _node("builtins", "list", "ListNode") | {"content": [nested]}
        self.objects("300 lists", nested)
        self.schema_of("a schema nested deeply", b'{"content":[' * DEEP + b"]}" * DEEP)

    # -- numbers ---------------------------------------------------------------------------

    def tensors(self) -> None:
        network = next(name for name in self.parts if name.startswith("networks/"))
        header, data = _split(self.parts[network])
        for name, change in self._headers(header).items():
            self.rewrite(f"a network with {name}", **{network: _join(change, data)})
        self.rewrite("a network with no header", **{network: b""})
        self.rewrite("a long header", **{network: struct.pack("<Q", 2**60) + data})
        self.rewrite("a header nested deeply", **{network: _join(b"[" * DEEP, data)})
        twice = json.dumps(header).replace("}}", "}, ", 1).encode() + b'"a": {}}'
        self.rewrite("a header with an error", **{network: _join(twice, data)})
        self.rewrite("numbers that are cut off", **{network: _join(header, data[:-4])})
        self.rewrite("infinite numbers", **{network: _join(header, b"\xff" * len(data))})
        self.rewrite("other numbers", **{network: _join(header, data[::-1])})
        swapped = {network: self.parts["arrays.safetensors"]}
        self.rewrite("parts that are swapped", **swapped)
        arrays, numbers = _split(self.parts["arrays.safetensors"])
        self.rewrite("no arrays", **{"arrays.safetensors": _join({}, b"")})
        for name, change in self._headers(arrays).items():
            self.rewrite(f"arrays with {name}", **{"arrays.safetensors": _join(change, numbers)})

    def _headers(self, header: dict) -> dict[str, dict]:
        """Return changed headers of safetensors."""
        names = sorted(
            (name for name in header if header[name]["shape"]),
            key=lambda name: int(np.prod(header[name]["shape"])),
        )
        one, other = names[-1], names[-2]

        def changed(name: str, **fields) -> dict:
            new = copy.deepcopy(header)
            new[name].update(fields)
            return new

        shape = header[one]["shape"]
        return {
            "two tensors swapped": header | {one: header[other], other: header[one]},
            "another shape": changed(one, shape=[1, *shape[::-1]]),
            "a flat shape": changed(one, shape=[int(np.prod(shape))]),
            "a huge shape": changed(one, shape=[2**40]),
            "an overflowing shape": changed(one, shape=[2**33, 2**33]),
            "a negative shape": changed(one, shape=[-1]),
            "another type": changed(one, dtype="I32"),
            "an unknown type": changed(one, dtype="PICKLE"),
            "numbers elsewhere": changed(one, data_offsets=[0, 2**50]),
            "a tensor missing": {k: v for k, v in header.items() if k != one},
            "a tensor renamed": {k.replace(one, "x"): v for k, v in header.items()},
        }

    def arrays_of_skops(self) -> None:
        for name, header in {
            "a huge array": {"descr": "<f8", "fortran_order": False, "shape": (2**40,)},
            "an array of objects": {"descr": "|O", "fortran_order": False, "shape": (1,)},
            "an overflowing array": {"descr": "<f8", "fortran_order": False, "shape": (2**62, 8)},
            "an array of long texts": {"descr": "<U500000000", "fortran_order": False, "shape": ()},
        }.items():
            file = io.BytesIO()
            np.lib.format.write_array_header_1_0(file, header)
            self.objects(name, _npy("a.npy"), {"a.npy": file.getvalue() + bytes(80)})
        self.objects("a broken array", _npy("a.npy"), {"a.npy": b"\x93NUMPY\x01\x00\xff\xff()"})
        self.objects("an array that is elsewhere", _npy("../../etc/passwd"))

    # -- the table of objects --------------------------------------------------------------

    def table(self, name: str, *records: object, estimator: object = None) -> None:
        """Write a file with another table, whose last object is the estimator."""
        last = {"#": len(records) - 1}
        table = {"objects": records, "estimator": last if estimator is None else estimator}
        self.rewrite(f"record: {name}", **{"estimator.json": json.dumps(table).encode()})

    def records(self) -> None:
        for name, record in {
            "unknown kind": {"kind": "Evil", "state": {}},
            "a kind that is no text": {"kind": ["a"]},
            "no kind": {"state": {}},
            "a text": "FineTunedClassifier",
            "no state": {"kind": "FineTunedClassifier"},
            "a state of text": {"kind": "FineTunedClassifier", "state": "x"},
            "a method replaced": {"kind": "PretrainedClassifier", "state": {"predict": 1}},
            "a hook replaced": {"kind": "ClassTarget", "state": {"__class__": "x"}},
            "attributes that hide a method": {"kind": "ClassTarget", "state": {"decode": 1}},
            "a module": {"kind": "class of torch", "name": "os"},
            "a function of torch": {"kind": "class of torch", "name": "lr_scheduler"},
            "a function": {"kind": "named", "name": "os.system"},
            "an array of a name": _array("x", [1]),
            "a huge array": _array("0", [2**50]),
            "an array of another type": _array("0", [0], "float16"),
            "a scalar of another type": {"kind": "scalar", "type": "object", "value": 1},
            "a scalar of a text": {"kind": "scalar", "type": "int64", "value": "a"},
            "a path of numbers": {"kind": "path", "text": 7},
            "a dictionary of lists": {"kind": "dict", "items": [[[], 1]]},
            "a dictionary of numbers": {"kind": "dict", "items": 7},
            "a Bunch of numbers": {"kind": "Bunch", "items": [[1, 2]]},
            "a tensor that is nowhere": {"kind": "tensor", "name": "9"},
            "texts of text": {"kind": "texts", "codes": "ab"},
            "a part that is nowhere": {"kind": "scikit-learn", "place": 9},
            "a part by name": {"kind": "scikit-learn", "place": "0"},
            **_arrays_of_objects(),
            **_losses(),
            "an unknown network": {"kind": "network", "how": "evil"},
            "a network by URL": {"kind": "network", "how": "reference", "name": "http://evil"},
            "a reference": _reference("efficientnet_lite0"),
            "a reference to a folder": _reference("hf:/etc"),
            "a reference to a file": _reference("resnet18", "/etc/passwd.pth"),
            "a reference in words": _reference(["a"]),
            "a large network": _published("vit_h_14"),
            "a network of a method": _published("evil"),
        }.items():
            self.table(name, record)
        honest = json.loads(self.parts["estimator.json"])["objects"]
        arrays = {record["type"]: record for record in honest if record["kind"] == "numbers"}
        self.table("texts of floats", arrays["float32"], {"kind": "texts", "codes": {"#": 0}})
        state = {
            "format": 1,
            "frozen": ["stem"],
            "trained": ["blocks.0"],
            "settings": {"train_batch_norm": False, "precision": "float32"},
            "tensors": {},
            "head": ["Linear", [2**40, 2**40, True]],
            "weights": {},
        }
        origin = _reference("efficientnet_lite0")
        origin["fingerprint"] = load_backbone("efficientnet_lite0").fingerprint
        tuned = {"kind": "network", "how": "tuned", "origin": {"#": 0}, "state": state}
        self.table("a large head", origin, tuned)
        huge = {"kind": "sparse", "type": "csr_matrix", "shape": [2**40, 2**40]}
        parts = {name: {"#": 0} for name in ("data", "indices", "indptr")}
        self.table("a sparse array", arrays["float32"], huge | parts)

    def references(self) -> None:
        itself = {"kind": "network", "how": "tuned", "origin": {"#": 0}, "state": {}}
        self.table("itself", itself)
        for name, reference in {
            "a later object": {"#": 99},
            "an object before the first": {"#": -1},
            "a fraction": {"#": 0.0},
            "a truth value": {"#": False},
            "a text": {"#": "0"},
            "a reference": {"#": {"#": 0}},
            "a list": {"#": [0]},
            "an object and more": {"#": 0, "a": 1},
            "nothing": {"#": None},
        }.items():
            values = {"kind": "values", "value": [1]}
            self.table(f"a reference to {name}", values, {"kind": "tuple", "items": reference})
            self.table(f"an estimator that refers to {name}", estimator=reference)
            schema = _of_value([reference])
            self.objects(f"skops refers to {name}", schema)
        for name, table in {
            "a list": [],
            "no objects": {"estimator": {"#": 0}},
            "no estimator": {"objects": []},
            "objects of text": {"objects": "abc", "estimator": 1},
            "a number of objects": {"objects": 7, "estimator": 1},
        }.items():
            self.rewrite(f"a table of {name}", **{"estimator.json": json.dumps(table).encode()})
        honest = json.loads(self.parts["estimator.json"])
        for i, record in enumerate(honest["objects"]):
            without = honest | {"objects": honest["objects"][:i] + honest["objects"][i + 1 :]}
            name = f"without object {i}, {record['kind']}"
            self.rewrite(name, **{"estimator.json": json.dumps(without).encode()})
        deep = b"[" * DEEP + b"]" * DEEP
        self.rewrite("objects nested deeply", **{"estimator.json": b'{"objects": ' + deep + b"}"})
        self.rewrite(
            "half a table of objects", **{"estimator.json": self.parts["estimator.json"][:99]}
        )
        self.rewrite("objects in UTF-16", **{"estimator.json": json.dumps(honest).encode("utf-16")})

    # -- classes that texts describe -------------------------------------------------------

    def prompted(self) -> None:
        """Change the network of an honest file whose classes are described by texts."""
        path = prompted_file(self.folder / "prompted.skt")
        contents, parts = read_archive(path)
        kept = {key: value for key, value in contents.items() if key != "sha256"}
        honest = json.loads(parts["estimator.json"])
        objects = honest["objects"]
        (place,) = (i for i, record in enumerate(objects) if record.get("how") == "prompted")
        for name, change in {
            "no network": {"origin": None},
            "a number as the network": {"origin": 5},
            "a network that is itself": {"origin": {"#": place}},
            "an array as the network": {"origin": objects[place]["weight"]},
            "no labels": {"labels": []},
            "a text of labels": {"labels": "ab"},
            "a label more": {"labels": [0, 1, 2]},
            "a label less": {"labels": [0]},
            "a label twice": {"labels": [1, 1]},
            "labels of several types": {"labels": [0, "1"]},
            "lists as labels": {"labels": [[0], [1]]},
            "no vectors": {"weight": None},
            "a list of vectors": {"weight": [[1.0, 0.0], [0.0, 1.0]]},
            "vectors of words": {"weight": {"#": 0}},  # three
            "vectors that are nowhere": {"weight": {"#": 99}},
            "no bias": {"bias": None},
            "a bias of text": {"bias": "nan"},
            "a bias that is a truth value": {"bias": True},
            "a list as the bias": {"bias": [0.0]},
        }.items():
            changed = [*objects[:place], objects[place] | change, *objects[place + 1 :]]
            table = json.dumps(honest | {"objects": changed}).encode()
            file = self.folder / f"{len(self.files):03d}.skt"
            write_archive(file, kept, parts | {"estimator.json": table})
            self.files[f"prompts: {name}"] = file
        header, numbers = _split(parts["arrays.safetensors"])
        vectors = objects[objects[place]["weight"]["#"]]["name"]
        start, end = header[vectors]["data_offsets"]
        infinite = numbers[:start] + b"\xff" * (end - start) + numbers[end:]
        file = self.folder / f"{len(self.files):03d}.skt"
        write_archive(file, kept, parts | {"arrays.safetensors": _join(header, infinite)})
        self.files["prompts: vectors of NaN"] = file


def prompted_file(path: Path) -> Path:
    """Save a classifier of texts whose two classes, 0 and 1, are described by texts."""
    vectors = load_word_vectors({"good": [1.0, 0.0], "bad": [-1.0, 0.5], "film": [0.0, 1.0]})
    model = PretrainedClassifier(vectors, prompts={0: "bad", 1: ["good", "good film"]})
    save(model.fit(["good film", "bad film"]), path)
    return path


def _arrays_of_objects() -> dict[str, dict]:
    """Return records of arrays of objects with other items, shapes or masks than are written."""
    honest = {"kind": "objects", "items": [1, "a"], "shape": [2], "mask": None}
    changes = {
        "no items": {"items": None},
        "a text of items": {"items": "ab"},
        "a dictionary of items": {"items": {"a": 1, "b": 2}},
        "items that are itself": {"items": {"#": 0}},
        "items that are nowhere": {"items": [{"#": 7}, 1]},
        "more items": {"items": [1, "a", 2]},
        "no shape": {"shape": None},
        "a huge shape": {"shape": [2**40]},
        "an overflowing shape": {"shape": [2**33, 2**33]},
        "a negative shape": {"shape": [-1]},
        "a shape of text": {"shape": [2**29, "a"]},
        "a shape of many axes": {"shape": [1] * 100 + [2]},
        "a shape that is a number": {"shape": 2},
        "a mask of text": {"mask": "ab"},
        "a short mask": {"mask": [True]},
        "a long mask": {"mask": [True] * 3},
        "a mask of lists": {"mask": [[True], [False]]},
        "a mask of numbers": {"mask": [0, 7]},
    }
    return {f"an array of objects with {name}": honest | change for name, change in changes.items()}


def _losses() -> dict[str, dict]:
    """Return records of losses that torch does not have, or with what a loss does not have."""
    changes = {
        "no name": {"name": None},
        "a name in a list": {"name": ["L1Loss"]},
        "the name of a network": {"name": "Linear"},
        "the name of an optimizer": {"name": "SGD"},
        "the name of a function": {"name": "l1_loss"},
        "a dotted name": {"name": "modules.loss.L1Loss"},
        "the name of a base class": {"name": "_Loss"},
        "a dunder name": {"name": "__class__"},
        "no state": {"state": None},
        "a state in a list": {"state": [1]},
        "a state that is itself": {"state": {"#": 0}},
        "a method": {"state": {"forward": 1}},
        "a class": {"state": {"__class__": "x"}},
        "hooks": {"state": {"_forward_hooks": {"0": 1}}},
        "modules": {"state": {"_modules": {"a": 1}}},
        "parameters": {"state": {"_parameters": {}}},
        "a dunder attribute": {"state": {"__dict__": {}}},
        "another setting": {"state": {"evil": 1}},
        "a setting of another type": {"state": {"reduction": 1}},
        "a number that is a text": {"state": {"ignore_index": "1"}},
        "a weight that is no tensor": {"state": {"weight": 1.0}},
        "a weight that is nowhere": {"state": {"weight": {"#": 9}}},
    }
    honest = {"kind": "loss of torch", "name": "CrossEntropyLoss", "state": {"reduction": "mean"}}
    return {f"a loss with {name}": honest | change for name, change in changes.items()}


def _reference(name, weights="default") -> dict:
    settings = {"image_size": None, "long_texts": None, "fingerprint": "0" * 64}
    return {"kind": "network", "how": "reference", "name": name, "weights": weights} | settings


def _array(name: str, shape: list, type_: str = "int64") -> dict:
    return {"kind": "numbers", "name": name, "order": "C", "shape": shape, "type": type_}


def _published(name: str) -> dict:
    about = dict.fromkeys(("preprocess", "image_size", "resized", "classes", "class_ids"))
    record = {"kind": "network", "how": "published", "name": name, "tensors": "networks/0"}
    return record | about | {"fingerprint": "0" * 64, "modality": "image"}


def _node(module: str, name: str, loader: str) -> dict:
    return {"__class__": name, "__module__": module, "__loader__": loader, "content": None}


def _json(value) -> dict:
    return _node("builtins", "str", "JsonNode") | {"content": json.dumps(value), "is_json": True}


def _npy(file: str) -> dict:
    return _node("numpy", "ndarray", "NdArrayNode") | {"type": "numpy", "file": file}


def _of_value(value) -> dict:
    """Return the schema of skops for plain values."""
    if isinstance(value, list):
        return _node("builtins", "list", "ListNode") | {"content": list(map(_of_value, value))}
    if not isinstance(value, dict):
        return _json(value)
    texts = [_node("builtins", "str", "TypeNode")] * len(value)
    keys = _node("builtins", "list", "ListNode") | {"content": texts}
    content = {key: _of_value(inner) for key, inner in value.items()}
    return _node("builtins", "dict", "DictNode") | {"content": content, "key_types": keys}


def _PROTOCOL(schema: dict) -> dict:
    return {key: schema[key] for key in ("protocol", "_skops_version")}


def _split(part: bytes) -> tuple[dict, bytes]:
    """Return the header of safetensors and the numbers behind it."""
    length = struct.unpack("<Q", part[:8])[0]
    return json.loads(part[8 : 8 + length]), part[8 + length :]


def _join(header: dict | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


if __name__ == "__main__":
    from tests.persistence.test_hostile import honest_file

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for made, where in Corpus(honest_file(folder / "honest.skt"), folder).write().items():
        print(where, made)
