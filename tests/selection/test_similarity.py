import numpy as np
import pytest
import torch
from torch import nn

from sktransfer import UnreadableSamplesError, load_backbone
from sktransfer.backbones.norm_statistics import norm_divergence
from sktransfer.selection.similarity import measure_similarity, measure_size
from sktransfer.selection.study import Timing, measure_timing
from sktransfer.transferability.predictions import gaussian_divergence
from tests.support import TinyNet, Vectors, images, random_backbone, tiny_backbone, tiny_vit


@pytest.fixture(scope="module")
def lite():
    return load_backbone("efficientnet_lite0", image_size=96)


def similarity(samples, backbone):
    return measure_similarity(backbone, samples, device="cpu").value


def test_size_is_that_of_the_smallest_class():
    size = measure_size(np.array(["b", "a", "b", "c", "c", "c"]))
    assert size.counts == {"a": 1, "b": 2, "c": 3}
    assert (size.n_samples, size.smallest, size.smallest_label) == (6, 1, "a")


@pytest.mark.slow
def test_photographs_are_near_one_and_noise_near_zero(photos):
    lite = load_backbone("efficientnet_lite0")
    noise = np.random.default_rng(1).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    assert similarity(photos, lite) > 0.9
    assert similarity(list(noise), lite) < 0.1


