import io
import logging
import os
import pickle
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from sktransfer import (
    FineTunedClassifier,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    list_layers,
    load_backbone,
)
from sktransfer.engines import ENGINES, quiet, retry_with_plain_attention
from sktransfer.engines.exported import Conversions, ExportedEngine
from sktransfer.features import FeatureStore, Output, compute_outputs, store_key
from tests.backbones.q4_support import write_q4
from tests.support import (
    TINY_SIZE,
    Vectors,
    enliven,
    images,
    make_engine,
    random_backbone,
    require_openvino,
    tiny_backbone,
    tiny_swin,
    tiny_vit,
)

CPU = torch.device("cpu")
ARCHITECTURES = [
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "swin_t",
    "swin_v2_t",
    "vgg11",
    "vit_b_16",
]


class Stored(ExportedEngine):
    """A runtime that runs what torch exports, and counts its conversions."""

    runtime = "stored"
    n_conversions = 0
    factor = 1.0

    def convert(self, program):
        type(self).n_conversions += 1
        torch.export.save(program, file := io.BytesIO())
        return {"network.pt2": file.getvalue()}

    def load(self, files):
        module = torch.export.load(io.BytesIO(files["network.pt2"])).module()
        factor = self.factor

        def run(batch):
            with torch.no_grad():
                return [factor * output.numpy() for output in module(torch.from_numpy(batch))]

        return run


@pytest.fixture
def stored(monkeypatch):
    class Fresh(Stored):
        pass

    monkeypatch.setitem(ENGINES, "stored", Fresh)
    return Fresh


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def engine_of(backbone, *layers, conversions=None, **settings):
    layers = layers or (list_layers(backbone)[-2],)
    return make_engine(backbone, layers, runtime="stored", conversions=conversions, **settings)


# the exported network


def test_one_conversion_serves_every_size_of_batch(stored):
    made, x = engine_of(tiny_backbone(), "2", "5"), noise(7, 3, 16, 16)
    expected = make_engine(tiny_backbone(), ("2", "5")).run(x)
    for size in (1, 2, 7):
        found = made.run(x, size)
        for layer in ("2", "5"):
            np.testing.assert_allclose(found[layer], expected[layer], rtol=1e-4, atol=1e-6)
    assert stored.n_conversions == 1


def test_images_of_another_size_are_another_conversion(stored):
    made = engine_of(tiny_backbone(), "2")
    made.run(noise(2, 3, 16, 16))
    made.run(noise(2, 3, 20, 20))
    made.run(noise(2, 3, 16, 16))
    assert stored.n_conversions == 2


