"""Networks for images from folders of transformers.

``pytest -m sweep --sweep-table FILE`` writes the table of all families.
"""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

import sktransfer
from sktransfer import (
    FineTunedClassifier,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    list_layers,
    load_backbone,
)
from sktransfer.backbones.image_folders import _ByProcessor
from sktransfer.backbones.stages import cut_of, has_matrix, stages_of
from tests.backbones.image_networks import (
    DEPTH,
    FAMILIES,
    network_of_library,
    output_of_library,
    output_of_network,
    transformers,
    write_image_folder,
)
from tests.backbones.whole_chain import X, Y, difference, trained_stages, whole_chain
from tests.support import NotedImages

EVERYDAY = ["dinov2 with registers", "dinov3 vit", "clip", "resnet"]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """The folder of a family, written once and to be read only."""
    parent, made = tmp_path_factory.mktemp("images"), {}

    def find(family):
        if family not in made:
            made[family] = write_image_folder(parent / family.replace(" ", "_"), family)
        return made[family]

    return find


def features_of(backbone, X):
    """Return the output of the network, which of a classifier are its logits."""
    x = torch.stack([backbone.preprocess(image) for image in X])
    with torch.inference_mode():
        return backbone.run(x, [(list_layers(backbone)[-1], "none")])[0].numpy()


@pytest.mark.parametrize("family", EVERYDAY)
def test_the_output_is_that_of_the_library_and_the_network_has_blocks(family, folder_of):
    folder = folder_of(family)
    backbone = load_backbone(f"hf:{folder}")
    found = features_of(backbone, X[:5])
    expected = output_of_library(folder, X[:5])
    # DINOv3's processor resizes numbers, ours bytes: up to one level of 255.
    tolerance = 1e-2 if family.startswith("dinov3") else 1e-4
    assert np.linalg.norm(found - expected) < tolerance * np.linalg.norm(expected)
    assert not cut_of(backbone).why_single
    assert sum(map(has_matrix, stages_of(backbone).values())) > DEPTH
    assert backbone.name == f"hf:{folder.name}"
    assert backbone.has_class_token is (None if family == "resnet" else True)


def test_features_sizes_and_files_of_dinov2(folder_of, tmp_path):
    folder = folder_of("dinov2 with registers")
    made = PretrainedFeatureExtractor(f"hf:{folder}", image_size=[28, 56]).fit(X)
    expected = made.transform(X)
    of_library = output_of_library(folder, X)  # the class token after the last norm
    assert_allclose(expected[:, 32:], of_library, rtol=1e-4, atol=1e-5)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}}
    smaller = output_of_library(folder, X, **size)
    assert_allclose(expected[:, :32], smaller, rtol=1e-4, atol=1e-5)
    assert_array_equal(pickle.loads(pickle.dumps(made)).transform(X), expected)
    sktransfer.save(made, tmp_path / "features.skt")
    assert_array_equal(sktransfer.load(tmp_path / "features.skt").transform(X), expected)


def test_two_blocks_are_trained_and_no_more(folder_of, tmp_path):
    folder = folder_of("clip")
    settings = {"trainable": 2, "max_epochs": 1, "random_state": 0}
    model = FineTunedClassifier(f"hf:{folder}", **settings).fit(X, Y)
    assert trained_stages(model) == ["vision_model.encoder.layers.2", "visual_projection"]
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def test_classes_are_those_of_the_folder(folder_of):
    folder = folder_of("resnet")
    model = PretrainedClassifier(f"hf:{folder}").fit(X)
    assert model.classes_.tolist() == ["cat", "dog", "bee"]
    logits = torch.from_numpy(output_of_library(folder, X))
    assert_allclose(model.predict_proba(X), logits.softmax(1), rtol=1e-4, atol=1e-5)


def test_the_preprocessing_is_that_of_the_image_processor(folder_of, photos):
    from transformers import AutoImageProcessor

    for family in EVERYDAY:
        folder = folder_of(family)
        processor = AutoImageProcessor.from_pretrained(folder)
        preprocess = load_backbone(f"hf:{folder}").preprocess
        for photo in photos[:2]:
            expected = processor(images=np.array(photo), return_tensors="pt")["pixel_values"][0]
            levels = (preprocess(photo) - expected).abs() * torch.tensor(preprocess.std)[
                :, None, None
            ]
            assert levels.max() * 255 <= 1.01


def test_a_processor_config_is_read_too(folder_of, tmp_path):
    folder = shutil.copytree(folder_of("clip"), tmp_path / "clip")
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    here, there = (load_backbone(f"hf:{f}") for f in (folder, folder_of("clip")))
    assert here.preprocess == there.preprocess
    assert here.fingerprint == there.fingerprint  # which does not depend on the path


