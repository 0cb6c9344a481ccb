import logging
import pickle
import tracemalloc

import joblib
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from torch import nn

from sktransfer import (
    FeatureStore,
    FineTunedClassifier,
    ImagePreprocessing,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    UnreadableSamplesError,
    list_layers,
    load_backbone,
    load_word_vectors,
)
from sktransfer.features import Output, compute_outputs
from sktransfer.features import compute as compute_module
from sktransfer.features.compute import FirstPositions, Loader
from tests.support import TINY_SIZE, NotedImages, TinyNet, Vectors, images, tiny_backbone

LITE = "efficientnet_lite0"


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "store")


def compute(samples, backbone=None, layers=("4",), pooling="avg", precision="float32", **how):
    backbone = backbone or tiny_backbone()
    outputs = [Output(backbone, layer, pooling) for layer in layers]
    tables = compute_outputs(samples, outputs, precision=precision, **how)
    return dict(zip(layers, tables, strict=True))


def plain(samples, backbone):
    """The features of TinyNet's penultimate layer, computed by hand."""
    x = torch.stack([TINY_SIZE(image) for image in samples])
    with torch.inference_mode():
        return nn.Sequential(*list(backbone.module)[:5])(x).numpy()


# values


def test_features_are_what_the_network_computes():
    backbone, X = tiny_backbone(), images(5)
    tables = compute(X, backbone, layers=["4"])
    assert tables["4"].dtype == np.float32
    np.testing.assert_allclose(tables["4"], plain(X, backbone), rtol=1e-5, atol=1e-6)


def test_several_layers_come_as_several_tables():
    tables = compute(images(5), layers=["5", "2"])
    assert {layer: table.shape for layer, table in tables.items()} == {"5": (5, 3), "2": (5, 8)}


