import io
import json
import random
import struct
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from sktransfer import load_backbone, register_backbone
from sktransfer.backbones.weights import check_finite, load_weights, read_tensors
from tests.support import TinyNet, tiny_backbone


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


STATE = network().state_dict()


def saved(content, **settings) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **settings)
    return file.getvalue()


def floats(change) -> dict:
    """Return the tensors of the network, those of floats changed."""
    return {name: change(t) if t.is_floating_point() else t for name, t in STATE.items()}


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", "b")
    return file.getvalue()


def damaged(data: bytes, n: int, seed: int) -> dict[str, bytes]:
    """Return copies of a file with bits flipped, bytes cut off, overwritten or inserted."""
    rng = random.Random(seed)
    found = {}
    for i in range(n):
        kind, place = (
            rng.choice(["flip", "cut", "zero", "ones", "insert"]),
            rng.randrange(len(data)),
        )
        copy = bytearray(data)
        if kind == "flip":
            copy[place] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del copy[place:]
        elif kind == "insert":
            copy[place:place] = rng.randbytes(rng.randint(1, 30))
        else:
            place %= 400
            copy[place : place + 8] = bytes([0 if kind == "zero" else 255]) * 8
        found[f"{kind} {i}"] = bytes(copy)
    return found


def header_changed(**changes) -> bytes:
    """Return a safetensors file whose header describes the first weight differently."""
    data = safetensors.torch.save(STATE)
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header["0.weight"] |= changes
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


SAFE = safetensors.torch.save(STATE)
HOSTILE = {
    ".pth": {
        "empty": b"",
        "text": b"not a file of tensors\n",
        "an empty zip": zipped(),
        "integer keys": saved(dict(enumerate(STATE.values()))),
        "tuples for keys": saved({(name,): t for name, t in STATE.items()}),
        "integer tensors": saved(floats(lambda t: (10 * t).long())),
        "booleans": saved(floats(lambda t: t > 0)),
        "complex numbers": saved(floats(lambda t: t.cfloat())),
        "sparse tensors": saved(floats(lambda t: t.to_sparse())),
        "tensors without data": saved(floats(lambda t: t.to("meta"))),
        "a float counter": saved(STATE | {"1.num_batches_tracked": torch.tensor(1.5)}),
        "a list": saved(list(STATE.values())),
        "a tensor": saved(torch.ones(3)),
        "nothing": saved(None),
        "an empty dictionary": saved({}),
        "numbers": saved(dict.fromkeys(STATE, 1.0)),
        "text for a tensor": saved(STATE | {"0.bias": "x"}),
        "half of a zip": saved(STATE)[:900],
        "half of an old file": saved(STATE, _use_new_zipfile_serialization=False)[:400],
        "too large for float32": saved(floats(lambda t: t.double() * 1e300)),
    },
    ".safetensors": {
        "empty": b"",
        "one byte": b"\x01",
        "a header longer than the file": struct.pack("<Q", 2**40) + SAFE[8:],
        "a header of 2**63 bytes": struct.pack("<Q", 2**63) + SAFE[8:],
        "no JSON": struct.pack("<Q", 5) + b"hello",
        "a list": struct.pack("<Q", 2) + b"[]",
        "deep": struct.pack("<Q", 100_000) + b"[" * 100_000,
        "no UTF-8": struct.pack("<Q", 4) + b"\xff\xfe{}",
        "no tensors": struct.pack("<Q", 2) + b"{}",
        "integers": safetensors.torch.save(floats(lambda t: (10 * t).long())),
        "bytes": safetensors.torch.save(floats(lambda t: t.to(torch.uint8))),
        "booleans": safetensors.torch.save(floats(lambda t: t > 0)),
        "a negative shape": header_changed(shape=[-3, -4]),
        "a huge shape": header_changed(shape=[2**40, 2**40]),
        "another shape": header_changed(shape=[4, 3]),
        "no such type": header_changed(dtype="F99"),
        "another type": header_changed(dtype="I32"),
        "data past the end": header_changed(data_offsets=[0, 2**50]),
        "data backwards": header_changed(data_offsets=[48, 0]),
        "data of another tensor": header_changed(data_offsets=[0, 12]),
        "cut": SAFE[:-1],
        "longer": SAFE + b"x",
    },
}


