import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from sktransfer import list_layers, load_backbone
from sktransfer.engines import Engine, TorchEngine, resolve_device
from tests.support import TINY_SIZE, Vectors, make_engine, tiny_backbone

CPU = torch.device("cpu")


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def engine_of(backbone, *layers, **settings):
    return make_engine(backbone, layers or (list_layers(backbone)[-2],), **settings)


class Doubling(Engine):
    """A runtime that does with each sample what the one stage of a test does."""

    def forward(self, batch):
        return {self.layers[0]: 2 * batch}


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


class Noted(Doubling):
    """A runtime that notes the sizes of its batches. More samples than ``fits`` are too many."""

    def __init__(self, sample, modality="array"):
        stages, outputs = {"double": Double()}, {"double": ("double", "none")}
        super().__init__(stages, outputs, device=CPU, modality=modality)
        self.sizes, self.fits = [], math.inf
        self.run([sample])  # the first sample is run once more, to be compared
        self.sizes.clear()

    def forward(self, batch):
        self.sizes.append(len(batch))
        if len(batch) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(batch)


# batches


@pytest.mark.parametrize(
    ("size", "batches"), [(1, [1] * 7), (2, [2, 2, 2, 1]), (7, [7]), (10**30, [7])]
)
def test_a_batch_holds_no_more_samples_than_there_are(size, batches):
    x = noise(7, 5)
    made = Noted(x[0])
    features = made.run(list(x), size)["double"]
    assert made.sizes == batches
    assert np.array_equal(features, 2 * x)


def test_short_vectors_have_the_same_bits_in_every_batch():
    backbone = load_backbone(Vectors())
    made = engine_of(backbone, list_layers(backbone)[-1])
    x = torch.rand(70, 60, generator=torch.Generator().manual_seed(0))
    (together,) = made.run(x).values()
    alone = np.concatenate([*(rows for i in range(70) for rows in made.run(x[i : i + 1]).values())])
    np.testing.assert_array_equal(alone, together)


def test_one_image_is_run_alone():
    x = noise(1, 3, 16, 16)
    made = Noted(x[0], "image")
    made.run(x)
    assert made.sizes == [1]


@pytest.mark.parametrize("batch_size", [16, "auto"])
def test_where_memory_is_short_batches_are_halved_with_one_warning(batch_size):
    x = noise(21, 3, 16, 16)
    made = Noted(x[0], "image")
    made.fits = 1 if batch_size == "auto" else 5
    with pytest.warns(UserWarning, match="do not fit into the memory") as caught:
        features = made.run(x, batch_size)["double"]
    assert [warning.category for warning in caught].count(UserWarning) == 1
    assert np.array_equal(features, 2 * x)
    assert made.sizes[:3] == ([16, 8, 4] if batch_size == 16 else [4, 2, 1])
    made.sizes.clear()
    assert np.array_equal(made.run(x, batch_size)["double"], 2 * x)
    # What was learned of the device is kept.
    assert made.sizes == ([4] * 5 + [1] if batch_size == 16 else [1] * 21)


def test_a_single_sample_that_does_not_fit_is_an_error():
    x = noise(3, 3, 16, 16)
    made = Noted(x[0], "image")
    made.fits = 0
    with pytest.warns(UserWarning, match="do not fit"), pytest.raises(torch.OutOfMemoryError):
        made.run(x, 2)


@pytest.mark.parametrize(
    ("backbone", "shape", "at_most"),
    [(tiny_backbone, (3, 16, 16), 4), (lambda: load_backbone(Vectors()), (5,), 64)],
)
def test_small_samples_run_in_batches_of_a_bounded_size(backbone, shape, at_most):
    assert engine_of(backbone()).batch_size(noise(*shape)) == at_most


def test_large_activations_run_in_small_batches():
    module = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    size = TINY_SIZE.with_size(400)  # 16 * 400 * 400 * 4 = 10.24 MB a sample
    sizes = []
    for side in (100, 350, 400, 600):
        backbone = load_backbone(module, preprocess=size.with_size(side))
        made = engine_of(backbone, list_layers(backbone)[-1])
        sizes.append(made.batch_size(noise(3, side, side)))
    assert sizes == [4, 2, 1, 1]


# stages, and nothing else


def test_a_runtime_is_a_forward():
    made = Doubling({"double": Double()}, {"double": ("double", "avg")}, device=CPU)
    x = noise(5, 3)
    assert np.array_equal(made.run(x, 2)["double"], 2 * x)


