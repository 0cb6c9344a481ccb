import io
import json
import os
import pickle
import random
import struct
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.testing import assert_allclose
from torch import nn

from sktransfer import (
    PretrainedFeatureExtractor,
    load_backbone,
    register_backbone,
)
from sktransfer.backbones.weights import check_finite, load_weights, read_tensors
from tests.backbones.support import SMALL, same_bits, saved
from tests.support import (
    TinyNet,
    random_backbone,
    tiny_backbone,
)


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


STATE = network().state_dict()


def as_bytes(content, **settings) -> bytes:
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
        "integer keys": as_bytes(dict(enumerate(STATE.values()))),
        "tuples for keys": as_bytes({(name,): t for name, t in STATE.items()}),
        "integer tensors": as_bytes(floats(lambda t: (10 * t).long())),
        "booleans": as_bytes(floats(lambda t: t > 0)),
        "complex numbers": as_bytes(floats(lambda t: t.cfloat())),
        "sparse tensors": as_bytes(floats(lambda t: t.to_sparse())),
        "tensors without data": as_bytes(floats(lambda t: t.to("meta"))),
        "a float counter": as_bytes(STATE | {"1.num_batches_tracked": torch.tensor(1.5)}),
        "a list": as_bytes(list(STATE.values())),
        "a tensor": as_bytes(torch.ones(3)),
        "nothing": as_bytes(None),
        "an empty dictionary": as_bytes({}),
        "numbers": as_bytes(dict.fromkeys(STATE, 1.0)),
        "text for a tensor": as_bytes(STATE | {"0.bias": "x"}),
        "half of a zip": as_bytes(STATE)[:900],
        "half of an old file": as_bytes(STATE, _use_new_zipfile_serialization=False)[:400],
        "too large for float32": as_bytes(floats(lambda t: t.double() * 1e300)),
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
    good = SAFE if suffix == ".safetensors" else as_bytes(STATE, **old)
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
    (tmp_path / "a.pth").write_bytes(as_bytes({"state_dict": {"model": floats(torch.Tensor.half)}}))
    for name, tensor in load_weights(network(), tmp_path / "a.pth").state_dict().items():
        torch.testing.assert_close(tensor, STATE[name], rtol=1e-3, atol=1e-3)
    spread = torch.ones(1, 1).expand(3, 4)  # one number in memory for all elements
    (tmp_path / "b.pth").write_bytes(as_bytes(STATE | {"0.weight": spread}))
    loaded = load_weights(network(), tmp_path / "b.pth")
    with torch.no_grad():
        loaded[0].weight[0, 0] += 1
    assert loaded[0].weight.flatten().tolist() == [2.0] + [1.0] * 11


def test_tensors_are_read_by_name(tmp_path):
    (tmp_path / "a.pth").write_bytes(as_bytes({f"module.{name}": t for name, t in STATE.items()}))
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
    looked_at, aminmax = [], torch.aminmax
    monkeypatch.setattr(torch, "aminmax", lambda x: looked_at.append(x.data_ptr()) or aminmax(x))
    module = TinyNet()
    check_finite("a network", module, *module)
    floating = [x for x in (*module.parameters(), *module.buffers()) if x.is_floating_point()]
    assert sorted(looked_at) == sorted(x.data_ptr() for x in floating)
    assert tiny_backbone().fingerprint == tiny_backbone().fingerprint


# files of other versions


def test_safetensors_and_pth_are_the_same_network(tensors, tmp_path):
    paths = [saved(tensors, tmp_path / name) for name in ("a.pth", "a.pt", "a.safetensors")]
    loaded = [load_backbone(SMALL, weights=path) for path in paths]
    assert all(same_bits(backbone.module.state_dict(), tensors) for backbone in loaded)
    assert len({backbone.fingerprint for backbone in loaded}) == 1


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model."])
@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_files_of_training_scripts_are_read(key, prefix, tensors, tmp_path):
    path = saved({key: {prefix + name: t for name, t in tensors.items()}}, tmp_path / "a.pth")
    assert same_bits(load_backbone(SMALL, weights=path).module.state_dict(), tensors)