def test_samples_of_a_backbone_without_preprocessing_reach_it_as_they_are():
    X = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    backbone = load_backbone(Vectors())
    with torch.inference_mode():
        wanted = backbone.module(torch.from_numpy(X))
    layer = PretrainedFeatureExtractor(backbone, layer=-1).fit(X).layers_[0]
    np.testing.assert_allclose(compute(X, backbone, [layer])[layer], wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(backbone.open(X[2]), torch.from_numpy(X[2]))


def test_more_samples_than_one_chunk_keep_their_order(counted):
    X = images(300, (4, 4))
    backbone = tiny_backbone()
    features = compute(X, backbone)["4"]
    assert counted == [128, 128, 44]
    np.testing.assert_allclose(features, plain(X, backbone), rtol=1e-5, atol=1e-6)


def distance(found, expected):
    """The largest relative L2 distance of a row."""
    norms = np.linalg.norm(found - expected, axis=1)
    return np.max(norms / np.linalg.norm(expected, axis=1))


# a sample's features depend on that sample alone, to float32 rounding


@pytest.mark.parametrize("batch_size", [1, 4, "auto"])
def test_a_samples_features_do_not_depend_on_its_company(batch_size):
    X = images(6, (40, 36))
    extractor = PretrainedFeatureExtractor(LITE, image_size=32, batch_size=batch_size).fit(X)
    features = extractor.transform(X)
    assert distance(np.vstack([extractor.transform([image]) for image in X]), features) < 1e-5
    order = np.random.default_rng(0).permutation(6)
    assert distance(extractor.transform([X[i] for i in order]), features[order]) < 1e-5


@pytest.mark.slow
def test_a_samples_features_do_not_depend_on_its_company_with_threads(use_threads):
    use_threads(2)
    X = images(5, (40, 36))
    extractor = PretrainedFeatureExtractor(LITE, image_size=32).fit(X)
    features = extractor.transform(X)
    assert distance(np.vstack([extractor.transform([x]) for x in X]), features) < 1e-5
    assert distance(extractor.transform(X[::-1])[::-1], features) < 1e-5


def test_features_hardly_depend_on_the_batch_size():
    X = images(7, (40, 36))
    extractor = PretrainedFeatureExtractor(LITE, image_size=32, batch_size=1).fit(X)
    first = extractor.transform(X)
    for batch_size in (2, 5, 16):
        other = extractor.set_params(batch_size=batch_size).transform(X)
        assert distance(other, first) < 1e-5


def test_features_are_the_same_bits_each_time_and_after_other_calls():
    X = images(5)
    extractor = PretrainedFeatureExtractor(tiny_backbone()).fit(X)
    first = extractor.transform(X)
    extractor.transform(images(9, seed=1))
    PretrainedFeatureExtractor(extractor.backbone, layer=1, pooling="max").fit_transform(X)
    assert np.array_equal(extractor.transform(X), first)


def test_opening_in_threads_changes_nothing():
    X = images(9)
    assert np.array_equal(compute(X)["4"], compute(X, n_jobs=2)["4"])


# each distinct sample once


def test_equal_samples_are_computed_once_and_scattered_back(counted):
    distinct = images(4)
    order = [2, 0, 2, 3, 1, 1, 2, 0]
    features = compute([distinct[i] for i in order])["4"]
    assert sum(counted) == 4
    assert np.array_equal(features, compute(distinct)["4"][order])


def test_a_file_and_its_copy_are_one_sample(counted, tmp_path):
    Image.fromarray(images(1)[0]).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    features = compute([tmp_path / "a.png", str(tmp_path / "b.png"), images(1)[0]])["4"]
    assert sum(counted) == 2  # a file is told by its bytes, an array by its pixels
    assert np.array_equal(features[0], features[1])
    np.testing.assert_array_equal(features[0], features[2])


# through the store


def test_what_is_stored_is_not_computed_again(counted, store):
    X = images(6)
    first = compute(X[:4], store=store)["4"]
    second = compute(X, store=store)["4"]
    assert counted == [4, 2]
    assert np.array_equal(second[:4], first)
    assert np.array_equal(second, compute(X)["4"])


def test_another_process_finds_what_is_stored(counted, store):
    compute(images(4), store=store)
    copy = pickle.loads(pickle.dumps(store))
    compute(images(4), backbone=pickle.loads(pickle.dumps(tiny_backbone())), store=copy)
    assert counted == [4]


def test_layers_are_stored_one_by_one(counted, store):
    X = images(4)
    compute(X, layers=["2", "4"], store=store)
    compute(X, layers=["4"], store=store)
    compute(X, layers=["2"], store=store)
    assert counted == [4]
    compute(X, layers=["2", "5"], store=store)
    assert counted == [4, 4]


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": tiny_backbone(1)},
        {"layers": ["2"]},
        {"pooling": "max"},
        {"precision": "bfloat16"},
        {"backbone": load_backbone(tiny_backbone(), image_size=20)},
    ],
)
def test_whatever_decides_a_value_is_another_entry(change, counted, store):
    X = images(4)
    compute(X, store=store)
    changed = compute(X, store=store, **change)
    assert counted == [4, 4]
    assert len(store) == 8
    fresh = compute(X, **change)
    assert all(np.array_equal(changed[layer], table) for layer, table in fresh.items())


@pytest.mark.parametrize("change", [{"batch_size": 2}, {"n_jobs": 2}, {"device": "cpu"}])
def test_how_a_value_is_computed_is_not_part_of_its_entry(change, counted, store):
    compute(images(4), store=store)
    compute(images(4), store=store, **change)
    assert counted == [4]


def test_a_damaged_entry_is_computed_again(counted, store):
    X = images(4)
    first = compute(X, store=store)["4"]
    (path,) = (path for path in store.path.rglob("*") if path.is_file())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # in the last row
    path.write_bytes(content)
    assert distance(compute(X, store=store)["4"], first) < 1e-5
    compute(X, store=store)
    assert counted == [4, 1]


def mean_of_first_row(x):
    return x[:, :, 0].mean(2)


def test_a_function_as_pooling_is_stored_under_its_code(counted, store):
    for _ in range(2):
        compute(images(4), layers=["2"], pooling=mean_of_first_row, store=store)
    assert counted == [4]