def test_a_runtime_that_gives_other_features_is_not_used():
    made = Doubling({"relu": nn.ReLU()}, {"relu": ("relu", "avg")}, device=CPU, name="net")
    x = noise(5, 3)
    with pytest.warns(UserWarning, match="fast form of backbone 'net' does not give the same"):
        found = made.run(x, 2)["relu"]
    assert np.array_equal(found, x.relu())


def test_samples_without_tokens_are_one_table_whatever_their_rank():
    x = noise(4, 3, 5, 5)
    made = TorchEngine({"relu": nn.ReLU()}, {"relu": ("relu", "none")}, device=CPU)
    found = made.run_groups([(np.array([2, 0]), x[:2]), (np.array([1, 3]), x[2:])])["relu"]
    assert found.dtype == np.float32
    assert np.array_equal(found[[2, 0, 1, 3]], x.relu())


def test_rows_of_tokens_differ_in_length():
    a, b = noise(1, 3, 2), noise(2, 5, 2)
    made = TorchEngine({"relu": nn.ReLU()}, {"relu": ("relu", "none")}, device=CPU, modality="text")
    found = made.run_groups([(np.array([1]), a), (np.array([0, 2]), b)])["relu"]
    assert [row.shape for row in found] == [(5, 2), (3, 2), (5, 2)]
    assert np.array_equal(found[2], b[1].relu())


class Means(nn.Module):
    """A stage with a function of its own for the mean of what it gives."""

    def forward(self, x):
        return 2 * x

    def fused_pooling(self, pooling):
        return (lambda x: x.mean(1)) if pooling == "avg" else None


@pytest.mark.parametrize(
    ("pooling", "more", "factor"), [("avg", [], 1), ("max", [], 2), ("avg", [nn.ReLU()], 2)]
)
def test_a_stage_that_pools_itself_does_so_where_it_runs_alone(pooling, more, factor):
    stages = {"means": Means(), **{str(i): stage for i, stage in enumerate(more)}}
    made = TorchEngine(stages, {"last": (list(stages)[-1], pooling)}, device=CPU, modality="text")
    x = noise(4, 3, 2).abs()
    (found,) = made.run_groups([(np.arange(4), x)]).values()
    expected = x.mean(1) if pooling == "avg" else x.amax(1)
    np.testing.assert_allclose(found, factor * expected, rtol=1e-6)


# devices


def test_auto_is_the_accelerator_or_the_cpu():
    found = resolve_device("auto")
    has_accelerator = torch.accelerator.is_available()
    assert (found.type != "cpu") is has_accelerator
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize("device", ["cuda:97", "nonsense", ""])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(ValueError, match=rf"device='{device}' cannot be used on this machine: ."):
        resolve_device(device)


@pytest.mark.slow
def test_the_size_of_a_batch_does_not_depend_on_other_threads():
    class Meanwhile(nn.ReLU):
        """While a sample is measured, another thread runs a large batch."""

        def forward(self, x):
            if len(x) == 1:
                with ThreadPoolExecutor(1) as threads:
                    threads.submit(self, noise(64, 3, 400, 400)).result()
            return super().forward(x)

    made = TorchEngine(
        {"relu": Meanwhile()}, {"relu": ("relu", "avg")}, device=CPU, modality="image"
    )
    assert made.batch_size(noise(3, 400, 400)) == 4


def test_threads_run_one_engine():
    made, x = engine_of(tiny_backbone(), "2", "4"), noise(9, 3, 16, 16)
    expected = engine_of(tiny_backbone(), "2", "4").run(x)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda i: made.run(x[i % 3 :]), range(12)))
    for i, features in enumerate(found):
        for layer in ("2", "4"):
            np.testing.assert_allclose(features[layer], expected[layer][i % 3 :], atol=1e-5)


def test_features_do_not_depend_on_an_autocast_around_the_call():
    engine, batch = engine_of(load_backbone(Vectors())), noise(3, 64)
    (expected,) = engine(batch).values()
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = engine(batch).values()
    assert torch.equal(found, expected)


def test_samples_without_finite_features_are_no_reason_to_leave_the_fast_form(recwarn):
    engine, batch = engine_of(load_backbone(Vectors())), noise(3, 64)
    batch[0] = torch.nan
    (rows,) = engine(batch).values()
    assert rows[0].isnan().all() and rows[1:].isfinite().all()
    assert not recwarn.list and engine.has_compared


def test_a_device_without_data_is_refused():
    with pytest.raises(ValueError, match="device='meta'"):
        resolve_device("meta")
