import mmap

import numpy as np
import pytest
import torch
from PIL import Image
from skorch.callbacks import Callback
from torch import nn

from sktransfer import Augmentation, FineTunedClassifier, UnreadableSamplesError, load_backbone
from sktransfer.engines import as_batch
from sktransfer.features import Stream
from sktransfer.finetuning.dataset import Activations, TrainingDataset, copy_rows, seconds_on_disk
from tests.support import TINY_SIZE, NotedImages, TinyNet, images, tiny_backbone

SETTINGS = {"max_epochs": 2, "batch_size": 8, "lr": 1e-3, "random_state": 0}
Y = np.arange(24) % 3


def weights(model):
    return [tensor.numpy().copy() for tensor in model.net_.module_.state_dict().values()]


def is_equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


@pytest.mark.parametrize(
    ("trainable", "max_cache_bytes", "n_jobs"),
    [("all", 0, 2), ("all", 5000, 2), ("all", 2**31, None), ("norm", 2**31, 2), ("bias", 0, None)],
)
def test_training_from_images_is_bit_for_bit_training_from_their_inputs(
    trainable, max_cache_bytes, n_jobs
):
    X, settings = images(24, (30, 24)), SETTINGS | {"trainable": trainable}
    inputs = torch.stack([TINY_SIZE(image) for image in X]).numpy()
    backbone = load_backbone(TinyNet(), modality="array", classes=["a", "b", "c"])
    expected = FineTunedClassifier(backbone, validation_fraction=0.25, **settings).fit(inputs, Y)
    run = {"n_jobs": n_jobs, "max_cache_bytes": max_cache_bytes, "validation_fraction": 0.25}
    model = FineTunedClassifier(tiny_backbone(), **settings, **run).fit(X, Y)
    assert is_equal(model, expected)
    assert np.array_equal(model.predict_proba(X), expected.predict_proba(inputs))
    n_bytes = 24 * 3 * 16 * 16  # uint8
    place = "memory" if max_cache_bytes >= n_bytes else "nowhere"
    assert model.cache_ == {"place": place, "nbytes": n_bytes, "seconds": {}}


@pytest.mark.slow
@pytest.mark.parametrize("n_views", [3, None])
def test_views_that_are_opened_ahead_train_as_those_opened_one_after_the_other(n_views):
    settings = SETTINGS | {"trainable": "all", "augment": Augmentation(n_views=n_views)}
    X = images(24, (30, 24))
    model = FineTunedClassifier(tiny_backbone(), n_jobs=2, **settings).fit(X, Y)
    assert is_equal(model, FineTunedClassifier(tiny_backbone(), **settings).fit(X, Y))


def test_each_epoch_opens_each_image_once_and_what_is_kept_never_again():
    X = images(24, (30, 24))
    counts = []
    for max_cache_bytes in (0, 2**31):
        noted = NotedImages()
        backbone = tiny_backbone(modality=noted)
        FineTunedClassifier(
            backbone, trainable="all", max_cache_bytes=max_cache_bytes, **SETTINGS
        ).fit(X, Y)
        counts.append(len(noted.opened))
    # The probe sample, the head, the loss before and after, and two epochs.
    assert 5 * 24 <= counts[0] <= 5 * 24 + 8
    assert counts[1] <= 24 + 8


class Costly(nn.Module):
    """A stage that takes much longer than writing its output and reading it again."""

    def __init__(self):
        super().__init__()
        self.register_buffer("matrix", torch.eye(700))

    def forward(self, x):
        return x + 0 * (self.matrix @ self.matrix)[0, 1]


def fit_costly(max_cache_bytes=100, **settings):
    network = nn.Sequential(Costly(), *TinyNet())
    backbone = load_backbone(network, preprocess=TINY_SIZE, classes=["a", "b", "c"])
    settings = SETTINGS | {"trainable": "3", "max_cache_bytes": max_cache_bytes} | settings
    return FineTunedClassifier(backbone, **settings).fit(images(24, (30, 24)), Y)


@pytest.fixture
def full_disk(monkeypatch):
    """A function after which the disk of temporary files has no room."""
    usage = type("Usage", (), {"free": 10})
    return lambda: monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)


@pytest.mark.slow
@pytest.mark.parametrize("views", [{}, {"augment": Augmentation(n_views=2)}])
def test_the_place_of_activations_does_not_change_the_training(views, full_disk):
    models = {"memory": fit_costly(2**31, **views), "disk": fit_costly(**views)}
    full_disk()
    models["nowhere"] = fit_costly(**views)
    assert [model.cache_["place"] for model in models.values()] == list(models)
    for model in models.values():
        for found, wanted in zip(weights(model), weights(models["memory"]), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("max_epochs", "place"), [(2, "disk"), (0, "nowhere")])
