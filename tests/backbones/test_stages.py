import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from sktransfer import (
    Backbone,
    FineTunedClassifier,
    PretrainedFeatureExtractor,
    list_layers,
    load_backbone,
)
from sktransfer.backbones.layers import penultimate, resolve_layer
from sktransfer.backbones.stages import cut_of, join_stages, make_single, stages_of
from sktransfer.selection.strategies import available_strategies
from tests.support import images, random_backbone

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def run_to(backbone, layer, x):
    with torch.inference_mode():
        for name, stage in stages_of(backbone).items():
            x = stage(x)
            if name == layer:
                return x
    raise AssertionError(f"no layer {layer}")


# tensors that are made in the forward pass


class Shifted(nn.Module):
    """A network in whose graph a tensor is a constant."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.second(self.first(x) + torch.tensor([1.0, 2.0, 3.0]))


def test_a_network_is_the_same_after_it_was_cut():
    module = Shifted()
    fingerprint = Backbone("shifted", module).fingerprint
    backbone, x = Backbone("shifted", module), torch.from_numpy(X)
    before = set(vars(backbone.module))
    layers = list(stages_of(backbone))
    assert len(layers) == 3
    assert set(vars(backbone.module)) == before
    assert backbone.fingerprint == fingerprint
    with torch.inference_mode():
        torch.testing.assert_close(run_to(backbone, layers[-1], x), module(x))


class Converted(nn.Module):
    """A network that gives the outputs of its layers the type of its input."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x):
        dtype = x.dtype
        return self.second(self.first(x).to(dtype)).to(dtype)


def test_the_type_of_an_activation_does_not_prevent_a_cut():
    assert list_layers(Converted()) == ["to", "second", "to_"]


# axes


