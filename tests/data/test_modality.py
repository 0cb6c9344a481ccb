import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags
from torch import nn

from sktransfer import (
    FeatureStore,
    FineTunedClassifier,
    FineTunedRegressor,
    PretrainedFeatureExtractor,
    TransferClassifier,
    UnreadableSamplesError,
    list_layers,
    load_backbone,
    probe_layers,
)
from sktransfer.data import Modality, digest_array, get_modality, register_modality
from tests.support import tiny_backbone

LENGTH = 400


class Sound(Modality):
    """Clips; each opened one is counted."""

    name = "sound"
    noun = "clips"
    chunk_size = 8
    batch_size = 16

    def check(self, X, *, image_shape=None, validate=None):
        clips = [np.asarray(clip, np.float32) for clip in X]
        if not clips or any(clip.ndim != 1 for clip in clips):
            raise ValueError("X must be a list of clips, each an array of shape (n_values,).")
        return clips

    def digest(self, sample):
        return digest_array(sample)

    def open(self, sample):
        OPENED.append(len(sample))
        if not np.isfinite(sample).all():
            raise ValueError("contains NaN or infinity")
        return sample / np.abs(sample).max()

    def set_tags(self, input_tags, *, from_table=False):
        input_tags.two_d_array = input_tags.three_d_array = input_tags.string = False
        input_tags.one_d_array = True


class Counter(list):
    """Clips that were opened; no part of what decides a value, and so of no cache key."""

    content_digest = "counter"


OPENED = Counter()


