import sys
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from sktransfer import UnreadableSamplesError, load_backbone, load_word_vectors
from sktransfer.features import Output, Stream, compute_inputs, compute_outputs
from tests.support import TINY_SIZE, NotedImages, TinyNet, images, tiny_backbone


def by_hand(X):
    return torch.stack([TINY_SIZE(image) for image in X]).numpy()


@pytest.mark.parametrize("keep_bytes", [0, 2000, 10**6])
@pytest.mark.parametrize("n_jobs", [None, 2])
def test_rows_are_the_preprocessed_samples_bit_for_bit(n_jobs, keep_bytes):
    X = images(20, (30, 24))
    stream = Stream(X, tiny_backbone(), n_jobs=n_jobs, keep_bytes=keep_bytes)
    assert stream.shape == (20, 3, 16, 16) and stream.dtype == np.float32
    expected = by_hand(X)
    batches = [np.array([3, 1, 19]), np.array([], int), np.array([7]), np.arange(20)]
    for _ in range(2):
        found = list(stream.batches(batches))
        for rows, at in zip(found, batches, strict=True):
            assert len(rows) == len(at)
            assert not len(at) or np.array_equal(rows, expected[at])
    assert np.array_equal(stream[4:7], expected[4:7])


def test_an_interrupt_while_threads_end_is_raised():
    def interrupt(frame, event, argument):
        if event == "call" and frame.f_code.co_name == "shutdown":
            raise KeyboardInterrupt

    stream = Stream(images(8, (30, 24)), tiny_backbone(), n_jobs=2)
    with pytest.raises(KeyboardInterrupt):
        try:
            sys.setprofile(interrupt)
            stream[:]
        finally:
            sys.setprofile(None)


def test_resized_images_are_kept_up_to_a_number_of_bytes():
    X, noted = images(10, (30, 24)), NotedImages()
    stream = Stream(X, tiny_backbone(modality=noted), keep_bytes=4 * 3 * 16 * 16 + 5)  # uint8
    stream[:], stream[:]
    assert len(noted.opened) == 10 + 6
    stream.forget()
    stream[:]
    assert len(noted.opened) == 26


def test_images_of_another_type_are_not_kept_as_the_first():
    X, noted = images(4, (30, 24)), NotedImages()
    X[2] = X[2] / np.float32(255)
    stream = Stream(X, tiny_backbone(modality=noted), keep_bytes=10**6)
    for _ in range(2):
        assert np.array_equal(stream[:], by_hand(X))
    assert len(noted.opened) == 5


def test_what_a_preprocessing_of_the_users_returns_is_kept():
    def half(image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)[:, :8, :8] / 510

    X, noted = images(5, (12, 12)), NotedImages()
    backbone = load_backbone(TinyNet(), preprocess=half, modality=noted)
    stream = Stream(X, backbone, keep_bytes=10**6)
    assert np.array_equal(stream[:], stream[:])
    assert len(noted.opened) == 5


def test_threads_keep_each_image_once_and_right():
    X = images(64, (30, 24))
    stream, expected = Stream(X, tiny_backbone(), keep_bytes=10**6, n_jobs=4), by_hand(X)
    wrong = []

    def read(seed):
        at = np.random.default_rng(seed).permutation(64)
        wrong.append(not np.array_equal(stream[at], expected[at]))

    threads = [threading.Thread(target=read, args=[seed]) for seed in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert wrong == [False] * 4


@pytest.mark.parametrize(("layer", "pooling"), [("2", "none"), ("4", "avg")])
def test_activations_are_those_that_are_computed_at_once(layer, pooling):
    X, output = images(9, (30, 24)), Output(tiny_backbone(), layer, pooling)
    found = Stream(X, output)[:]
    np.testing.assert_allclose(found, compute_outputs(X, [output])[0], rtol=1e-5, atol=1e-6)


def test_an_unreadable_sample_is_named_by_its_position(tmp_path):
    files = []
    for i, image in enumerate(images(30)):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(files[-1])
    files[17].write_bytes(b""), files[23].write_bytes(b"")
    stream = Stream(files, tiny_backbone(), n_jobs=2)
    rows = stream.batches([np.array([5, 4]), np.array([17, 3])])
    assert next(rows).shape == (2, 3, 16, 16)
    with pytest.raises(UnreadableSamplesError, match="2 samples") as info:
        next(rows)
    assert [i for i, *_ in info.value.problems] == [17, 23]


def test_shapes_that_differ_are_explained():
    def as_it_is(image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255

    stream = Stream(
        [*images(1, (8, 8)), *images(1, (9, 8))], load_backbone(TinyNet(), preprocess=as_it_is)
    )
    with pytest.raises(ValueError, match="different shapes"):
        stream[:]


def test_results_of_a_function_of_activations_take_their_place():
    X, seen = images(150, (6, 6)), []
    X += X[:3]
    outputs = [Output(tiny_backbone(), "2", "none")]

    def mean(rows, positions):
        seen.append((rows.shape, list(positions)))
        return rows.mean((2, 3))

    (found,) = compute_outputs(X, outputs, then=mean)
    expected = compute_outputs(X, outputs)[0].mean((2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert [shape[0] for shape, _ in seen] == [128, 22]  # equal images once
    assert seen[1][1] == list(range(128, 150))


def test_inputs_of_texts_are_a_table():
    backbone = load_word_vectors({"a": np.ones(3), "b": np.zeros(3)})
    rows = compute_inputs(["a b", "b"], backbone)
    assert rows.dtype == object and len(rows) == 2
