"""Backbones of ONNX files. The graphs are made with the package onnx, operation by operation."""

import json
import os
import pickle

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from sktransfer import (
    FineTunedClassifier,
    ImagePreprocessing,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    TransferClassifier,
    list_layers,
    load,
    load_onnx,
    save,
    to_onnx,
)
from sktransfer.inspection import saliency
from sktransfer.inspection.gradients import NoGradientsError
from tests.new_process import run_in_new_process
from tests.support import images, require_openvino

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

PREPROCESS = ImagePreprocessing(10, 8, (0.5,) * 3, (0.25,) * 3)
WEIGHT = np.random.default_rng(0).normal(size=(192, 6)).astype(np.float32)
X, Y = images(16), np.array(["ant", "bee"] * 8)


def graph(n="n", kind=TensorProto.FLOAT, weight=None, extra_inputs=()):
    """A graph of two outputs: "features", pixels times a matrix, and "logits", their sine."""
    numbers = numpy_helper.from_array(WEIGHT, "weight") if weight is None else weight
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["features"]),
        helper.make_node("Sin", ["features"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info("image", kind, [n, 3, 8, 8]), *extra_inputs]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [n, 6])
        for name in ("features", "logits")
    ]
    made = helper.make_graph(nodes, "small", inputs, outputs, [numbers])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def file(tmp_path):
    onnx.save(graph(), tmp_path / "small.onnx")
    return tmp_path / "small.onnx"


def wanted(output="features"):
    pixels = torch.stack([PREPROCESS(image) for image in X]).flatten(1).numpy()
    return pixels @ WEIGHT if output == "features" else np.sin(pixels @ WEIGHT)


@pytest.mark.parametrize("output", ["features", "logits"])
def test_features_are_an_output_of_the_graph(file, output):
    backbone = load_onnx(file, output=output, preprocess=PREPROCESS)
    assert list_layers(backbone) == [output]
    features = PretrainedFeatureExtractor(backbone).fit_transform(X)
    assert np.allclose(features, wanted(output), atol=1e-4)


def test_the_last_output_is_the_default_and_arrays_are_its_input(file):
    backbone = load_onnx(file)
    assert list_layers(backbone) == ["logits"]
    pixels = np.stack([PREPROCESS(image).numpy() for image in X])
    features = PretrainedFeatureExtractor(backbone).fit_transform(pixels)
    assert np.allclose(features, wanted("logits"), atol=1e-4)


def test_a_classifier_predicts_its_own_classes(file):
    backbone = load_onnx(file, preprocess=PREPROCESS, classes="abcdef")
    predicted = PretrainedClassifier(backbone).fit(X).predict(X)
    assert predicted.tolist() == np.array(list("abcdef"))[wanted("logits").argmax(1)].tolist()


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_floats_and_graphs_for_one_sample_are_run(tmp_path, kind):
    onnx.save(graph(n=1, kind=kind), tmp_path / "one.onnx")
    backbone = load_onnx(tmp_path / "one.onnx", output="features", preprocess=PREPROCESS)
    features = PretrainedFeatureExtractor(backbone).fit_transform(X)
    assert np.allclose(features, wanted(), rtol=1e-2, atol=0.1)


@pytest.mark.slow
def test_pickles_and_workers_have_the_graph_and_need_no_file(file):
    backbone = load_onnx(file, output="features", preprocess=PREPROCESS)
    model = make_pipeline(PretrainedFeatureExtractor(backbone), LogisticRegression())
    file.unlink()
    scores = cross_val_score(clone(model), X, Y, cv=2)
    with joblib.parallel_config("multiprocessing", n_jobs=2):
        assert np.array_equal(cross_val_score(clone(model), X, Y, cv=2), scores)
    model.fit(X, Y)
    path = file.with_suffix(".pkl")
    path.write_bytes(pickle.dumps((model, X)))
    code = "import pickle, sys; model, X = pickle.load(open(sys.argv[1], 'rb')); "
    code += "print(model.predict_proba(X)[:, 0].tolist())"
    found = json.loads(run_in_new_process(code, path))
    assert np.allclose(found, model.predict_proba(X)[:, 0], atol=1e-6)


