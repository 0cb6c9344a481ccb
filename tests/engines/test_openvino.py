import sys

import numpy as np
import pytest
import torch

from sktransfer import PretrainedFeatureExtractor
from sktransfer.engines.openvino import OpenVINOEngine
from tests.new_process import run_in_new_process
from tests.support import images, make_engine, tiny_backbone

CPU = torch.device("cpu")


def compiled(**settings):
    made = make_engine(tiny_backbone(), ("2",), runtime="openvino", **settings)
    made.run(torch.ones(1, 3, 16, 16))
    (requests,) = made._runs.values()
    return requests.compiled


def has_bfloat16() -> bool:
    try:
        OpenVINOEngine.check(CPU, "bfloat16")
    except ValueError as error:
        assert "needs a processor that computes in bfloat16" in str(error)
        return False
    return True


@pytest.mark.slow
def test_threads_and_precisions_are_set_and_one_conversion_serves_both_precisions(tmp_path):
    found = compiled(conversions=tmp_path)
    assert found.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    n_streams = found.get_property("NUM_STREAMS")
    assert 1 <= n_streams <= 4
    assert found.get_property("INFERENCE_NUM_THREADS") == n_streams * torch.get_num_threads()
    assert not found.get_property("ENABLE_CPU_PINNING")
    if not has_bfloat16():
        pytest.skip("the processor has no bfloat16")
    low = compiled(conversions=tmp_path, precision="bfloat16")
    assert low.get_property("INFERENCE_PRECISION_HINT").to_string() == "bf16"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_bfloat16_is_near_and_another_entry_of_the_store(tmp_path):
    if not has_bfloat16():
        pytest.skip("the processor has no bfloat16")
    X = images(3)
    exact = PretrainedFeatureExtractor(tiny_backbone(), memory=tmp_path).fit(X).transform(X)
    model = PretrainedFeatureExtractor(
        tiny_backbone(), engine="openvino", precision="bfloat16", memory=tmp_path
    )
    found = model.fit(X).transform(X)
    assert model.execution_["precision"] == "bfloat16"
    assert 1e-5 < np.linalg.norm(found - exact) / np.linalg.norm(exact) < 0.05


@pytest.mark.slow
def test_openvino_itself_converts_a_traced_lite_network():
    pytest.importorskip("openvino")
    code = """
import numpy as np, openvino, torch
from sktransfer.backbones.lite import ConvNormAct
network, x = ConvNormAct(3, 8, kernel=3, stride=2).eval(), torch.rand(1, 3, 16, 16)
model = openvino.compile_model(openvino.convert_model(network, example_input=x), "CPU")
with torch.no_grad():
    print(np.abs(model(x.numpy())[0] - network(x).numpy()).max() < 0.01)
"""
    assert run_in_new_process(code).strip() == "True"


def test_nothing_is_reported_over_the_network():
    code = """
import sys
from sktransfer.engines.openvino import _openvino
assert "openvino" not in sys.modules
_openvino()
assert "openvino" in sys.modules
print([name for name in sys.modules if name.startswith("openvino_telemetry")])
"""
    assert run_in_new_process(code).strip() == "[]"
    assert "openvino_telemetry" not in sys.modules


def test_two_poolings_of_a_vector():
    X, settings = images(2), {"layer": "4", "pooling": ["avg", "max"]}
    expected = PretrainedFeatureExtractor(tiny_backbone(), **settings).fit_transform(X)
    model = PretrainedFeatureExtractor(tiny_backbone(), engine="openvino", **settings)
    features = model.fit_transform(X)
    np.testing.assert_allclose(features, expected, atol=1e-4)