@pytest.mark.parametrize(
    ("suffix", "name"), [(suffix, name) for suffix, files in HOSTILE.items() for name in files]
)
def test_hostile_files_raise_with_the_file_name(suffix, name, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(HOSTILE[suffix][name])
    with pytest.raises(ValueError, match=f"weights{suffix}") as refused:
        load_weights(network(), path)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("suffix", [".pth", ".old.pth", ".safetensors"])
def test_damaged_files_raise_or_give_finite_weights(suffix, tmp_path):
    old = {"_use_new_zipfile_serialization": False} if suffix == ".old.pth" else {}
    good = SAFE if suffix == ".safetensors" else saved(STATE, **old)
    n_refused = 0
    for name, content in damaged(good, 40, seed=0).items():
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(content)
        try:
            loaded = load_weights(network(), path)
        except ValueError as error:
            assert path.name in str(error)
            n_refused += 1
        else:
            assert all(t.isfinite().all() for t in loaded.state_dict().values())
    assert n_refused >= 20


def test_half_precision_and_expanded_tensors_are_converted(tmp_path):
    (tmp_path / "a.pth").write_bytes(saved({"state_dict": {"model": floats(torch.Tensor.half)}}))
    for name, tensor in load_weights(network(), tmp_path / "a.pth").state_dict().items():
        torch.testing.assert_close(tensor, STATE[name], rtol=1e-3, atol=1e-3)
    spread = torch.ones(1, 1).expand(3, 4)  # one number in memory for all elements
    (tmp_path / "b.pth").write_bytes(saved(STATE | {"0.weight": spread}))
    loaded = load_weights(network(), tmp_path / "b.pth")
    with torch.no_grad():
        loaded[0].weight[0, 0] += 1
    assert loaded[0].weight.flatten().tolist() == [2.0] + [1.0] * 11


def test_tensors_are_read_by_name(tmp_path):
    (tmp_path / "a.pth").write_bytes(saved({f"module.{name}": t for name, t in STATE.items()}))
    found = read_tensors(tmp_path / "a.pth")
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


# numbers that are not finite

WRONG = [
    ("0.weight", float("nan"), "NaN"),
    ("2.bias", float("inf"), "infinity"),
    ("0.bias", -float("inf"), "infinity"),
    ("1.running_mean", float("nan"), "NaN"),
    ("1.running_var", float("inf"), "infinity"),
    ("1.running_var", -0.5, "a negative variance"),
]


def spoilt(name: str, value: float) -> nn.Sequential:
    """Return the network with one wrong number in a tensor."""
    module = network()
    module.state_dict()[name].view(-1)[-1] = value
    return module


@pytest.mark.parametrize(("name", "value", "problem"), WRONG)
@pytest.mark.parametrize("source", ["own", "factory", "registry", "pth", "safetensors", "stages"])
def test_weights_that_are_not_finite_raise_with_the_tensor_name(
    source, name, value, problem, tmp_path, registry
):
    module = spoilt(name, value)
    register_backbone("spoilt", lambda: module)
    register_backbone("sound", network)
    torch.save(module.state_dict(), tmp_path / "a.pth")
    safetensors.torch.save_file(module.state_dict(), tmp_path / "a.safetensors")
    load = {
        "own": lambda: load_backbone(module),
        "factory": lambda: load_backbone(lambda: module),
        "registry": lambda: load_backbone("spoilt"),
        "pth": lambda: load_backbone("sound", weights=tmp_path / "a.pth"),
        "safetensors": lambda: load_backbone("sound", weights=tmp_path / "a.safetensors"),
        "stages": lambda: load_backbone(module, stages=list(module)),
    }
    with pytest.raises(ValueError, match=f"tensor '{name}' holds {problem}") as refused:
        load[source]()
    assert "a.pth" in str(refused.value) or source != "pth"


def test_a_file_for_a_published_network_with_a_negative_variance_raises(tmp_path):
    state = load_backbone("efficientnet_lite0").module.state_dict()
    state = {key: tensor.clone() for key, tensor in state.items()}
    state["head.bn.running_var"][7] = -1
    torch.save(state, tmp_path / "lite.pth")
    with pytest.raises(ValueError, match=r"lite\.pth': tensor 'head\.bn\.running_var' holds a neg"):
        load_backbone("efficientnet_lite0", weights=tmp_path / "lite.pth")


class Masked(nn.Module):
    """A network with what it may have: a mask, no numbers, whole numbers, half precision."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
        self.register_buffer("none", torch.empty(0))
        self.register_buffer("whole", torch.arange(3))
        self.two_bytes = nn.Parameter(torch.ones(2, dtype=torch.float16))
        self.one_byte = nn.Parameter(torch.ones(2).to(torch.float8_e4m3fn), requires_grad=False)
        self.rotation = nn.Parameter(torch.ones(2, dtype=torch.complex64))
        self.lazy = nn.LazyLinear(2)


def test_masks_with_infinity_and_special_tensors_are_accepted():
    module = Masked()
    check_finite("a network", module)
    module.mask[0, 0] = torch.nan
    with pytest.raises(ValueError, match="a network: tensor 'mask' holds NaN"):
        check_finite("a network", module)
    module.mask[0, 0] = 0
    with torch.no_grad():
        module.rotation[1] = complex(1, np.nan)
    with pytest.raises(ValueError, match="tensor 'rotation' holds NaN"):
        check_finite("a network", module)


def test_shared_tensors_are_checked_once(monkeypatch):
    looked_at = []
    check = "sktransfer.backbones.weights._check_tensor"
    monkeypatch.setattr(check, lambda name, tensor, *rest, **kw: looked_at.append(id(tensor)))
    module = TinyNet()
    check_finite("a network", module, *module)
    assert sorted(looked_at) == sorted(map(id, [*module.parameters(), *module.buffers()]))
    assert tiny_backbone().fingerprint == tiny_backbone().fingerprint