def test_the_store_tells_graphs_and_outputs_apart(file, tmp_path):
    settings = {"preprocess": PREPROCESS}
    made = [load_onnx(file, output=name, **settings) for name in ("features", "logits")]
    onnx.save(graph(weight=numpy_helper.from_array(2 * WEIGHT, "weight")), file)
    made.append(load_onnx(file, output="features", **settings))
    assert len({backbone.fingerprint for backbone in made}) == 3
    features = [
        PretrainedFeatureExtractor(backbone, memory=tmp_path / "store").fit_transform(X)
        for backbone in made
    ]
    assert np.allclose(2 * features[0], features[2], atol=1e-4)
    assert np.allclose(np.sin(features[0]), features[1], atol=1e-4)


@pytest.mark.slow
def test_only_a_head_can_be_trained(file, tmp_path):
    backbone = load_onnx(file, output="features", preprocess=PREPROCESS)
    for trainable in ("all", 1, "norm", "lora"):
        message = rf"trainable={trainable!r}: backbone 'small' runs in ONNX Runtime and cannot be"
        with pytest.raises(ValueError, match=message):
            FineTunedClassifier(backbone, trainable=trainable).fit(X, Y)
    model = FineTunedClassifier(backbone, random_state=0).fit(X, Y)
    assert TransferClassifier(backbone, random_state=0).fit(X, Y).predict(X).shape == (16,)
    save(model, tmp_path / "model.skt")
    with pytest.raises(ValueError, match="needs the function 'small'"):
        load(tmp_path / "model.skt")

    def network():
        return load_onnx(file, output="features", preprocess=PREPROCESS)

    with pytest.raises(ValueError, match="give a function that returns the network, not the Back"):
        load(tmp_path / "model.skt", modules={"small": network()})
    again = load(tmp_path / "model.skt", modules={"small": network})
    assert np.allclose(again.predict_proba(X), model.predict_proba(X), atol=1e-6)


def test_what_needs_pytorch_is_refused(file, tmp_path):
    backbone = load_onnx(file, output="features", preprocess=PREPROCESS)
    model = FineTunedClassifier(backbone, random_state=0).fit(X, Y)
    for estimator in (model, PretrainedFeatureExtractor(backbone).fit(X)):
        with pytest.raises(ValueError, match=r"runs in ONNX Runtime.*Use save\(\)"):
            to_onnx(estimator, tmp_path / "joined.onnx")
    with pytest.raises(NoGradientsError, match="ONNX Runtime, which gives no gradients"):
        saliency(model, X[:1], method="integrated_gradients")
    assert np.isfinite(saliency(model, X[:1], method="occlusion").maps[0]).all()


def test_the_graph_gets_float32_in_each_precision(file):
    backbone = load_onnx(file, output="features", preprocess=PREPROCESS)
    extractor = PretrainedFeatureExtractor(backbone, precision="bfloat16")
    usual = PretrainedFeatureExtractor(backbone).fit_transform(X)
    assert np.array_equal(extractor.fit_transform(X), usual)
    assert extractor.execution_["precision"] == "float32"
    model = FineTunedClassifier(backbone, precision="bfloat16", random_state=0, max_epochs=1)
    assert model.fit(X, Y).execution_["precision"] == "float32"


@pytest.mark.parametrize("engine", ["compile", "onnxruntime", "openvino"])
def test_other_engines_are_refused(file, engine):
    backbone = load_onnx(file, preprocess=PREPROCESS)
    if engine == "openvino":
        require_openvino()
    with pytest.raises(ValueError, match=f"engine='{engine}' .* 'small', which runs in ONNX Run"):
        PretrainedFeatureExtractor(backbone, engine=engine).fit_transform(X)


def test_another_layer_is_an_output(file):
    backbone = load_onnx(file, preprocess=PREPROCESS)
    with pytest.raises(
        ValueError, match=r"layer='zz'.*'logits' is its only.*load_onnx\(file, output"
    ):
        PretrainedFeatureExtractor(backbone, layer="zz").fit(X)


def test_inputs_of_another_shape_are_refused_with_the_preprocessing_to_give(file):
    wide = ImagePreprocessing(20, 16, (0.5,) * 3, (0.25,) * 3)
    message = (
        r"shape \(3, 8, 8\), got \(3, 16, 16\). Give .*ImagePreprocessing\(…, crop=8, …\) with 3"
    )
    with pytest.raises(ValueError, match=message):
        PretrainedFeatureExtractor(load_onnx(file, preprocess=wide)).fit(X)
    for rows in (np.zeros((2, 5)), np.zeros((2, 3, 8, 9))):
        with pytest.raises(ValueError, match=r"takes samples of shape \(3, 8, 8\), got"):
            PretrainedFeatureExtractor(load_onnx(file)).fit(rows)