def test_two_lambdas_never_share_an_entry(store):
    X = images(4)
    for pooling in (lambda x: x.mean((2, 3)), lambda x: x.amax((2, 3))):
        stored = compute(X, layers=["2"], pooling=pooling, store=store)["2"]
        assert np.array_equal(stored, compute(X, layers=["2"], pooling=pooling)["2"])
    first, second = [lambda x: x.mean((2, 3)), lambda x: x.amax((2, 3))]
    stored = [compute(X, layers=["2"], pooling=p, store=store)["2"] for p in (first, second)]
    assert not np.array_equal(*stored)


def test_a_pooling_that_cannot_be_told_apart_is_refused_with_a_store_only(store):
    table = torch.eye(2).to_sparse()

    def pooling(x):
        return x.mean((2, 3)) * table.shape[0]

    assert compute(images(2), layers=["2"], pooling=pooling)["2"].shape == (2, 8)
    with pytest.raises(ValueError, match="cannot be part of a cache key"):
        compute(images(2), layers=["2"], pooling=pooling, store=store)


def test_a_grid_search_runs_each_image_once(counted, tmp_path):
    X, y = images(20, (40, 40)), np.arange(20) % 2
    extractor = PretrainedFeatureExtractor(image_size=32, memory=tmp_path)
    pipeline = make_pipeline(extractor, LogisticRegression())
    search = GridSearchCV(pipeline, {"logisticregression__C": [0.01, 1]}, cv=5)
    search.fit(X, y)
    assert sum(counted) == 20
    search.predict(X)
    assert sum(counted) == 20


@pytest.mark.parametrize("given", [str, FeatureStore, joblib.Memory])
def test_every_kind_of_memory_serves_a_grid_search(given, counted, tmp_path):
    X, y = images(10), np.arange(10) % 2
    extractor = PretrainedFeatureExtractor(tiny_backbone(), memory=given(tmp_path))
    pipeline = make_pipeline(extractor, LogisticRegression())
    GridSearchCV(pipeline, {"logisticregression__C": [1, 10]}, cv=2).fit(X, y)
    assert sum(counted) == 10


def test_without_memory_a_grid_search_runs_each_image_for_every_fit_and_score(counted):
    X, y = images(10), np.arange(10) % 2
    pipeline = make_pipeline(PretrainedFeatureExtractor(tiny_backbone()), LogisticRegression())
    GridSearchCV(pipeline, {"logisticregression__C": [1, 10]}, cv=2).fit(X, y)
    assert sum(counted) == 2 * 2 * (5 + 5) + 10


def test_one_computation_is_one_entry_whichever_estimator_asks(counted, store):
    backbone, X = tiny_backbone(), images(6)
    PretrainedFeatureExtractor(backbone, layer=[-1, None], memory=store).fit_transform(X)
    assert (sum(counted), len(store)) == (6, 12)
    PretrainedClassifier(backbone, memory=store).fit(X).predict(X)
    FineTunedClassifier(backbone, trainable="head", max_epochs=1, memory=store).fit(X, [0, 1] * 3)
    compute(X, backbone, pooling="avg", store=store)
    assert len(store) == 12
    assert sum(counted) == 6 + 6  # maps without pooling are another output


def test_features_that_cannot_be_stored_are_returned_with_one_warning(small_disk):
    X = np.random.default_rng(0).normal(size=(2000, 9)).astype(np.float32)
    backbone = load_backbone(Vectors(50))
    extractor = PretrainedFeatureExtractor(backbone, layer=-1, memory=small_disk / "store")
    with pytest.warns(
        UserWarning, match="cannot be written to the store .* No space left"
    ) as caught:
        features = extractor.fit_transform(X)
    assert [warning.category for warning in caught].count(UserWarning) == 1
    expected = PretrainedFeatureExtractor(backbone, layer=-1).fit_transform(X)
    np.testing.assert_array_equal(features, expected)


class Meanwhile:
    """A preprocessing that calls a function once before it; its digest does not change."""

    content_digest = "meanwhile"

    def __init__(self):
        self.action = None

    def __call__(self, image):
        action, self.action = self.action, None
        if action is not None:
            action()
        return TINY_SIZE(np.array(image))