def test_above_the_limit_the_faster_place_is_taken_and_told(max_epochs, place, capsys):
    pytest.importorskip("rich")
    model = fit_costly(max_epochs=max_epochs, verbose=1)
    assert model.cache_["place"] == place
    assert model.cache_["nbytes"] == 24 * 8 * 7 * 7 * 4
    seconds = model.cache_["seconds"]
    assert min(seconds, key=seconds.get) == place
    told = "kept in a temporary file" if place == "disk" else "computed in each epoch"
    assert f"more than max_cache_bytes=100; they are {told}" in capsys.readouterr().out


def test_without_room_on_the_disk_activations_are_computed_again(full_disk):
    full_disk()
    model = fit_costly()
    assert model.cache_ == {"place": "nowhere", "nbytes": 24 * 8 * 7 * 7 * 4, "seconds": {}}


def test_a_table_on_disk_is_in_a_mapped_file():
    rows = []

    class Noted(Callback):
        def on_train_begin(self, net, X=None, y=None, **kwargs):
            rows.extend(view.rows for view in X.views)

    fit_costly(callbacks=[Noted()])
    assert len(rows) == 1 and isinstance(rows[0].base, mmap.mmap)


def test_features_for_a_head_alone_are_small_enough():
    model = FineTunedClassifier(tiny_backbone(), **SETTINGS).fit(images(24, (30, 24)), Y)
    assert model.cache_ == {"place": "memory", "nbytes": 24 * 8 * 4, "seconds": {}}


def test_the_speed_of_the_disk_is_measured():
    write, read = seconds_on_disk(10_000)
    assert 0 < read < 1e-4
    assert 0 < write < 1e-4


def test_an_unreadable_image_is_named_by_its_position(tmp_path):
    files = []
    for i, image in enumerate(images(24)):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(files[-1])
    files[20].write_bytes(b"")
    for settings in ({}, {"augment": "light"}, {"augment": Augmentation(n_views=None)}):
        model = FineTunedClassifier(tiny_backbone(), trainable="all", **SETTINGS | settings)
        with pytest.raises(UnreadableSamplesError, match="1 sample") as info:
            model.fit(files, Y)
        assert [i for i, *_ in info.value.problems] == [20]
        assert info.value.problems[0][1] == files[20]
        assert not hasattr(model, "classes_")


def test_rows_behind_a_stream_come_after_it():
    X, behind = images(6, (30, 24)), np.zeros((2, 3, 16, 16), np.float32)
    table = Activations(Stream(X, tiny_backbone()), np.array([4, 1]), behind)
    found = list(table.batches([np.array([3, 0]), np.array([2]), np.array([1])]))
    assert np.array_equal(found[0], np.stack([behind[1], TINY_SIZE(X[4]).numpy()]))
    assert np.array_equal(found[1], behind[:1])
    assert np.array_equal(found[2][0], TINY_SIZE(X[1]).numpy())


def test_views_of_one_stream_are_drawn_as_those_of_tables():
    rows = np.arange(30, dtype=np.float32).reshape(10, 3)
    backbone = load_backbone(torch.nn.Linear(3, 2))
    stream, n = Stream([*rows, *rows + 100], backbone), len(rows)
    index, behind = np.array([8, 3, 5]), rows[:2] - 50
    settings = {"target": np.zeros(5, int), "weight": np.ones(5)}
    streams = [Activations(stream, index + v * n, behind) for v in range(2)]
    tables = [Activations(rows + v * 100, index, behind) for v in range(2)]
    batches = [torch.tensor([4, 0, 2]), torch.tensor([1, 3])]
    found = [
        [
            x["x"]
            for x, _ in TrainingDataset(views, **settings).batches(batches, 0, torch.manual_seed(3))
        ]
        for views in (streams, tables)
    ]
    assert all(map(torch.equal, *found))


def test_a_table_is_copied_to_a_device_in_parts():
    X = images(150, (20, 18))
    copied = copy_rows(Activations(Stream(X, tiny_backbone())), torch.device("cpu"))
    assert torch.equal(copied, torch.stack([TINY_SIZE(image) for image in X]))


def test_batches_for_a_gpu_are_in_pinned_memory(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self.shape) or self)
    batch = as_batch([torch.ones(2), torch.zeros(2)], torch.device("cuda"))
    assert batch.tolist() == [[1, 1], [0, 0]] and pinned == [(2, 2)]
    as_batch([torch.ones(2)], torch.device("cpu")), as_batch(torch.ones(1, 2))
    assert len(pinned) == 1