@pytest.mark.slow
def test_blurring_and_greying_out_lower_similarity_step_by_step(lite, photos):
    flat = [np.full_like(p, p.mean().astype(np.uint8)) for p in photos]
    mixed = [(p // 4 + f // 4 * 3).astype(np.uint8) for p, f in zip(photos, flat, strict=True)]
    values = [similarity(X, lite) for X in (photos, mixed, flat)]
    assert values[0] > values[1] + 0.05 and values[1] > values[2] + 0.05


@pytest.mark.slow
def test_the_similarity_is_the_same_again_and_for_any_order(lite, photos):
    X = [*images(3), *photos]
    first = measure_similarity(lite, X)
    second = measure_similarity(lite, X[::-1])
    np.testing.assert_allclose(first.divergences, second.divergences, rtol=1e-6)
    assert first.value == measure_similarity(lite, X).value


@pytest.mark.slow
def test_the_shared_network_keeps_its_hooks_and_tensors(lite, photos):
    before = {k: v.clone() for k, v in lite.module.state_dict().items()}
    fingerprint = lite.fingerprint
    measure_similarity(lite, photos)
    assert all(torch.equal(v, before[k]) for k, v in lite.module.state_dict().items())
    hooked = [m for m in lite.module.modules() if m._forward_pre_hooks or m._forward_hooks]
    assert not hooked
    lite.forget_fingerprint()
    assert lite.fingerprint == fingerprint


def test_moments_are_compared_channel_by_channel():
    norm = nn.BatchNorm2d(2)
    norm.running_mean.copy_(torch.tensor([0.0, 1.0]))
    norm.running_var.copy_(torch.tensor([1.0, 4.0]))
    # Every sample has the same mean, so that nothing is due to chance.
    same = np.tile([[[0.0, 1.0], [1.0, 5.0]]], (4, 1, 1))  # (n, moment, channel)
    assert norm_divergence(same, norm) == pytest.approx(0, abs=1e-9)
    moved = np.tile([[[2.0, 1.0], [5.0, 5.0]]], (4, 1, 1))
    expected = gaussian_divergence([2, 1], [1, 4], [0, 1], [1, 4], eps=norm.eps)
    assert norm_divergence(moved, norm) == pytest.approx(expected)


def test_few_samples_of_the_same_data_are_not_taken_for_other_data():
    rng, norm = np.random.default_rng(0), nn.BatchNorm1d(200)

    def divergence(n, corrected=True):
        means = rng.normal(size=(n, 200))
        moments = np.stack([means, means**2], axis=1)
        if corrected:
            return norm_divergence(moments, norm)
        return gaussian_divergence(means.mean(0), means.var(0), norm.running_mean, norm.running_var)

    assert divergence(5) < 0.8 * divergence(5, corrected=False)
    assert divergence(400) < 0.003


def test_every_batch_norm_that_is_reached_counts_once():
    backbone = tiny_backbone()
    found = measure_similarity(backbone, images(5))
    assert found.source == "batch norm" and len(found.layers) == len(found.divergences) == 1
    assert found.noise > 0


@pytest.mark.parametrize("outputs", [None, np.eye(2, 1000)])
def test_batch_norms_that_saw_no_data_tell_nothing(outputs):
    backbone = random_backbone("resnet18").with_image_size(32)
    found = measure_similarity(backbone, images(2), outputs)
    assert found.value is None and "no data" in found.why


class Idle(nn.Module):
    """A batch norm with statistics that the forward never reaches."""

    def __init__(self):
        super().__init__()
        self.f, self.aux, self.h = nn.Linear(4, 8), nn.BatchNorm1d(3), nn.Linear(8, 2)
        self.aux.running_mean.fill_(0.5)

    def forward(self, x):
        return self.h(torch.relu(self.f(x)))


def test_a_batch_norm_that_is_never_reached_tells_nothing():
    X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    assert measure_similarity(load_backbone(Idle()), X).value is None


def test_without_batch_norm_predictions_speak():
    backbone = load_backbone(tiny_vit(), preprocess=tiny_backbone().preprocess, classes=list("abc"))
    sure, unsure = np.eye(3)[[0, 1, 2, 0]] * 20, np.zeros((4, 3))
    values = [measure_similarity(backbone, images(4), z) for z in (sure, unsure)]
    assert [v.source for v in values] == ["predictions"] * 2
    assert values[0].value > 0.99 and values[1].value < 0.01
    assert values[0].confidence > 0.99 and values[1].entropy == pytest.approx(1)
    assert values[0].energy == pytest.approx(-20, abs=1e-3)


def test_without_batch_norm_and_classes_nothing_speaks():
    X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    found = measure_similarity(load_backbone(Vectors()), X)
    assert found.value is None and found.why and np.isnan(found.entropy)


def test_copies_that_fill_up_a_batch_do_not_count():
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval()
    module[1].running_mean.fill_(0.1)
    X = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    found = measure_similarity(load_backbone(module), X)
    inputs = module[0](torch.from_numpy(X)).double().detach().numpy()
    moments = np.stack([inputs, inputs**2], axis=1)  # (n, moment, channel)
    assert found.divergences[0] == pytest.approx(norm_divergence(moments, module[1]), rel=1e-5)


def test_one_sample_has_no_statistics(lite, photos):
    found = measure_similarity(lite, photos[:1])
    assert found.value is None and "one sample" in found.why


def test_batch_norm_on_rows_is_looked_at_too():
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval()
    module[1].running_mean.fill_(0.1)
    X = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    with torch.no_grad():
        seen = module[0](torch.from_numpy(X))
    module[1].running_mean.copy_(seen.mean(0))
    module[1].running_var.copy_(seen.var(0))
    backbone = load_backbone(module)
    assert similarity(X, backbone) > 0.95 > 0.5 > similarity(X * 5 + 9, backbone)


def test_a_sample_that_cannot_be_opened_is_named(lite, photos):
    with pytest.raises(UnreadableSamplesError, match=r"nowhere\.jpg"):
        measure_similarity(lite, [photos[0], "nowhere.jpg"])


def test_times_are_positive_and_scale_with_samples_and_epochs():
    backbone = tiny_backbone()
    before = {k: v.clone() for k, v in backbone.module.state_dict().items()}
    timing = measure_timing(backbone, images(6), {"head": "head", "all": "all"})
    assert timing.forward > 0 and set(timing.step) == {"head", "all"}
    assert all(torch.equal(v, before[k]) for k, v in backbone.module.state_dict().items())
    assert all(p.grad is None for p in backbone.module.parameters())
    timing = Timing(0.1, {"head": 0.01, "all": 0.4})
    assert timing.seconds("features", 10, 5) == pytest.approx(1.0)
    assert timing.seconds("head", 10, 5) == pytest.approx(1.0 + 0.5)
    assert timing.seconds("all", 10, 5) == pytest.approx(1.0 + 20.0)  # runs whole in each epoch
    timing = Timing(0.1, {}, {"features": 0.7})
    assert timing.seconds("features", 10, 5) == pytest.approx(1.7)


def test_a_network_without_stages_of_its_own_kind_can_be_timed():
    X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    assert measure_timing(load_backbone(Vectors()), X, {"all": "all"}).step["all"] > 0


@pytest.mark.slow
def test_the_module_of_a_user_is_left_alone():
    module = TinyNet()
    measure_similarity(load_backbone(module, preprocess=tiny_backbone().preprocess), images(3))
    assert not any(m._forward_pre_hooks for m in module.modules())