def test_a_file_replaced_after_its_digest_is_stored_with_the_right_digest(store, tmp_path):
    for name, image in zip("abc", images(3), strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    first, second, other = (tmp_path / f"{name}.png" for name in "abc")
    original = second.read_bytes()
    preprocess = Meanwhile()
    backbone = load_backbone(TinyNet(), preprocess=preprocess, classes=["a", "b", "c"])
    extractor = PretrainedFeatureExtractor(backbone, memory=store).fit([first])
    preprocess.action = lambda: second.write_bytes(other.read_bytes())
    extractor.transform([first, second])
    assert second.read_bytes() != original
    second.write_bytes(original)
    expected = PretrainedFeatureExtractor(backbone).fit([first]).transform([second])
    assert distance(extractor.transform([second]), expected) < 1e-5


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_an_error_that_does_not_occur_again_keeps_its_cause(n_jobs):
    def fail():
        raise OSError(5, "Input/output error")

    preprocess = Meanwhile()
    backbone = load_backbone(TinyNet(), preprocess=preprocess)
    X = images(6)
    extractor = PretrainedFeatureExtractor(backbone, n_jobs=n_jobs).fit(X)
    preprocess.action = fail
    with pytest.raises(UnreadableSamplesError, match=r"1 sample .*\n.*Input/output error") as info:
        extractor.transform(X)
    assert isinstance(info.value.__cause__, OSError)
    assert len(info.value.problems) == 1


def test_files_are_in_memory_a_few_at_a_time(tmp_path, monkeypatch):
    paths = []
    for i, image in enumerate(images(9)):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(paths[-1])
    expected = compute(paths)["4"]
    limit = 2 * paths[0].stat().st_size
    monkeypatch.setattr(compute_module, "_BYTES_READ", limit)
    np.testing.assert_allclose(compute([*paths, paths[0]])["4"], [*expected, expected[0]], 1e-5)
    with Loader(0) as loader:
        chunks = list(compute_module.read_chunks(paths, tiny_backbone().modality, loader, False))
    assert sum(map(len, chunks)) == 9
    assert max(map(len, chunks)) <= 3


# several outputs in one pass over the samples


def centre(x):
    return x[:, :, 1:3, 1:3].mean((2, 3))


def several(backbone):
    """Outputs of three input sizes, with several layers and poolings."""
    small, large = backbone.with_image_size(12), backbone.with_image_size(24)
    return [
        Output(backbone, "4"),
        Output(small, "4", "max"),
        Output(backbone, "2"),
        Output(large, "2", ("avg", "max")),
        Output(small, "2", centre),
        Output(small, "1", centre),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "with_store"), [({}, False), ({"n_jobs": 2}, True), ({"batch_size": 3}, True)]
)
def test_several_outputs_are_what_each_is_alone(settings, with_store, store):
    X = images(7)
    X.insert(3, X[0])
    outputs = several(tiny_backbone())
    alone = [compute_outputs(X, [output])[0] for output in outputs]
    for _ in range(2):
        tables = compute_outputs(X, outputs, store=store if with_store else None, **settings)
        for table, expected in zip(tables, alone, strict=True):
            assert table.dtype == expected.dtype == np.float32
            np.testing.assert_allclose(table, expected, rtol=1e-5, atol=1e-6)


def test_several_outputs_open_a_sample_once_and_run_each_network_once(counted):
    noted = NotedImages()
    compute_outputs(images(5), several(tiny_backbone(modality=noted)))
    assert len(noted.opened) == 5
    assert counted == [5, 5, 5]  # three sizes


@pytest.mark.slow
def test_only_what_is_missing_is_opened_and_run(counted, store):
    X, noted = images(6), NotedImages()
    backbone = tiny_backbone(modality=noted)
    first, second, _, third, *_ = several(backbone)
    compute_outputs(X[:4], [first], store=store)
    compute_outputs(X[:2], [second], store=store)
    compute_outputs(X[:4], [third], store=store)
    noted.opened.clear(), counted.clear()
    compute_outputs(X, [first, second, third], store=store)
    assert len(noted.opened) == 4
    assert counted == [2, 4, 2]
    compute_outputs(X, [third, first, second], store=store)
    compute_outputs(X, [second], store=store)
    assert (len(noted.opened), len(counted)) == (4, 3)