def test_an_encoder_without_the_weights_of_its_pooler_has_none(folder_of, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(folder_of("vit"), tmp_path / "vit")
    tensors = load_file(folder / "model.safetensors")
    rest = {name: tensor for name, tensor in tensors.items() if "pooler" not in name}
    save_file(rest, folder / "model.safetensors", metadata={"format": "pt"})
    assert list_layers(f"hf:{folder}")[-1] == "layernorm"
    del rest["layernorm.weight"]
    save_file(rest, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 tensors are missing.*'layernorm.weight'"):
        load_backbone(f"hf:{folder}")


def test_a_network_that_takes_more_than_an_image_is_refused_with_a_way_out(folder_of, tmp_path):
    with pytest.raises(ValueError, match=r"family 'siglip2'.*siglip2-base-patch16-224"):
        load_backbone(f"hf:{folder_of('siglip2')}")
    folder = shutil.copytree(folder_of("clip"), tmp_path / "other")
    settings = json.loads((folder / "config.json").read_text())
    settings["architectures"] = ["LlavaForConditionalGeneration"]
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"family 'clip'.*no part of it that takes images alone"):
        load_backbone(f"hf:{folder}")


class Changing(torch.nn.Module):
    """A network whose second module is given something that depends on the image."""

    class Shift(torch.nn.Module):
        def forward(self, x, shift):
            return x + shift

    def __init__(self):
        super().__init__()
        self.model = torch.nn.Module()
        self.first, self.second = torch.nn.Flatten(), self.Shift()

    def forward(self, x):
        return self.second(self.first(x), x.mean())


def test_modules_that_are_no_chain_are_one_stage_with_the_reason():
    from sktransfer.backbones.chains import cut_by_recording

    cut = cut_by_recording(Changing(), torch.randn(1, 3, 4, 4))
    assert list(cut.stages) == ["output"]
    assert cut.why_single == "its modules, run in order, do not give its output"


# the table of all families


@pytest.mark.sweep
@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_chain_of_each_family(family, folder_of, tmp_path, sweep_rows):
    folder = folder_of(family)
    network = network_of_library(folder)
    row = {}
    sweep_rows.append(row)
    backbone = load_backbone(f"hf:{folder}")
    whole_chain(family, backbone, lambda side, x: output_of_network(network, x), tmp_path, row)
    found, expected = features_of(backbone, X), output_of_library(folder, X)
    # DINOv3's processor resizes numbers, ours bytes: up to one level of 255.
    assert difference(found, expected) < (1e-2 if family.startswith("dinov3") else 1e-4)
    assert row["layers"] > DEPTH


def change(folder, file, **settings):
    file = folder / file
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"image_mean": [0.1, 0.2, 0.3]},
        {"resample": 0},
        {"size": {"shortest_edge": 90}},
    ],
)
def test_a_changed_preprocessing_is_noticed(settings, folder_of, tmp_path):
    folder = shutil.copytree(folder_of("clip"), tmp_path / "clip")
    backbone = load_backbone(f"hf:{folder}")
    backbone.modality = noted = NotedImages()
    stored = pickle.dumps(backbone)
    assert pickle.dumps(backbone) == stored
    assert pickle.loads(stored).fingerprint == backbone.fingerprint
    assert len(noted.opened) == 1  # the fixed sample whose output is compared
    model = PretrainedFeatureExtractor(backbone).fit(X)
    sktransfer.save(model, tmp_path / "a.skt")
    sktransfer.load(tmp_path / "a.skt")
    change(folder, "preprocessor_config.json", **settings)
    with pytest.raises(ValueError, match="its preprocessing or another setting"):
        pickle.loads(stored)
    with pytest.raises(ValueError, match="its preprocessing or another setting"):
        sktransfer.load(tmp_path / "a.skt")


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression"])
def test_outputs_that_are_no_probabilities_are_no_classes(problem_type, folder_of, tmp_path):
    folder = shutil.copytree(folder_of("resnet"), tmp_path / "resnet")
    change(folder, "config.json", problem_type=problem_type)
    assert load_backbone(f"hf:{folder}").classes is None


def test_a_zero_in_image_std_is_refused(folder_of, tmp_path):
    folder = shutil.copytree(folder_of("resnet"), tmp_path / "resnet")
    change(folder, "preprocessor_config.json", image_std=[0.5, 0, 0.5])
    with pytest.raises(ValueError, match=r"preprocessor_config.json': image_std=.* has a zero"):
        load_backbone(f"hf:{folder}")


def test_a_preprocessing_by_the_processor_has_a_repr(folder_of):
    folder = folder_of("resnet")
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    assert "ImageProcessor of transformers>" in repr(_ByProcessor(processor))