def test_the_users_pooling_is_applied_to_the_output(stored):
    def corner(activation):
        return activation[:, :, 0, 0].numpy()  # NumPy cannot be exported

    x = noise(3, 3, 16, 16)
    pooling = ("max", corner)
    found = engine_of(tiny_backbone(), "2", pooling=pooling).run(x)["2"]
    expected = make_engine(tiny_backbone(), ("2",), pooling).run(x)["2"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_several_outputs_are_one_conversion(stored, tmp_path):
    backbone, X = tiny_backbone(), images(3)
    outputs = [Output(backbone, *what) for what in (("2", "avg"), ("2", "max"), ("4", "avg"))]
    converted, plain = compute_outputs(X, outputs, engine="stored"), compute_outputs(X, outputs)
    for found, expected in zip(converted, plain, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert stored.n_conversions == 1


def test_whole_activations_are_outputs_too(stored):
    x = noise(3, 3, 16, 16)
    found = engine_of(tiny_backbone(), "2", "4", whole=("2",)).run(x)
    expected = make_engine(tiny_backbone(), ("2", "4"), whole=("2",)).run(x)
    assert found.keys() == expected.keys()
    for key, rows in expected.items():
        np.testing.assert_allclose(found[key], rows, rtol=1e-4, atol=1e-6)


def test_the_batch_is_as_large_as_with_torch(stored):
    backbone, x = tiny_backbone(), noise(3, 400, 400)
    made = engine_of(backbone, "2")
    assert made.batch_size(x) == make_engine(backbone, ("2",)).batch_size(x)


# what is refused


class Branch(nn.Module):
    def forward(self, x):
        return 2 * x if x.sum() > 0 else x


def test_a_stage_that_cannot_be_exported_is_named_with_the_reason(stored):
    module = nn.Sequential(nn.Linear(5, 4), Branch(), nn.Linear(4, 2))
    backbone = load_backbone(module, name="mine", modality="array")
    with pytest.raises(
        ValueError, match=r"'stored' cannot run backbone 'mine': stage '1' .*data-dependent"
    ):
        engine_of(backbone, "2").run(noise(3, 5))
    found = engine_of(backbone, "0").run(noise(3, 5))["0"]  # the stage is not needed here
    assert found.shape == (3, 4)


def test_other_features_are_an_error_and_not_a_fallback(stored):
    stored.factor = 1.01
    made = engine_of(tiny_backbone(), "2")
    with pytest.raises(RuntimeError, match=r"gives other features for backbone .* of 0\.01"):
        made.run(noise(3, 3, 16, 16))


@pytest.mark.slow
def test_another_precision_may_differ_by_a_stated_bound(stored):
    stored.factor = 1.01
    made = engine_of(tiny_backbone(), "2", precision="bfloat16")
    assert made.run(noise(3, 3, 16, 16))["2"].shape == (3, 8)
    stored.factor = 1.5
    made = engine_of(tiny_backbone(1), "2", precision="bfloat16")
    with pytest.raises(RuntimeError, match=r"where 0\.2 is allowed in bfloat16"):
        made.run(noise(3, 3, 16, 16))


def test_a_table_of_words_is_refused(stored):
    backbone = load_backbone("word-vectors", weights=(["a", "b"], np.eye(2, 3, dtype=np.float32)))
    with pytest.raises(ValueError, match="stage 'embedding' looks up vectors in a table"):
        engine_of(backbone, "embedding")


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_device_other_than_the_cpu_is_refused(engine):
    with pytest.raises(ValueError, match=f"engine='{engine}' runs on the CPU only"):
        ENGINES[engine].check(torch.device("meta"), "float32")


@pytest.mark.parametrize(
    ("engine", "package", "extra"),
    [("openvino", "openvino", "openvino"), ("onnxruntime", "onnxscript", "onnx")],
)
def test_a_missing_package_is_named_in_fit(engine, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    model = PretrainedFeatureExtractor(tiny_backbone(), engine=engine)
    with pytest.raises(ImportError, match=rf"{package}: pip install 'sktransfer\[{extra}\]'"):
        model.fit(images(2))


# on disk


@pytest.mark.slow
def test_a_converted_network_is_read_from_disk(stored, tmp_path):
    x, folder = noise(3, 3, 16, 16), tmp_path / "converted"
    first = engine_of(tiny_backbone(), "2", conversions=folder).run(x)
    again = engine_of(tiny_backbone(), "2", conversions=folder).run(x)
    assert stored.n_conversions == 1
    np.testing.assert_array_equal(again["2"], first["2"])
    engine_of(tiny_backbone(1), "2", conversions=folder).run(x)  # other weights
    engine_of(tiny_backbone(), "2", "4", conversions=folder).run(x)
    engine_of(tiny_backbone(), "2", pooling="max", conversions=folder).run(x)
    assert stored.n_conversions == 4


@pytest.mark.slow
def test_a_damaged_file_is_converted_again(stored, tmp_path):
    x = noise(3, 3, 16, 16)
    first = engine_of(tiny_backbone(), "2", conversions=tmp_path).run(x)
    (file,) = tmp_path.glob("*/network.pt2")
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    damages = {
        "flip": lambda: file.write_bytes(flipped),
        "cut": lambda: file.write_bytes(whole[:100]),
        "no checksum": lambda: (file.parent / "checksum").unlink(),
        "no file": file.unlink,
    }
    for n_damaged, (name, damage) in enumerate(damages.items(), 1):
        damage()
        again = engine_of(tiny_backbone(), "2", conversions=tmp_path).run(x)
        np.testing.assert_array_equal(again["2"], first["2"], err_msg=name)
        assert stored.n_conversions == 1 + n_damaged, name
    engine_of(tiny_backbone(), "2", conversions=tmp_path).run(x)
    assert stored.n_conversions == 5


def test_a_place_that_cannot_be_written_is_a_warning(stored, tmp_path):
    (tmp_path / "file").write_text("no folder")
    made = engine_of(tiny_backbone(), "2", conversions=tmp_path / "file")
    with pytest.warns(UserWarning, match="cannot be written and will be converted again"):
        assert made.run(noise(3, 3, 16, 16))["2"].shape == (3, 8)


def test_the_conversions_used_last_are_kept(tmp_path):
    kept = Conversions(tmp_path)
    for i in range(20):
        kept.write(str(i), {"a": b"1"})
        if i:
            assert kept.read("0") == {"a": b"1"}
    assert len(list(tmp_path.iterdir())) == 16
    assert kept.read("1") is None


# through estimators


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda **kw: PretrainedFeatureExtractor(tiny_backbone(), layer=["2", "4"], **kw),
        lambda **kw: PretrainedClassifier(tiny_backbone(), **kw),
        lambda **kw: FineTunedClassifier(tiny_backbone(), max_epochs=1, random_state=0, **kw),
        lambda **kw: FineTunedClassifier(
            tiny_backbone(), trainable="1", max_epochs=1, random_state=0, **kw
        ),
    ],
)
def test_every_estimator_runs_on_it_and_says_so(make, stored, monkeypatch, tmp_path):
    monkeypatch.setitem(
        PretrainedFeatureExtractor._parameter_constraints, "engine", [str]
    )  # the shared list of names is made at import
    for owner in (PretrainedClassifier, FineTunedClassifier):
        monkeypatch.setitem(owner._parameter_constraints, "engine", [str])
    X, y = images(6), list("aabbab")
    predict = "transform" if hasattr(make(), "transform") else "predict_proba"
    expected = getattr(make().fit(X, y), predict)(X)
    model = make(engine="stored", memory=tmp_path).fit(X, y)
    found = getattr(model, predict)(X)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert model.execution_ == {
        "engine": "stored",
        "device": "cpu",
        "precision": "float32",
        "layout": "runtime",
        "batch_size": 4,
    }
    assert make().fit(X, y).execution_["engine"] == "torch"
    assert stored.n_conversions == 1
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(getattr(again, predict)(X), found)
    assert clone(model).engine == "stored"


def test_in_float32_runtimes_share_the_entries_of_the_store(stored):
    output, low = Output(tiny_backbone(), "2"), {"precision": "bfloat16"}
    assert store_key(output, engine="stored") == store_key(output, engine="torch")
    assert store_key(output, engine="torch") == store_key(output)
    assert store_key(output, engine="stored", **low) != store_key(output, **low)
    assert store_key(output, engine="torch", **low) == store_key(output, **low)


def test_nothing_is_converted_for_samples_in_the_store(stored, tmp_path, monkeypatch):
    monkeypatch.setitem(PretrainedFeatureExtractor._parameter_constraints, "engine", [str])
    store, X = FeatureStore(tmp_path), images(3)
    expected = PretrainedFeatureExtractor(tiny_backbone(), memory=store).fit(X).transform(X)
    model = PretrainedFeatureExtractor(tiny_backbone(), engine="stored", memory=store)
    np.testing.assert_array_equal(model.fit(X).transform(X), expected)
    assert stored.n_conversions == 0


# real runtimes


@pytest.fixture(params=["openvino", "onnxruntime"])
def runtime(request):
    return request.param


def test_vectors_images_and_settings_are_those_of_torch(runtime, tmp_path):
    rows = np.random.default_rng(0).normal(size=(7, 60)).astype(np.float32)
    model = PretrainedFeatureExtractor(Vectors(), engine=runtime, memory=tmp_path).fit(rows)
    expected = PretrainedFeatureExtractor(Vectors()).fit(rows).transform(rows)
    np.testing.assert_allclose(model.transform(rows), expected, rtol=1e-4, atol=1e-5)
    assert len(list((tmp_path / "converted").iterdir())) == 1


def _equal_to_torch(backbone, runtime):
    enliven(backbone.module)
    names = list_layers(backbone)
    layers = tuple(dict.fromkeys([names[len(names) // 3], *names[-2:]]))
    x, poolings = noise(3, *backbone.input_shape), ("avg", "max")
    expected = make_engine(backbone, layers, poolings).run(x)
    found = make_engine(backbone, layers, poolings, runtime=runtime).run(x, 2)
    for layer, rows in expected.items():
        assert np.linalg.norm(found[layer] - rows) <= 1e-4 * np.linalg.norm(rows), layer


def shallow_vit():
    """A transformer of one block, which has the operators of all."""
    module = tiny_vit()
    del module.encoder.layers[1:]
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [shallow_vit, *(pytest.param(b, marks=pytest.mark.sweep) for b in (tiny_vit, tiny_swin))],
)
def test_transformers_are_those_of_torch(build, runtime):
    _equal_to_torch(load_backbone(build(), preprocess=TINY_SIZE), runtime)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_are_those_of_torch(name, runtime):
    _equal_to_torch(random_backbone(name), runtime)


def _texts_are_those_of_torch(network, layer, runtime, texts, longer):
    """Compare texts with those of torch; ``longer`` ones come after the first conversion."""
    settings = {"layer": layer, "pooling": "avg" if layer is None else ["max", "cls"]}
    expected = PretrainedFeatureExtractor(network, **settings).fit(texts).transform(texts)
    model = PretrainedFeatureExtractor(network, engine=runtime, **settings).fit(texts)
    np.testing.assert_allclose(model.transform(texts), expected, rtol=1e-3, atol=1e-4)
    found = model.transform([longer, *texts])
    np.testing.assert_allclose(found[1:], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_texts_of_any_length(runtime, tmp_path):
    network = load_backbone("e5_small", weights=write_q4(tmp_path / "small.bin"))
    texts = ["the good film", "", "a bad", "the film the good film"]
    _texts_are_those_of_torch(network, "layer.0", runtime, texts, "the good film " * 3)


@pytest.mark.sweep
@pytest.mark.parametrize("layer", [None, "layer.0", ["layer.0", "layer.5"]])
def test_texts_of_any_length_by_a_published_network(layer, runtime):
    pytest.importorskip("transformers")
    texts = ["a cat", "the quick brown fox jumps over the lazy dog " * 4, "", "one"]
    _texts_are_those_of_torch("minilm_l6_v2", layer, runtime, texts, "word " * 90)


def _global_settings():
    root = logging.getLogger()
    filters = list(warnings.filters)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    of_torch = torch.get_num_threads(), torch.is_grad_enabled()
    return of_torch, cores, dict(os.environ), root.level, list(root.handlers), filters


@pytest.mark.slow
def test_threads_get_their_own_rows_and_no_global_setting_is_changed(runtime):
    before = _global_settings()
    backbone = load_backbone(tiny_backbone().module, preprocess=TINY_SIZE)
    made, x = make_engine(backbone, ("2",), runtime=runtime), noise(24, 3, 16, 16)
    expected = make_engine(backbone, ("2",)).run(x)["2"]

    def run(i):
        return made.run(x[i % 8 : i % 8 + 1 + i % 5], 1 + i % 3)["2"]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(run, range(64)))
    for i, rows in enumerate(found):
        np.testing.assert_allclose(rows, expected[i % 8 : i % 8 + 1 + i % 5], rtol=1e-4, atol=1e-5)
    assert _global_settings() == before


class ConvolvedBranch(nn.Module):
    """Of random weights, one in two hundred takes another branch for two samples, and warns."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        x = self.conv(x)
        return (x + 1 if x.sum() > 0 else x).mean((2, 3))


def test_a_conversion_that_fails_is_one_error_and_prints_nothing(capfd):
    require_openvino()
    torch.manual_seed(0)  # a batch of two must take the branch that one sample takes
    backbone = load_backbone(ConvolvedBranch(), preprocess=TINY_SIZE)
    model = PretrainedFeatureExtractor(backbone, layer=-1, engine="openvino").fit(images(2))
    with pytest.raises(ValueError, match="cannot be converted"):
        model.transform(images(2))
    assert capfd.readouterr().err == ""


def test_the_error_of_a_conversion_has_its_cause_and_no_escape_codes():
    pytest.importorskip("onnxruntime")
    model = PretrainedFeatureExtractor(WithoutOperator(), engine="onnxruntime").fit(np.eye(4))
    with pytest.raises(ValueError, match=r"cannot be converted \(.*igamma") as caught:
        model.transform(np.eye(4))
    assert "\x1b" not in str(caught.value)


class WithoutOperator(nn.Module):
    def forward(self, x):
        return torch.special.gammainc(x + 1, x + 2)


def test_other_threads_write_and_log(capsys, monkeypatch):
    monkeypatch.delenv("TORCH_LOGS", raising=False)
    heard = []
    handler = logging.Handler()
    handler.emit = heard.append
    logger = logging.getLogger("torch.fx")
    logger.addHandler(handler)

    def speak():
        print("printed", file=sys.stderr)
        logging.getLogger("torch.fx").warning("logged")

    try:
        stream = sys.stderr
        with quiet():
            speak()
            thread = threading.Thread(target=speak)
            thread.start()
            thread.join()
        assert sys.stderr is stream
    finally:
        logger.removeHandler(handler)
    assert capsys.readouterr().err.count("printed") == 1
    assert [record.getMessage() for record in heard] == ["logged"]
    assert not handler.filters


def test_threads_that_are_quiet_at_once_print_nothing_and_restore_the_stream(capsys, monkeypatch):
    monkeypatch.delenv("TORCH_LOGS", raising=False)
    stream, has_entered, may_leave = sys.stderr, threading.Event(), threading.Event()

    def speak():
        with quiet():
            has_entered.set()
            may_leave.wait(10)
            print("printed", file=sys.stderr)

    thread = threading.Thread(target=speak)
    with quiet():
        thread.start()
        has_entered.wait(10)
    may_leave.set()
    thread.join()
    assert sys.stderr is stream
    assert capsys.readouterr().err == ""


def test_an_error_restores_the_stream_and_logs_that_are_asked_for_are_kept(monkeypatch, capsys):
    stream = sys.stderr
    with pytest.raises(KeyError), quiet():
        raise KeyError
    assert sys.stderr is stream
    monkeypatch.setenv("TORCH_LOGS", "export")
    with quiet():
        print("kept", file=sys.stderr)
    assert capsys.readouterr().err == "kept\n"


# -- attention ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": torch.arange(20).reshape(4, 5) % 3 > 0},
        {"attn_mask": torch.linspace(-1, 1, 20).reshape(4, 5)},
        {"enable_gqa": True},
    ],
    ids=lambda settings: " ".join(settings),
)
def test_attention_of_the_second_attempt_is_that_of_torch(settings):
    generator = torch.Generator().manual_seed(0)
    n_heads = 1 if "enable_gqa" in settings else 2
    query = torch.randn(3, 2, 4, 8, generator=generator)
    key, value = torch.randn(2, 3, n_heads, 5, 8, generator=generator)
    attend, attempts = Attention(key, value, settings), []

    def convert():
        attempts.append(None)
        if len(attempts) == 1:
            raise ValueError("a view of another layout")
        return attend(query)

    found = retry_with_plain_attention(convert, attend, (query,))
    assert len(attempts) == 2
    torch.testing.assert_close(found, attend(query), rtol=1e-5, atol=1e-6)


class Attention(nn.Module):
    """Attention of any queries to the same keys and values."""

    def __init__(self, key, value, settings):
        super().__init__()
        self.key, self.value, self.settings = key, value, settings

    def forward(self, query):
        return nn.functional.scaled_dot_product_attention(
            query, self.key, self.value, **self.settings
        )


SAMPLE = torch.ones(1, 4, 8)


@pytest.mark.parametrize(
    ("module", "has_attention"),
    [
        (Attention(SAMPLE, SAMPLE, {}), True),
        (nn.TransformerEncoderLayer(8, 2, batch_first=True).eval(), True),
        (nn.ReLU(), False),
    ],
)
def test_the_error_of_the_first_attempt_is_told_and_there_is_a_second_for_attention_alone(
    module, has_attention
):
    messages = ["second", "first"]

    def fail():
        raise ValueError(messages.pop())

    with pytest.raises(ValueError, match="first"):
        retry_with_plain_attention(fail, module, (SAMPLE,))
    assert messages == ([] if has_attention else ["second"])