def test_outputs_of_one_network_share_the_store_with_each_alone(counted, store):
    X, backbone = images(3), tiny_backbone()
    outputs = [Output(backbone, "4", pooling) for pooling in ("avg", "max")]
    compute_outputs(X, outputs, store=store)
    assert counted == [3]
    for output in outputs:
        compute_outputs(X, [output], store=store)
    assert counted == [3]


def test_what_is_put_aside_is_found_later_and_not_returned(counted, store):
    X, backbone = images(3), tiny_backbone()
    whole = Output(backbone, "2", "none")
    assert len(compute_outputs(X, [Output(backbone, "4")], aside=[whole], store=store)) == 1
    (kept,) = compute_outputs(X, [whole], store=store)
    assert counted == [3]
    np.testing.assert_array_equal(kept, compute_outputs(X, [whole])[0])


def test_several_networks_of_one_modality_may_be_given():
    X, noted = images(3), NotedImages()
    backbones = [tiny_backbone(seed, modality=noted) for seed in (0, 1)]
    tables = compute_outputs(X, [Output(backbone, "4") for backbone in backbones])
    assert len(noted.opened) == 3
    for table, backbone in zip(tables, backbones, strict=True):
        np.testing.assert_allclose(table, plain(X, backbone), rtol=1e-5, atol=1e-6)


def test_several_outputs_of_texts_are_what_each_is_alone():
    vectors = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    X, backbone = (
        ["a b", "c", "b a c", "d d d d d d d d d"],
        load_word_vectors((list("abcd"), vectors)),
    )
    (layer, *_) = list_layers(backbone)
    outputs = [Output(backbone, layer, pooling) for pooling in ("avg", "max")]
    for table, output in zip(compute_outputs(X, outputs), outputs, strict=True):
        np.testing.assert_allclose(table, compute_outputs(X, [output])[0], rtol=1e-5, atol=1e-6)


def test_a_sample_that_no_network_can_open_is_named_once():
    X = [*images(3), np.zeros(3)]
    with pytest.raises(UnreadableSamplesError, match=r"1 sample .*\n.*sample 3, ndarray") as info:
        compute_outputs(X, several(tiny_backbone()))
    assert len(info.value.problems) == 1


def test_a_pooling_without_a_hash_is_one_of_several():
    class Corner:
        __hash__ = None

        def __call__(self, x):
            return x[:, :, 0, 0]

    X, backbone = images(3), tiny_backbone()
    outputs = [Output(backbone, "2", pooling) for pooling in ("max", Corner())]
    for table, output in zip(compute_outputs(X, outputs), outputs, strict=True):
        np.testing.assert_allclose(table, compute_outputs(X, [output])[0], rtol=1e-5, atol=1e-6)


# samples that cannot be read