def test_files_older_than_the_batch_counter_are_read(tmp_path):
    state = random_backbone("shufflenet_v2_x0_5").module.state_dict()
    old = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    loaded = load_backbone("shufflenet_v2_x0_5", weights=saved(old, tmp_path / "a.pth"))
    assert same_bits(loaded.module.state_dict(), state)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_of_networks_that_look_at_the_version_of_a_file_are_read(suffix, tmp_path):
    state = random_backbone("mnasnet0_5").module.state_dict()
    loaded = load_backbone("mnasnet0_5", weights=saved(state, tmp_path / f"a{suffix}"))
    assert same_bits(loaded.module.state_dict(), state)


def test_tensors_that_do_not_fit_are_named(tensors, tmp_path):
    wrong = dict(tensors)
    wrong["extra.weight"] = wrong.pop("features.0.weight")
    wrong["classifier.1.bias"] = torch.zeros(7)
    with pytest.raises(ValueError) as info:
        load_backbone(SMALL, weights=saved(wrong, tmp_path / "a.pth"))
    message = str(info.value)
    assert "missing: features.0.weight\n" in message
    assert "unexpected: extra.weight\n" in message
    assert "of another shape: classifier.1.bias (7,) instead of (1000,)" in message


def test_many_wrong_names_are_counted(tensors, tmp_path):
    path = saved({"one": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=rf"missing: .* and {len(tensors) - 4} more"):
        load_backbone(SMALL, weights=path)


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_a_file_with_code_in_it_is_refused_and_the_code_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = saved({"features.0.weight": Malicious()}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="not a file of plain tensors"):
        load_backbone(SMALL, weights=path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [([1, 2], "no dictionary of tensors"), ({"epoch": 3}, "no dictionary of tensors")],
)
def test_a_file_of_something_else_is_refused(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_backbone(SMALL, weights=saved(content, tmp_path / "a.pth"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file '.*none.pth'"):
        load_backbone(SMALL, weights=tmp_path / "none.pth")


def test_loading_weights_leaves_the_global_generators_alone(registry, tensors, tmp_path):
    path = saved(tensors, tmp_path / "a.pth")
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    load_backbone("efficientnet_lite0")
    load_backbone(SMALL, weights=path)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_weights_of_another_precision_are_brought_to_the_network_s(dtype, tmp_path):
    module = load_backbone("efficientnet_lite0").module
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in module.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    loaded = load_backbone("efficientnet_lite0", weights=tmp_path / "weights.pth")
    assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:weights=None")
@pytest.mark.parametrize("name", ["efficientnet_lite0", "squeezenet1_1", "timm:test_resnet"])
def test_a_file_with_another_number_of_classes_is_a_network_of_that_many(name, tmp_path):
    state = load_backbone(name, weights=None).module.state_dict()
    last = [key for key in state if state[key].shape[:1] == (1000,)]
    torch.save(state | {key: state[key][:7].clone() for key in last}, tmp_path / "seven.pth")
    backbone = load_backbone(name, weights=tmp_path / "seven.pth")
    assert backbone.classes == tuple("0123456")
    image = [np.random.default_rng(0).random((64, 64, 3))]
    whole = PretrainedFeatureExtractor(backbone, layer=-1).fit_transform(image)
    assert whole.shape == (1, 7)
    random = PretrainedFeatureExtractor(name, weights=None).fit_transform(image)
    assert_allclose(PretrainedFeatureExtractor(backbone).fit_transform(image), random, rtol=1e-5)
    assert pickle.loads(pickle.dumps(backbone)).fingerprint == backbone.fingerprint


@pytest.mark.filterwarnings("ignore:weights=None")
def test_other_shapes_beside_the_last_layer_are_an_error(tmp_path):
    state = load_backbone("squeezenet1_1", weights=None).module.state_dict()
    names = ["classifier.1.bias", "features.0.bias"]
    torch.save(state | {name: state[name][:7].clone() for name in names}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"of another shape: .*features\.0\.bias"):
        load_backbone("squeezenet1_1", weights=tmp_path / "w.pth")
