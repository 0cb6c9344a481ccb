import numpy as np
import pytest

from sktransfer import PretrainedClassifier
from tests.support import images, tiny_backbone


def test_another_precision_is_refused_in_fit():
    model = PretrainedClassifier(
        tiny_backbone(), engine="onnxruntime", precision="bfloat16", class_map="learn"
    )
    with pytest.raises(ValueError, match="'bfloat16' cannot be used with engine='onnxruntime'"):
        model.fit(images(2), ["a", "b"])


def test_outputs_of_a_classifier_are_those_of_torch_and_its_file_is_onnx(tmp_path):
    onnx = pytest.importorskip("onnx")
    X = images(5)
    model = PretrainedClassifier(tiny_backbone(), engine="onnxruntime", memory=tmp_path).fit(X)
    expected = PretrainedClassifier(tiny_backbone()).fit(X).predict_proba(X)
    np.testing.assert_allclose(model.predict_proba(X), expected, rtol=1e-4)
    (file,) = tmp_path.glob("converted/*/network.onnx")
    onnx.checker.check_model(onnx.load(file))
