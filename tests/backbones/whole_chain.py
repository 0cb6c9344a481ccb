"""Everything that a network for images is used for, as a row of the table of families."""

import pickle
import warnings

import numpy as np
import torch
from numpy.testing import assert_array_equal

import sktransfer
from sktransfer import (
    FineTunedClassifier,
    PretrainedFeatureExtractor,
    TransferClassifier,
    list_layers,
)
from sktransfer.backbones.layers import takes_size
from sktransfer.backbones.stages import has_matrix, stages_of
from tests.support import images

X, Y = images(12, (90, 80)), np.array(["ant", "bee"] * 6)


def outcome(run):
    """Return what a step gives, or the beginning of the message of its error."""
    try:
        return run()
    except (ValueError, TypeError) as error:
        return f"refused: {error!s:.90}"


def trained_stages(model):
    """Return the names of the stages below the head whose weights are trained."""
    names = model.net_.module_.names
    return [name for name in names if has_matrix(stages_of(model.backbone_)[name])]


def output_of_stages(backbone, X):
    """Return what the stages make of images, and the preprocessed images."""
    x = torch.stack([backbone.preprocess(image) for image in X])
    with torch.inference_mode():
        y = x.clone()
        for stage in stages_of(backbone).values():
            y = stage(y)
    return y.numpy(), x


def difference(found, expected):
    """Return the relative distance of two arrays."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def other_sizes(backbone):
    """Return sizes below and above that of the weights that a network takes."""
    if not hasattr(backbone.preprocess, "with_size"):
        return []
    native, step = backbone.input_shape[1], backbone.patch_size or 32
    return [side for side in (native - step, native + step) if takes_size(backbone, side)]


def whole_chain(name, backbone, library, tmp_path, row, sizes=None):
    """Run all that can be done with a network, and fill in a row of the table.

    ``library`` is a function from a size, None for that of the weights, and preprocessed images to
    the output of the network in its library.
    """
    row |= {"network": name, "loads": "yes", "unreached": ""}
    found, x = output_of_stages(backbone, X)
    row["equals"] = difference(found, library(None, x))
    row["layers"] = len(list_layers(backbone))
    sizes = other_sizes(backbone) if sizes is None else sizes
    row["sizes"] = " ".join(map(str, sizes)) or "no others"
    for side in sizes:
        found, x = output_of_stages(backbone.with_image_size(side), X[:2])
        assert difference(found, library(side, x)) < 1e-5
        features = PretrainedFeatureExtractor(backbone, image_size=side).fit_transform(X[:2])
        assert np.isfinite(features).all()
    features = PretrainedFeatureExtractor(backbone).fit(X)
    expected = features.transform(X)
    assert np.isfinite(expected).all()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Training did not help")
        tuned = FineTunedClassifier(backbone, trainable=2, max_epochs=1, random_state=0)
        row["trained"] = outcome(lambda: " ".join(trained_stages(tuned.fit(X, Y))))
        blend = TransferClassifier(backbone, random_state=0).fit(X, Y)
    row["blend"] = "yes" if np.isfinite(blend.predict_proba(X)).all() else "no"
    assert_array_equal(pickle.loads(pickle.dumps(features)).transform(X), expected)
    row["pickle"] = "yes"
    path = tmp_path / "features.skt"
    row["save"] = outcome(lambda: sktransfer.save(features, path) or "yes")
    if row["save"] == "yes":
        assert_array_equal(sktransfer.load(path).transform(X), expected)
    path = tmp_path / "features.onnx"  # is compared with the features when it is made
    row["ONNX"] = outcome(lambda: sktransfer.to_onnx(features, path, X=X) or "yes")
    assert row["equals"] < 1e-5
    assert len(row["trained"].split()) == 2