class Ears(nn.Sequential):
    """A network of two convolutions and two classes."""

    def __init__(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            super().__init__(
                nn.Conv1d(1, 8, 9, stride=4),
                nn.ReLU(),
                nn.Conv1d(8, 8, 3),
                nn.ReLU(),
                nn.AdaptiveAvgPool1d(4),
                nn.Flatten(),
                nn.Linear(32, 2),
            )


def fixed_length(clip):
    return torch.from_numpy(np.resize(clip, LENGTH))[None]


def clips(n, seed=0):
    """Low and high tones with noise, by turns, of different lengths and loudness."""
    rng = np.random.default_rng(seed)
    X = []
    for i in range(n):
        t = np.arange(rng.integers(200, 600))
        tone = np.sin(t * (0.1, 0.9)[i % 2] + rng.uniform(0, 6))
        X.append(rng.uniform(1, 50) * (tone + rng.normal(0, 0.3, len(t))))
    return X, np.array(["low", "high"] * n)[:n]


@pytest.fixture
def backbone():
    register_modality(Sound())
    OPENED.clear()
    return load_backbone(Ears(), modality="sound", preprocess=fixed_length, classes=["a", "b"])


def by_hand(X):
    with torch.inference_mode():
        loudest = [np.abs(clip).max() for clip in X]
        scaled = [np.float32(clip) / np.float32(top) for clip, top in zip(X, loudest, strict=True)]
        x = torch.stack([fixed_length(clip) for clip in scaled])
        return nn.Sequential(*list(Ears())[:-1])(x).numpy()


def test_features_equal_the_output_of_the_network(backbone):
    X, _ = clips(20)
    found = PretrainedFeatureExtractor(backbone).fit(X).transform(X)
    np.testing.assert_allclose(found, by_hand(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_the_store_opens_each_distinct_clip_once(backbone, tmp_path, n_jobs):
    X, _ = clips(20)
    store = FeatureStore(tmp_path)
    extractor = PretrainedFeatureExtractor(backbone, memory=store, n_jobs=n_jobs).fit(X)
    OPENED.clear()
    first = extractor.transform([*X, *X[::-1]])
    assert len(store) == len(set(OPENED)) == 20
    n_opened = len(OPENED)
    assert n_opened <= 22  # a found sample or two are computed again, and compared
    np.testing.assert_array_equal(first[:20], first[20:][::-1])
    np.testing.assert_array_equal(extractor.transform(X), first[:20])
    assert len(OPENED) == n_opened


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["head", 1, "all"])
def test_fine_tuning_learns_tones(backbone, trainable):
    X, y = clips(40)
    model = FineTunedClassifier(
        backbone, trainable=trainable, lr=1e-2, max_epochs=15, random_state=0
    ).fit(X, y)
    new, labels = clips(20, seed=1)
    assert model.score(new, labels) >= 0.9
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(new), model.predict_proba(new))
    tuned = model.to_features().fit(new).transform(new)
    assert tuned.shape == (20, 32)


def test_fine_tuning_takes_the_frozen_part_from_the_store(backbone, tmp_path):
    X, y = clips(12)
    model = FineTunedClassifier(backbone, trainable=1, max_epochs=1, memory=tmp_path)
    model.set_params(random_state=0).fit(X, y)
    OPENED.clear()
    clone(model).fit(X, y)
    assert len(OPENED) <= 1  # the shapes of the layers are measured on one sample


def test_a_pipeline_is_cross_validated(backbone, tmp_path):
    X, y = clips(24)
    extractor = PretrainedFeatureExtractor(backbone, memory=tmp_path)
    pipeline = make_pipeline(extractor, LogisticRegression(C=100))
    assert cross_val_score(pipeline, X, y, cv=3).mean() >= 0.8


def test_strategies_and_layers_are_compared_over_clips(backbone):
    X, y = clips(24)
    model = TransferClassifier(backbone, strategy="features", random_state=0).fit(X, y)
    assert model.score(*clips(20, seed=1)) >= 0.9
    assert probe_layers(X, y, backbone, random_state=0).layer in list_layers(backbone)


def test_a_fitted_extractor_pickles_with_its_modality(backbone):
    X, _ = clips(6)
    extractor = PretrainedFeatureExtractor(backbone).fit(X)
    again = pickle.loads(pickle.dumps(extractor))
    np.testing.assert_array_equal(again.transform(X), extractor.transform(X))


def test_an_unreadable_clip_is_named(backbone):
    X, _ = clips(12)
    X[9][3] = np.nan
    with pytest.raises(UnreadableSamplesError, match=r"sample 9, ndarray .*contains NaN"):
        PretrainedFeatureExtractor(backbone).fit(X).transform(X)


def test_other_shapes_are_refused_by_the_check_of_the_modality(backbone):
    with pytest.raises(ValueError, match="a list of clips"):
        PretrainedFeatureExtractor(backbone).fit(np.zeros((3, 2, 2)))


def test_augment_is_refused_with_the_name_of_the_samples(backbone):
    X, y = clips(6)
    model = FineTunedClassifier(backbone, augment="light", max_epochs=1)
    with pytest.raises(ValueError, match="augment='light' needs images; samples here are clips"):
        model.fit(X, y)


def test_tags_are_those_of_the_modality(backbone):
    for estimator in (PretrainedFeatureExtractor(backbone), FineTunedClassifier(backbone)):
        tags = get_tags(estimator).input_tags
        assert tags.one_d_array
        assert not (tags.two_d_array or tags.three_d_array or tags.string)


@pytest.mark.parametrize(
    ("name", "rows", "images", "strings"),
    [
        ("efficientnet_lite0", False, True, True),
        ("glove_6b_50d", False, False, True),
        ("hf:any", False, False, True),
        (nn.Linear(3, 2), True, False, False),
    ],
)
def test_tags_are_known_before_the_backbone_is_loaded(name, rows, images, strings):
    tags = get_tags(PretrainedFeatureExtractor(name)).input_tags
    assert (tags.two_d_array, tags.three_d_array, tags.string) == (rows, images, strings)


def test_an_estimator_as_backbone_has_the_tags_of_its_own_backbone():
    inner = FineTunedClassifier("glove_6b_50d")
    tags = get_tags(PretrainedFeatureExtractor(inner)).input_tags
    assert (tags.two_d_array, tags.three_d_array, tags.string) == (False, False, True)


def test_tensors_of_different_shapes_are_explained():
    register_modality(Sound())
    uneven = load_backbone(Ears(), modality="sound", preprocess=lambda c: torch.from_numpy(c)[None])
    X, _ = clips(3)
    with pytest.raises(ValueError, match="different shapes"):
        PretrainedFeatureExtractor(uneven).fit(X).transform(X)


def test_an_unknown_modality_is_refused_with_the_known_names():
    with pytest.raises(ValueError, match=r"modality='smell'.*'array', 'image'.*register_modality"):
        load_backbone(nn.Linear(3, 2), modality="smell")


@pytest.mark.parametrize("given", [Sound, "sound", Modality()])
def test_only_modalities_with_a_name_are_registered(given):
    with pytest.raises(TypeError, match="an instance of Modality with a name"):
        register_modality(given)


def test_a_modality_is_found_by_its_name_and_may_be_given_itself():
    sound = register_modality(Sound())
    assert get_modality("sound") is get_modality(sound) is sound
    assert load_backbone(Ears(), modality=sound).modality is sound


def test_words_are_left_out_and_the_rest_stays():
    parts = get_modality("text").parts("It isn't a well-made film, é!")
    assert [parts.text[a:b] for a, b in parts.spans] == [
        "It",
        "isn't",
        "a",
        "well-made",
        "film",
        "é",
    ]
    assert parts.keep(np.ones(6, bool)) == parts.shown
    assert parts.keep(np.arange(6) != 3) == "It isn't a  film, é!"
    assert get_modality("text").parts("…").shape == (0,)


@pytest.mark.parametrize("size", [(30, 41, 3), (5, 9, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_cells_of_an_image_take_its_mean_colour(size, dtype):
    image = np.random.default_rng(0).uniform(0, 1, size)
    image = image.astype(dtype) if dtype == np.float32 else (255 * image).astype(dtype)
    parts = get_modality("image").parts(image)
    kept = np.ones(parts.shape, bool)
    np.testing.assert_array_equal(parts.keep(kept), image)
    kept[0, -1] = False
    changed = parts.keep(kept)
    assert changed.dtype == dtype
    np.testing.assert_array_equal(changed[0, -1], image.mean((0, 1)).astype(dtype))
    np.testing.assert_array_equal(changed[-1], image[-1])


def test_numbers_become_zero_and_other_samples_have_no_parts():
    parts = get_modality("array").parts(np.array([1.0, 2.0], np.float32))
    assert parts.keep(np.array([True, False])).tolist() == [1, 0]
    assert Modality().parts("a") is None


def test_previews_are_pictures_or_short_texts(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (400, 200)).save(path)
    assert get_modality("image").preview(path).size == (160, 80)
    assert get_modality("image").preview(np.zeros((8, 8), np.float32), 4).size == (4, 4)
    assert get_modality("text").preview("word " * 99).endswith("word …")
    assert get_modality("array").preview(np.zeros(3)).startswith("array([0.")
    with pytest.raises(FileNotFoundError):
        get_modality("image").preview(tmp_path / "b.png")


X = np.arange(10, dtype=np.float32).reshape(2, 5)


@pytest.fixture
def extractor():
    return PretrainedFeatureExtractor(nn.Linear(5, 3)).fit(X)


def test_masked_values_are_refused(extractor):
    masked = np.ma.array(X, mask=X > 7)
    for method in (extractor.fit, extractor.transform):
        with pytest.raises(ValueError, match="X has masked values: replace them"):
            method(masked)


def test_a_masked_array_without_masked_values_and_a_tensor_are_arrays(extractor):
    expected = extractor.transform(X)
    for given in (np.ma.array(X, mask=False), torch.from_numpy(X), X.astype(np.float64)):
        np.testing.assert_array_equal(extractor.transform(given), expected)


def reversals(array):
    """An array reversed along its rows, along all other axes, along all, and of one row."""
    others = (slice(None), *[slice(None, None, -1)] * (array.ndim - 1))
    return [
        array[::-1],
        array[others],
        array[(slice(None, None, -1), *others[1:])],
        array[:1][::-1],
    ]


@pytest.mark.parametrize("reverse", range(4))
def test_reversed_arrays_give_the_features_of_their_copies(extractor, reverse):
    given = reversals(X)[reverse]
    np.testing.assert_array_equal(extractor.transform(given), extractor.transform(given.copy()))


PHOTOS = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
KINDS = {"RGB": PHOTOS, "floats": PHOTOS / 255, "grey": PHOTOS[..., 0]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [16, 12])
def test_mirrored_images_give_the_features_of_their_copies(kind, size):
    extractor = PretrainedFeatureExtractor(tiny_backbone(), image_size=size).fit(PHOTOS)
    for given in [*reversals(KINDS[kind]), PHOTOS[:, :1, ::-1][:, ::-1]]:
        np.testing.assert_array_equal(extractor.transform(given), extractor.transform(given.copy()))


def test_what_a_transform_returns_may_be_reversed():
    def mirrored(image):
        return np.asarray(image, np.float32).transpose(2, 0, 1)[:, :, ::-1]

    backbone = tiny_backbone(preprocess=mirrored)
    plain = tiny_backbone(preprocess=lambda image: mirrored(image).copy())
    features = [PretrainedFeatureExtractor(b).fit_transform(PHOTOS) for b in (backbone, plain)]
    np.testing.assert_array_equal(*features)


@pytest.mark.parametrize("trainable", ["head", "all"])
@pytest.mark.parametrize("reverse", range(3))
def test_networks_are_tuned_on_reversed_arrays_and_targets(trainable, reverse):
    y = np.array([0.0, 1.0])
    given = reversals(X)[reverse]
    settings = {"trainable": trainable, "max_epochs": 1, "random_state": 0}
    module = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    a, b = (FineTunedRegressor(module, **settings) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the few samples
        a.fit(given, y[::-1], sample_weight=np.array([1.0, 2.0])[::-1])
        b.fit(given.copy(), y[::-1].copy(), sample_weight=[2.0, 1.0])
    np.testing.assert_array_equal(a.predict(given), b.predict(given.copy()))