@pytest.mark.parametrize("n_jobs", [None, 2, "auto"])
@pytest.mark.parametrize("with_store", [False, True])
def test_every_unreadable_sample_is_named(n_jobs, with_store, tmp_path, store):
    files = []
    for i, image in enumerate(images(24)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        files.append(tmp_path / f"{i}.png")
    for i in range(0, 24, 2):
        files[i].write_bytes(b"")
    files[4].unlink()
    with pytest.raises(UnreadableSamplesError) as info:
        compute(files, n_jobs=n_jobs, store=store if with_store else None)
    message = str(info.value)
    assert message.startswith("12 samples could not be read")
    assert f"sample 2, {str(files[2])!r}: not an image (0 bytes)" in message
    assert f"sample 4, {str(files[4])!r}: [Errno 2] No such file" in message
    assert "sample 3," not in message
    assert [i for i, *_ in info.value.problems] == list(range(0, 24, 2))
    assert "sample 20," not in message
    assert "and at least" in message
    assert len(message) <= 500


def test_a_bad_sample_beyond_the_first_chunk_is_found_too():
    X = images(140, (4, 4))
    X[137] = np.full((4, 4), np.nan)
    with pytest.raises(UnreadableSamplesError, match=r"sample 137, ndarray \(4, 4\): contains NaN"):
        compute(X)


def test_readable_samples_are_computed_even_if_a_later_call_fails(counted, store):
    X = images(4)
    compute(X, store=store)
    with pytest.raises(UnreadableSamplesError):
        compute([*X, np.zeros(3)], store=store)
    counted.clear()
    compute(X, store=store)
    assert not counted


def test_preprocessing_of_several_shapes_is_explained():
    def as_it_is(image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255

    backbone = load_backbone(TinyNet(), preprocess=as_it_is)
    X = [images(1, (8, 8))[0], images(1, (9, 8))[0]]
    with pytest.raises(ValueError, match=r"different shapes, .*add a resize and a crop"):
        compute(X, backbone)


def test_an_error_of_the_network_is_not_taken_for_a_bad_sample():
    backbone = load_backbone(nn.Sequential(nn.Linear(4, 3), nn.Linear(5, 2)))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        compute(np.zeros((3, 4), np.float32), backbone, ["1"])


# progress


def test_a_bar_is_drawn_only_when_asked_for(capsys):
    compute(images(3))
    assert capsys.readouterr() == ("", "")
    compute(images(3), verbose=1)
    assert "tinynet features" in capsys.readouterr().err


def test_nothing_is_logged_or_seeded(caplog):
    caplog.set_level(logging.DEBUG)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    compute(images(3))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert not caplog.records


def test_of_a_very_thin_image_only_the_middle_is_resized():
    steps = ImagePreprocessing(36, 32, (0.0,) * 3, (1.0,) * 3)
    column = np.arange(400, dtype=np.float32)[:, None, None] / 400
    image = np.broadcast_to(column, (400, 2, 3))
    found, part = steps(image), steps(image[168:232])
    assert found.shape == (3, 32, 32) and torch.equal(found, part)
    assert abs(float(found.mean()) - 0.5) < 0.01
    huge = np.zeros((1, 200_000, 3), np.uint8)  # 13 GB, were it resized as a whole
    assert steps(huge).shape == (3, 32, 32)


# -- first positions -------------------------------------------------------------------------------


def firsts_of(keys, part=100):
    found, known = [], FirstPositions(len(keys))
    for start in range(0, len(keys), part):
        these = keys[start : start + part]
        found += known.find(these, range(start, start + len(these)))
    return found


def expected(keys):
    known: dict = {}
    return [known.setdefault(key, i) for i, key in enumerate(keys)]


def digests(n, n_distinct):
    drawn = np.random.default_rng(0).integers(0, n_distinct, n)
    return [i.tobytes() * 2 for i in drawn]


@pytest.mark.parametrize("recent", [7, 1000, 10**6])
def test_the_first_of_equal_samples_is_found_however_many_lie_between(recent, monkeypatch):
    monkeypatch.setattr(compute_module, "_RECENT", recent)
    keys = digests(3000, 1500)
    assert firsts_of(keys) == expected(keys)


def test_digests_of_which_only_a_half_is_equal_are_different_samples(monkeypatch):
    monkeypatch.setattr(compute_module, "_RECENT", 2)
    a, b = b"a" * 8, b"b" * 8
    keys = [a + a, b + b, a + b, b + a, a + a]
    assert firsts_of(keys, part=1)[:4] == [0, 1, 2, 3]


def test_few_samples_may_be_keys_themselves():
    assert firsts_of(["x", ("y", 1), "x"]) == [0, 1, 0]


def test_beyond_the_bound_old_samples_are_forgotten_and_late_ones_are_found(monkeypatch):
    monkeypatch.setattr(compute_module, "_RECENT", 100)
    monkeypatch.setattr(compute_module, "_MOST", 1000)
    distinct = digests(5000, 2**40)
    found = firsts_of([*distinct, *distinct[-500:], distinct[0]])
    assert found[:5000] == list(range(5000))
    assert found[5000:5500] == list(range(4500, 5000))
    assert found[5500] == 5500  # computed once more


@pytest.mark.slow
def test_memory_for_each_sample_is_a_few_bytes():
    keys = digests(40_000, 2**40)
    tracemalloc.start()
    try:
        known = FirstPositions(len(keys))
        for start in range(0, len(keys), 128):
            known.find(keys[start : start + 128], range(start, min(start + 128, len(keys))))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 40 * len(keys)
