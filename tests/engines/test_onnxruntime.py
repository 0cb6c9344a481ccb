import numpy as np
import pytest
import torch

from sktransfer import PretrainedClassifier
from tests.support import images, make_engine, tiny_backbone


def test_another_precision_is_refused_in_fit():
    model = PretrainedClassifier(
        tiny_backbone(), engine="onnxruntime", precision="bfloat16", class_map="learn"
    )
    with pytest.raises(ValueError, match="'bfloat16' cannot be used with engine='onnxruntime'"):
        model.fit(images(2), ["a", "b"])


def test_the_file_is_onnx(tmp_path):
    onnx = pytest.importorskip("onnx")
    made = make_engine(tiny_backbone(), ("2",), runtime="onnxruntime", conversions=tmp_path)
    made.run(torch.ones(1, 3, 16, 16))
    (file,) = tmp_path.glob("*/network.onnx")
    onnx.checker.check_model(onnx.load(file))


def test_outputs_of_a_classifier_are_those_of_torch():
    X = images(5)
    model = PretrainedClassifier(tiny_backbone(), engine="onnxruntime").fit(X)
    expected = PretrainedClassifier(tiny_backbone()).fit(X).predict_proba(X)
    np.testing.assert_allclose(model.predict_proba(X), expected, rtol=1e-4)