class Tokens(nn.Module):
    """A map that becomes tokens, and tokens that become channels."""

    def __init__(self):
        super().__init__()
        self.patches, self.mixer = nn.Conv2d(3, 4, 2, 2), nn.Linear(4, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.mixer(x).transpose(1, 2)


def test_a_flattened_map_is_no_layer_before_its_transposition():
    assert list_layers(Tokens()) == ["patches", "transpose", "mixer", "transpose_"]


# dropout called as a function


class Dropping(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(4, 50), nn.Linear(50, 3)
        self.dropout = dropout

    def forward(self, x):
        return self.second(self.dropout(torch.relu(self.first(x)), self.training))


FUNCTIONS = {
    "positions": lambda x, training: nn.functional.dropout(x, 0.5, training),
    "names": lambda x, training: nn.functional.dropout(input=x, training=training, p=0.5),
    "alpha": lambda x, training: nn.functional.alpha_dropout(x, 0.5, training),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_dropout_called_as_a_function_is_a_layer(name):
    network = Dropping(FUNCTIONS[name]).eval()
    extractor = PretrainedFeatureExtractor(network).fit(X)
    assert extractor.layers_ == [list_layers(extractor.backbone_)[-2]]
    assert "dropout" in extractor.layers_[0]
    with torch.inference_mode():
        expected = torch.relu(network.first(torch.from_numpy(X)))
    np.testing.assert_allclose(extractor.transform(X), expected, rtol=1e-5, atol=1e-6)


def test_dropout_called_as_a_function_drops_only_in_training():
    backbone = load_backbone(Dropping(FUNCTIONS["positions"]))
    stage = stages_of(backbone)["dropout"]
    x = torch.ones(2, 50)
    assert torch.equal(stage(x), x)
    dropped = stage.train()(x)
    assert 0 < (dropped == 0).sum() < 100


@pytest.mark.parametrize(("given", "share"), [({}, 0.5), ({"p": 0.25}, 0.25)])
def test_dropout_called_as_a_function_drops_the_share_that_it_would_drop(given, share):
    def dropout(x, training):
        return nn.functional.dropout(x, training=training, **given)

    stage = stages_of(load_backbone(Dropping(dropout)))["dropout"]
    (module,) = (m for m in stage.modules() if isinstance(m, nn.Dropout))
    assert module.p == share


class PlainTensors(Dropping):
    """A block with dropout as a function, an attribute that is a tensor, and a constant."""

    def __init__(self):
        super().__init__(FUNCTIONS["positions"])
        self.scale = torch.full((50,), 2.0)

    def forward(self, x):
        x = self.first(x)
        x = x + self.dropout(torch.relu(x) * self.scale, self.training) * torch.arange(50.0)
        return self.second(x)


def test_a_stage_with_dropout_reads_tensors_that_are_no_parameters():
    network = PlainTensors().eval()
    extractor = PretrainedFeatureExtractor(network, layer=-1).fit(X)
    assert len(list_layers(extractor.backbone_)) > 1
    with torch.inference_mode():
        expected = network(torch.from_numpy(X))
    np.testing.assert_allclose(extractor.transform(X), expected, rtol=1e-5, atol=1e-5)
    tuned = FineTunedClassifier(network, trainable="all", max_epochs=1).fit(X, [0, 1] * 3)
    assert np.isfinite(tuned.predict_proba(X)).all()


def test_densenet_with_dropout_is_cut():
    network = models.DenseNet(4, (2, 2), 8, 2, drop_rate=0.1, num_classes=3)
    backbone = load_backbone(network, modality="array")
    extractor = PretrainedFeatureExtractor(backbone).fit(np.ones((2, 3, 32, 32), np.float32))
    assert extractor.layers_ == ["flatten"]
    assert len(list_layers(backbone)) > 3


# several heads


class TwoHeads(nn.Module):
    """Two linear layers on two values, of which the output is the mean."""

    def __init__(self, widths=(5, 5), order="inputs first"):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.one, self.two = (nn.Linear(4, width) for width in widths)
            self.head, self.head_dist = (nn.Linear(width, 3) for width in widths)
        self.order = order

    def forward(self, x):
        if self.order == "inputs first":
            a, b = torch.tanh(self.one(x)), torch.tanh(self.two(x))
            return (self.head(a) + self.head_dist(b)) / 2
        y = self.head(torch.tanh(self.one(x)))
        return (y + self.head_dist(torch.tanh(self.two(x)))) / 2


@pytest.mark.parametrize("order", ["inputs first", "in turn"])
@pytest.mark.parametrize("widths", [(5, 5), (5, 7)])
def test_the_default_layer_of_two_heads_is_what_feeds_them(widths, order):
    network = TwoHeads(widths, order).eval()
    backbone = load_backbone(network)
    x = torch.from_numpy(X)
    with torch.inference_mode():
        a, b = torch.tanh(network.one(x)), torch.tanh(network.two(x))
        expected = (a + b) / 2 if widths[0] == widths[1] else torch.cat([a, b], 1)
    extractor = PretrainedFeatureExtractor(backbone).fit(X)
    assert extractor.layers_ == ["pre_logits"]
    np.testing.assert_allclose(extractor.transform(X), expected, rtol=1e-5, atol=1e-6)
    whole = run_to(backbone, list_layers(backbone)[-1], x)
    np.testing.assert_allclose(whole, network(x).detach(), rtol=1e-5, atol=1e-6)


class Gated(TwoHeads):
    """Two heads beside which the network's input is needed."""

    def forward(self, x):
        return super().forward(x) * x.sum(1, keepdim=True)


def test_a_value_needed_beside_the_heads_prevents_the_join():
    backbone = load_backbone(Gated())
    assert cut_of(backbone).head_input is None
    assert list_layers(backbone) == ["mul"]


def test_inputs_of_last_modules_that_are_not_all_linear_are_not_joined():
    network = TwoHeads((5, 3))
    network.head_dist = nn.BatchNorm1d(3)
    assert cut_of(load_backbone(network)).head_input is None
    assert list_layers(network) == ["add", "truediv"]


def test_one_head_named_by_its_source_gives_the_default_layer():
    network = nn.Sequential(
        nn.Linear(4, 6), nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    )
    plain = Backbone("plain", network, classes="abc")
    assert penultimate(plain) == "1.1"
    assert cut_of(plain).head_input is None  # one linear layer may be no head
    assert penultimate(Backbone("named", network, classes="abc", heads=["1"])) == "0"


# names of modules


class NormedHeads(TwoHeads):
    """Two heads that begin with a norm of their own, as those of LeViT do."""

    def __init__(self):
        super().__init__((8, 5))
        self.head = nn.Sequential(nn.BatchNorm1d(8), self.head)
        self.head_dist = nn.Sequential(nn.BatchNorm1d(5), self.head_dist)


def test_heads_that_begin_with_a_norm_are_joined_before_it():
    network = NormedHeads().eval()
    backbone = Backbone("normed", network, classes="abc", heads=["head", "head_dist"])
    assert penultimate(backbone) == "pre_logits"
    assert run_to(backbone, "pre_logits", torch.from_numpy(X)).shape == (6, 13)


def test_engines_of_earlier_stages_are_not_used_again():
    backbone = load_backbone(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)))
    extractor = PretrainedFeatureExtractor(backbone, layer="1").fit(X)
    assert extractor.transform(X).shape == (6, 5)
    for change in (lambda: join_stages(backbone, {0}), lambda: make_single(backbone, "a reason")):
        backbone.prepared["engines"] = "of other stages"
        change()
        assert "engines" not in backbone.prepared
    assert list(stages_of(backbone)) == ["output"]
    assert cut_of(backbone).why_single == "a reason"


def test_a_network_given_as_one_stage_says_so():
    module = nn.Linear(4, 5)
    backbone = load_backbone(module, stages={"all": module})
    assert cut_of(backbone).why_single == "it is given as one stage"
    assert list(stages_of(backbone)) == ["all"]


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.left, self.right, self.top = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.unused = nn.Linear(4, 4)

    def forward(self, x):
        x = self.stem(x)
        return self.top(torch.relu(self.left(x)) + self.right(x))


def test_a_module_that_ends_at_a_layer_is_its_name_too():
    layers = list_layers(Branches())
    assert layers == ["stem.0", "stem.1", "add", "top"]
    assert resolve_layer(load_backbone(Branches()), "stem") == "stem.1"


def test_a_module_that_ends_elsewhere_says_why_it_is_no_layer():
    backbone = load_backbone(Branches())
    with pytest.raises(ValueError, match=r"'left' is not a place.*other values \(.*\).*Nearest"):
        resolve_layer(backbone, "left")
    with pytest.raises(ValueError, match=r"'unused'.*does not call this module"):
        resolve_layer(backbone, "unused")
    resnet = random_backbone("resnet18")
    with pytest.raises(ValueError, match=r"layer1.0.conv1.*other values"):
        resolve_layer(resnet, "layer1.0.conv1")
    with pytest.raises(ValueError, match=r"layer1.0.relu.*called more than once"):
        resolve_layer(resnet, "layer1.0.relu")


# networks that are a single stage


class Calling(nn.Module):
    """Linear layers, and functions that are called between them and again."""

    def __init__(self, inner=None):
        super().__init__()
        self.inner, self.last = inner or nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = torch.tanh(torch.relu(torch.tanh(self.inner(x))))
        return self.last(torch.tanh(x))


def test_a_step_that_is_no_module_is_named_by_its_function_in_its_module():
    own = ["inner", "tanh", "relu", "tanh_", "tanh__", "last"]
    assert list_layers(load_backbone(Calling())) == own
    nested = load_backbone(nn.Sequential(Calling(Calling())))
    inside = [f"0.inner.{name}" for name in own]
    assert list_layers(nested) == [*inside, *(f"0.{name}" for name in own[1:])]


@pytest.mark.parametrize(("n", "values"), [(2, "b1"), (4, "b1, b2, b3"), (5, "b1, b2, b3, …")])
def test_at_most_three_values_are_named_that_prevent_a_cut(n, values):
    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            for i in range(n):
                self.add_module(f"b{i}", nn.Linear(4, 4))

        def forward(self, x):
            made = [getattr(self, f"b{i}")(x) for i in reversed(range(n))]
            return torch.stack(made).sum(0)

    why = cut_of(load_backbone(Parallel())).obstacles["b0"]
    assert why == f"later operations also need other values ({values})"


class Verbose(nn.Module):
    def forward(self, x):
        if isinstance(x, torch.fx.Proxy):
            raise RuntimeError("no" * 5000)
        return x


def test_a_long_reason_is_cut_short():
    backbone = load_backbone(Verbose(), classes=["a"])
    with pytest.raises(ValueError) as info:
        resolve_layer(backbone, "first")
    assert "RuntimeError: nono" in str(info.value)
    assert len(str(info.value)) < 500


class ByValue(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = self.first(x)
        return self.second(x if x.sum() > 0 else -x)


def test_a_classifier_of_one_stage_warns_once_and_says_why():
    backbone = load_backbone(ByValue(), classes=list("abc"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            PretrainedFeatureExtractor(backbone).fit(X)
    told = [str(w.message) for w in caught if "could not be cut" in str(w.message)]
    assert len(told) == 1
    assert "TraceError" in told[0]
    assert "stages=" in told[0]


@pytest.mark.parametrize("settings", [{"layer": -1}, {"layer": "output"}])
def test_the_output_of_one_stage_can_be_asked_for_without_a_warning(settings, recwarn):
    backbone = load_backbone(ByValue(), classes=list("abc"))
    PretrainedFeatureExtractor(backbone, **settings).fit(X)
    PretrainedFeatureExtractor(ByValue()).fit(X)  # without classes it may be an encoder
    assert not [w for w in recwarn if "could not be cut" in str(w.message)]


@pytest.mark.filterwarnings("ignore:.*gives other numbers for a sample in another batch")
@pytest.mark.parametrize("trainable", ["head", 1])
def test_a_head_on_the_outputs_of_one_stage_is_refused(trainable):
    backbone = load_backbone(ByValue(), classes=list("abc"))
    classifier = FineTunedClassifier(backbone, trainable=trainable, max_epochs=1)
    with pytest.raises(ValueError, match=rf"trainable={trainable!r}: .*'byvalue' could not be cut"):
        classifier.fit(X, [0, 1] * 3)


def test_a_choice_of_strategies_leaves_out_a_head_on_one_stage():
    assert available_strategies(load_backbone(ByValue(), classes=list("abc"))) == [
        "direct",
        "features",
        "all",
    ]
    assert "head" in available_strategies(load_backbone(ByValue()))


# timm


TIMM = ["test_vit", "test_byobnet", "test_convnext", "test_efficientnet", "test_mambaout"]


def timm_backbone(module, size):
    """Wrap a network of timm's classes, smaller than any that has a name."""
    from sktransfer.backbones.preprocessing import ImagePreprocessing
    from sktransfer.backbones.timm import _classifier, _untraced

    preprocess = ImagePreprocessing(size, size, (0.5,) * 3, (0.5,) * 3)
    classes = [str(i) for i in range(module.num_classes)]
    return Backbone(
        "own",
        module,
        preprocess=preprocess,
        classes=classes,
        heads=_classifier(module),
        opaque=_untraced(),
    )


def check_default_features(backbone):
    """Compare default features of two images with timm's own, and return their width."""
    size = backbone.input_shape[-1]
    X = images(2, (size, size))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(fast form|could not be cut)")
        found = PretrainedFeatureExtractor(backbone).fit(X).transform(X)
    x = torch.stack([backbone.preprocess(image) for image in X])
    with torch.inference_mode():
        module = backbone.module
        expected = module.forward_head(module.forward_features(x), pre_logits=True).flatten(1)
    assert found.shape == expected.shape
    scale = np.abs(expected.numpy()).max()
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-4)
    return found.shape[1]


@pytest.mark.parametrize("name", TIMM)
def test_default_features_are_timm_s_own(name):
    pytest.importorskip("timm")
    backbone = random_backbone(f"timm:{name}")
    assert check_default_features(backbone) == backbone.module.head_hidden_size


def distilled():
    from timm.models.deit import VisionTransformerDistilled

    small = {"patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2}
    return VisionTransformerDistilled(img_size=16, num_classes=3, **small)


def cross():
    from timm.models.crossvit import CrossVit

    return CrossVit(
        img_size=24,
        patch_size=(6, 8),
        embed_dim=(8, 12),
        depth=((1, 1, 0),),
        num_heads=(2, 2),
        num_classes=3,
    )


def pooled():
    from timm.models.pit import PoolingVisionTransformer

    small = {"base_dims": (4, 4), "depth": (1, 1), "heads": (2, 4), "distilled": True}
    return PoolingVisionTransformer(32, patch_size=8, stride=4, num_classes=3, **small)


def xcit():
    from timm.models.xcit import Xcit

    return Xcit(32, patch_size=16, num_classes=3, embed_dim=16, depth=2, num_heads=2)


@pytest.mark.parametrize(
    ("build", "size", "width"),
    [(distilled, 16, 12), (cross, 24, 20), (pooled, 32, 16), (xcit, 32, 16)],
)
def test_default_features_of_several_heads_are_timm_s_own(build, size, width):
    pytest.importorskip("timm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build()
        for parameter in module.parameters():  # timm leaves class tokens and heads near zero
            nn.init.normal_(parameter, std=0.2)
    assert check_default_features(timm_backbone(module.eval(), size)) == width


def test_modules_that_timm_does_not_trace_are_one_operation():
    pytest.importorskip("timm")
    backbone = random_backbone("timm:test_byobnet")
    kinds = {type(m).__name__ for s in stages_of(backbone).values() for m in s.modules()}
    assert "BatchNormAct2d" in kinds
    assert cut_of(backbone).why_single == ""
    layers = list_layers(backbone)
    for info in backbone.module.feature_info:
        assert resolve_layer(backbone, info["module"]) in layers


class Headed(nn.Module):
    """A network with timm's methods; some of the head's steps run for pre-logits, too."""

    def __init__(self, n_before):
        super().__init__()
        self.body = nn.Linear(4, 5)
        steps = [nn.Linear(5, 6), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 3)]
        self.head, self.n_before = nn.Sequential(*steps), n_before

    def get_classifier(self):
        return self.head[-1]

    def forward_features(self, x):
        return self.body(x)

    def forward_head(self, x, pre_logits=False):
        if not pre_logits:
            return self.head(x)
        for step in list(self.head)[: self.n_before]:
            x = step(x)
        return x

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


@pytest.mark.parametrize(
    ("n_before", "layer"), [(0, "body"), (1, "head.0"), (2, "head.1"), (3, "head.2")]
)
def test_the_classifier_of_timm_is_what_does_not_run_for_pre_logits(n_before, layer):
    pytest.importorskip("timm")
    from sktransfer.backbones.timm import _classifier

    module = Headed(n_before)
    backbone = Backbone("headed", module, classes="abc", heads=_classifier(module))
    assert penultimate(backbone) == layer
