import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, TensorDataset
from torchvision import datasets

from sktransfer import from_dataset
from sktransfer.data import open_image

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)


class Labelled:
    """A data set of pairs that counts how often samples are opened."""

    def __init__(self, **attributes):
        self.n_opened = 0
        vars(self).update(attributes)

    def __len__(self):
        return 4

    def __getitem__(self, i):
        self.n_opened += 1
        return IMAGES[i], [1, 0, 1, 1][i]


class HuggingFace:
    """The methods of ``datasets.Dataset`` that are used."""

    column_names = ["img", "label"]

    def __init__(self, names):
        label = type("ClassLabel", (), {"names": names})() if names else object()
        self.features = {"img": object(), "label": label}

    def __len__(self):
        return 4

    def __getitem__(self, key):
        if key == "label":
            return [1, 0, 1, 1]
        assert isinstance(key, int)
        return {"img": Image.fromarray(IMAGES[key]), "label": [1, 0, 1, 1][key]}


@pytest.mark.parametrize(
    ("dataset", "labels"),
    [
        (Labelled(), [1, 0, 1, 1]),
        (Labelled(targets=torch.tensor([1, 0, 1, 1])), [1, 0, 1, 1]),
        (
            Labelled(labels=np.array([1, 0, 1, 1]), classes=["no", "yes"]),
            ["yes", "no", "yes", "yes"],
        ),
        (Labelled(targets=[1, 0, 1, 1], target_transform=abs, classes="ab"), [1, 0, 1, 1]),
        (Labelled(targets=[5, 6, 7, 5], classes=["a"]), [5, 6, 7, 5]),
        (Subset(Labelled(targets=[1, 0, 1, 1], classes=["a", "b"]), [1, 2]), ["a", "b"]),
        (ConcatDataset([Labelled(targets=[1, 0, 1, 1]), Labelled()]), [1, 0, 1, 1] * 2),
        (TensorDataset(torch.zeros(2, 3, 4, 4), torch.tensor([3, 4])), [3, 4]),
        (HuggingFace(["no", "yes"]), ["yes", "no", "yes", "yes"]),
        (HuggingFace(None), [1, 0, 1, 1]),
    ],
)
def test_labels_of_a_dataset(dataset, labels):
    X, y = from_dataset(dataset)
    assert y.tolist() == labels
    assert len(X) == len(labels)
    assert open_image(X[1]).shape[2] == 3


def test_known_labels_are_taken_without_opening_samples():
    dataset = Labelled(targets=[1, 0, 1, 1])
    from_dataset(dataset)
    assert dataset.n_opened == 0


def test_image_and_label_can_be_named():
    class Odd(Labelled):
        def __getitem__(self, i):
            return {"photo": IMAGES[i], "kind": "xyyx"[i]}

    X, y = from_dataset(Odd(), image="photo", label="kind")
    assert np.array_equal(open_image(X[3]), IMAGES[3])
    assert y.tolist() == list("xyyx")
    with pytest.raises(TypeError, match=r"without a label\. Give label="):
        from_dataset(Odd())


def test_an_image_folder_of_torchvision(tmp_path):
    for i, name in enumerate("abba"):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.fromarray(IMAGES[i]).save(tmp_path / name / f"{i}.png")
    X, y = from_dataset(datasets.ImageFolder(tmp_path))
    assert y.tolist() == ["a", "a", "b", "b"]
    assert np.array_equal(open_image(X[1]), IMAGES[3])


def test_a_stream_is_refused():
    with pytest.raises(TypeError, match=r"X, y = zip\(\*dataset\)"):
        from_dataset(iter([(IMAGES[0], 1)]))