def test_a_shape_that_no_axis_names_is_refused_with_the_reason_of_the_runtime(tmp_path):
    model = graph()
    for axis in model.graph.input[0].type.tensor_type.shape.dim[1:]:
        axis.dim_param = "any"
    onnx.save(model, tmp_path / "free.onnx")
    backbone = load_onnx(tmp_path / "free.onnx")
    with pytest.raises(ValueError, match=r"cannot run samples of shape \(3, 8, 9\)"):
        PretrainedFeatureExtractor(backbone).fit(np.zeros((2, 3, 8, 9)))


def test_an_output_that_does_not_exist_is_refused_with_the_names(file):
    with pytest.raises(ValueError, match=r"output='pool': .* \['features', 'logits'\]"):
        load_onnx(file, output="pool")


def integers(name):
    return helper.make_tensor_value_info(name, TensorProto.INT64, ["n", 4])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: graph(kind=TensorProto.INT64), "one input of numbers.*hf:<folder>"),
        (lambda: graph(extra_inputs=[integers("mask")]), "one input of numbers"),
        (lambda: graph(n=4), "a fixed number of samples"),
    ],
)
def test_graphs_with_other_inputs_are_refused(tmp_path, made, message):
    onnx.save(made(), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=message):
        load_onnx(tmp_path / "other.onnx")


def test_texts_are_refused(file):
    with pytest.raises(ValueError, match="texts are not supported"):
        load_onnx(file, modality="text")


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no ONNX file"):
        load_onnx(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(ValueError, match=r"is no ONNX file|refuses the graph"):
        load_onnx(tmp_path / "text.onnx")
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(ValueError, match="no ONNX file: it is empty"):
        load_onnx(tmp_path / "empty.onnx")


# -- tensors in other files ------------------------------------------------------------------------


def external(**entries):
    tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=WEIGHT.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def write(folder, tensor):
    folder.mkdir()
    (folder / "a.onnx").write_bytes(graph(weight=tensor).SerializeToString())
    return folder / "a.onnx"


def test_tensors_in_a_file_of_the_same_folder_are_read(tmp_path):
    path = write(tmp_path / "model", external(location="data/weights", offset=8, length=4608))
    (path.parent / "data").mkdir()
    (path.parent / "data" / "weights").write_bytes(bytes(8) + WEIGHT.tobytes())
    backbone = load_onnx(path, output="features", preprocess=PREPROCESS)
    assert np.allclose(PretrainedFeatureExtractor(backbone).fit_transform(X), wanted(), atol=1e-4)


@pytest.mark.parametrize("place", ["../secret", "absolute", "link", "/dev/zero", "missing", ""])
def test_a_file_outside_the_folder_is_never_read(tmp_path, place):
    secret = tmp_path / "secret"
    secret.write_bytes(WEIGHT.tobytes())
    location = str(secret) if place == "absolute" else place
    path = write(tmp_path / "model", external(location=location))
    if place == "link":
        os.symlink(secret, path.parent / "link")
    with pytest.raises(ValueError, match=r"'weight' is in .* no file in the folder"):
        load_onnx(path)


@pytest.mark.parametrize("entries", [{"length": 9999}, {"offset": -4}, {"offset": "x"}])
def test_a_tensor_that_is_not_whole_is_refused(tmp_path, entries):
    path = write(tmp_path / "model", external(location="weights", **entries))
    (path.parent / "weights").write_bytes(WEIGHT.tobytes())
    with pytest.raises(ValueError, match="'weight' is not whole in 'weights'"):
        load_onnx(path)


def test_a_tensor_inside_a_node_is_checked_as_well(tmp_path):
    model = graph()
    constant = helper.make_node("Constant", [], ["unused"], value=external(location="../secret"))
    model.graph.node.append(constant)
    (tmp_path / "secret").write_bytes(WEIGHT.tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="no file in the folder"):
        load_onnx(folder / "a.onnx")
