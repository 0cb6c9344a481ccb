import pickle

import joblib
import numpy as np
import pytest
import torch
from torch import nn

from sktransfer import FineTunedClassifier, load_backbone
from sktransfer.finetuning.heads import build_module, describe_module, make_head
from sktransfer.finetuning.tuned import FORMAT, TunedNetwork
from tests.finetuning import write_files
from tests.finetuning.conftest import network
from tests.new_process import run_in_new_process

OPEN = """
import sys
import joblib
import numpy as np
for name, (model, X, expected) in joblib.load(sys.argv[1]).items():
    names = ("predict_proba", "predict", "transform")
    found = getattr(model, next(n for n in names if hasattr(model, n)))(X)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=name)
    if name == "labels":
        model.partial_fit(X[:3], ["ant", "bee", "fly"])
        assert model.classes_.tolist() == ["ant", "bee", "fly", "wasp"]
    print(name)
"""


@pytest.mark.parametrize("number", range(1, FORMAT + 1))
def test_files_of_each_format_open_in_a_new_process(number):
    file = write_files.FILES / f"fitted_{number}.joblib"
    assert file.stat().st_size < 200_000
    names = run_in_new_process(OPEN, file).splitlines()
    assert names == list(joblib.load(file))
    assert len(names) > 6


def test_files_of_this_format_are_written_as_they_were():
    kept = joblib.load(write_files.FILES / f"fitted_{FORMAT}.joblib")
    for name, (model, X) in write_files.models().items():
        found = write_files.outputs(model, X)
        np.testing.assert_allclose(found, kept[name][2], rtol=1e-3, atol=1e-4, err_msg=name)
        if hasattr(model, "_tuned"):
            states = (model._tuned.state(), kept[name][0]._tuned.state())
            assert layout(states[0]) == layout(states[1])


def layout(value):
    """Return the keys and types of a state, and the shapes of its arrays."""
    if isinstance(value, dict):
        return {key: layout(entry) for key, entry in value.items() if key != "dur"}
    if isinstance(value, list | tuple):
        return [layout(entry) for entry in value]
    return (value.dtype, value.shape) if isinstance(value, np.ndarray) else type(value)


def test_the_state_is_data(data):
    model = FineTunedClassifier(load_backbone(network()), trainable=1, head="mlp", dropout=0.1)
    state = model.set_params(max_epochs=1).fit(*data)._tuned.state()
    assert b"sktransfer" not in pickle.dumps(state)
    assert b"torch" not in pickle.dumps(state)
    again = TunedNetwork.from_state(model.backbone_, pickle.loads(pickle.dumps(state)))
    activations = model._at_cut(data[0])
    expected = model._tuned.outputs(activations, "cpu", "float32")
    assert np.array_equal(again.outputs(activations, "cpu", "float32"), expected)


def test_a_file_of_a_later_version_says_what_to_do(data):
    model = FineTunedClassifier(load_backbone(network()), max_epochs=0).fit(*data)
    state = model._tuned.state() | {"format": FORMAT + 1}
    with pytest.raises(ValueError, match="install a later version"):
        TunedNetwork.from_state(model.backbone_, state)


@pytest.mark.parametrize(
    "head",
    [
        make_head("linear", 5, 3, 0.0, 0),
        make_head("mlp", 5, 3, 0.4, 0),
        nn.Linear(5, 3, bias=False),
        nn.Sequential(nn.Sequential(nn.Linear(5, 3)), nn.ReLU(inplace=True)),
    ],
)
def test_a_head_is_made_again_of_its_description(head):
    state = torch.get_rng_state()
    description = describe_module(head)
    assert b"torch" not in pickle.dumps(description)
    again = build_module(description)
    assert torch.equal(torch.get_rng_state(), state)
    again.load_state_dict(head.state_dict())
    assert repr(again) == repr(head)
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.eval()(x), head.eval()(x))


def test_a_head_of_other_layers_is_kept_as_a_module(data):
    def head(n_features, n_outputs):
        return nn.Sequential(nn.LayerNorm(n_features), nn.Linear(n_features, n_outputs))

    model = FineTunedClassifier(load_backbone(network()), head=head, max_epochs=1).fit(*data)
    state = pickle.loads(pickle.dumps(model._tuned.state()))
    assert isinstance(state["head"], nn.Sequential)
    again = TunedNetwork.from_state(model.backbone_, state)
    activations = model._at_cut(data[0])
    expected = model._tuned.outputs(activations, "cpu", "float32")
    assert np.array_equal(again.outputs(activations, "cpu", "float32"), expected)
