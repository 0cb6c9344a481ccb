import pickle
import re
import warnings

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from sktransfer import AverageWeights, FineTunedClassifier, load, load_backbone, save
from tests.finetuning.conftest import network


class Recorder(Callback):
    """Keep the weights after each step."""

    steps_ = ()

    def on_batch_end(self, net, batch=None, training=None, **kwargs):
        if training:
            state = net.module_.state_dict()
            self.steps_ = [*self.steps_, {k: v.clone() for k, v in state.items()}]


def fitted(data, *callbacks, **settings):
    settings = {"trainable": "all", "max_epochs": 4, "random_state": 0, "lr": 0.05} | settings
    callbacks = [Recorder(), *callbacks]
    return FineTunedClassifier(load_backbone(network()), callbacks=callbacks, **settings).fit(*data)


def weights_and_steps(model):
    recorder = next(c for _, c in model.net_.callbacks_ if isinstance(c, Recorder))
    return model.net_.module_.state_dict(), recorder.steps_


@pytest.mark.parametrize("settings", [{}, {"validation_fraction": 0.2}])
def test_predictions_are_those_of_the_mean_of_the_last_weights(data, settings):
    model = fitted(data, AverageWeights(), **settings)
    weights, steps = weights_and_steps(model)
    half = steps[len(steps) // 2 :]
    assert len(half) > 2
    for name, tensor in weights.items():
        if tensor.is_floating_point():
            wanted = torch.stack([step[name] for step in half]).mean(0)
            torch.testing.assert_close(tensor, wanted, rtol=1e-4, atol=1e-5)
        else:
            assert torch.equal(tensor, steps[-1][name])
    plain = fitted(data, **settings)
    assert not np.allclose(model.predict_proba(data[0]), plain.predict_proba(data[0]), atol=1e-4)
    module = model.net_.module_
    module.load_state_dict({k: v.clone() for k, v in weights.items()})
    assert np.array_equal(model.predict_proba(data[0]), model.predict_proba(data[0]))


def test_an_exponential_average_begins_with_the_first_weights(data):
    weights, steps = weights_and_steps(fitted(data, AverageWeights(start=0, decay=0.7)))
    for name, tensor in weights.items():
        if tensor.is_floating_point():
            wanted = steps[0][name]
            for step in steps[1:]:
                wanted = 0.7 * wanted + 0.3 * step[name]
            torch.testing.assert_close(tensor, wanted, rtol=1e-4, atol=1e-5)


def test_an_averaged_model_is_kept_by_pickles_files_and_checkpoints(data, tmp_path):
    model = fitted(data, AverageWeights())
    wanted = model.predict_proba(data[0])
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict_proba(data[0]), wanted)
    own = FineTunedClassifier(network, max_epochs=2, callbacks=[AverageWeights()]).fit(*data)
    save(own, tmp_path / "model.skt")
    again = load(tmp_path / "model.skt", modules={"network": network})
    assert np.allclose(again.predict_proba(data[0]), own.predict_proba(data[0]), atol=1e-6)


class StopOnce(Callback):
    """Interrupt a training in its third epoch, the first time."""

    def __init__(self, flag):
        self.flag = flag

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == 3 and not self.flag.exists():
            self.flag.touch()
            raise OSError("the machine is switched off")


def test_an_average_goes_on_after_an_interrupted_training(data, tmp_path):
    settings = {"trainable": "all", "max_epochs": 4, "random_state": 0, "lr": 0.05}

    def model(*callbacks, **more):
        given = [AverageWeights(start=0.25), *callbacks]
        return FineTunedClassifier(load_backbone(network()), callbacks=given, **settings, **more)

    wanted = model().fit(*data).predict_proba(data[0])
    interrupted = model(StopOnce(tmp_path / "flag"), checkpoint=tmp_path / "training")
    with pytest.raises(OSError, match="switched off"):
        interrupted.fit(*data)
    again = interrupted.fit(*data)
    assert len(again.history_) == 4
    assert np.array_equal(again.predict_proba(data[0]), wanted)


def messages_of(data, *callbacks, **settings):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model = fitted(data, *callbacks, **settings)
    return model, [str(warning.message) for warning in caught]


def test_a_hold_out_set_chooses_no_epoch_where_weights_are_averaged(data):
    settings = {"validation_fraction": 0.2, "lr": 30.0}
    plain, messages = messages_of(data, **settings)
    assert plain.best_epoch_ == 0
    assert any("The weights before training are kept" in message for message in messages)
    model, messages = messages_of(data, AverageWeights(), **settings)
    assert model.best_epoch_ is None
    assert not any("are kept" in message for message in messages)
    assert any("did not help: the loss on training samples" in message for message in messages)
    assert pickle.loads(pickle.dumps(model)).best_epoch_ is None
    assert fitted(data, AverageWeights(), max_epochs=0, **settings).best_epoch_ == 0


class Average(AverageWeights):
    """Replace the average by other weights at the end."""

    factor = 1.0

    def on_train_end(self, net, **kwargs):
        super().on_train_end(net, **kwargs)
        with torch.no_grad():
            net.module_.head.linear.weight.mul_(self.factor)


class Harmful(Average):
    factor = -20.0


def test_warnings_are_about_the_average(data):
    settings = {"lr": 0.001}
    _, messages = messages_of(data, Average(), **settings)
    assert not any("did not help" in message for message in messages)
    _, messages = messages_of(data, Harmful(), **settings)
    assert any("did not help: the loss on training samples" in message for message in messages)


class StopAt(Callback):
    """End a training in an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("validation_fraction", [0, 0.2])
def test_a_training_that_ends_before_the_average_begins_is_told(data, validation_fraction):
    settings = {"validation_fraction": validation_fraction, "lr": 0.01}
    model, messages = messages_of(data, AverageWeights(), StopAt(2), **settings)
    assert any(
        re.search(r"AverageWeights\(start=0.5, .*averaged nothing.* in epoch 2 of 4", message)
        for message in messages
    )
    plain = fitted(data, StopAt(2), **settings)
    assert model.best_epoch_ == plain.best_epoch_
    assert np.array_equal(model.predict_proba(data[0]), plain.predict_proba(data[0]))
    model, messages = messages_of(data, AverageWeights(), StopAt(3), **settings)
    assert model.best_epoch_ is None
    for more in ({"max_epochs": 0}, {}):
        _, messages_of_whole = messages_of(data, AverageWeights(), **settings | more)
        messages += messages_of_whole
    assert not any("averaged nothing" in message for message in messages)


class Start(Callback):
    """Keep the weights with which a training begins."""

    weights_ = None

    def on_epoch_begin(self, net, **kwargs):
        if self.weights_ is None:
            self.weights_ = {k: v.clone() for k, v in net.module_.state_dict().items()}


@pytest.mark.parametrize("validation_fraction", [0, 0.2])
def test_more_epochs_go_on_from_the_average(data, tmp_path, validation_fraction):
    settings = {"validation_fraction": validation_fraction, "checkpoint": tmp_path}
    short = fitted(data, AverageWeights(), ("start", Start()), **settings)
    long = fitted(data, AverageWeights(), ("start", Start()), max_epochs=6, **settings)
    assert len(long.history_) == 6
    begin = dict(long.net_.callbacks_)["start"].weights_
    for name, tensor in short.net_.module_.state_dict().items():
        assert torch.equal(tensor, begin[name])


@pytest.mark.parametrize("settings", [{"start": 1}, {"start": -0.1}, {"decay": 1.0}, {"decay": 0}])
def test_settings_out_of_bounds_are_refused(data, settings):
    with pytest.raises(ValueError, match="start is a number from 0 on, decay None or a number"):
        fitted(data, AverageWeights(**settings))


@pytest.mark.parametrize(
    "settings", [{"decay": "0.9"}, {"start": "0.5"}, {"start": None}, {"start": float("nan")}]
)
def test_settings_that_are_no_numbers_are_refused(data, settings):
    with pytest.raises(ValueError, match=r"AverageWeights\(.*start is a number from 0 on, decay"):
        fitted(data, AverageWeights(**settings))


@pytest.mark.slow
def test_numbers_of_numpy_are_settings(data, tmp_path):
    wanted = fitted(data, AverageWeights(0.5, 0.75)).predict_proba(data[0])
    model = fitted(data, AverageWeights(np.float32(0.5), np.float32(0.75)))
    assert np.array_equal(model.predict_proba(data[0]), wanted)
    wanted = fitted(data, AverageWeights(0)).predict_proba(data[0])
    model = fitted(data, AverageWeights(np.int64(0)), checkpoint=tmp_path)
    assert np.array_equal(model.predict_proba(data[0]), wanted)


# -- groups of parameters --------------------------------------------------------------------------


def rates_of(model, key="initial_lr"):
    """Return a setting of the optimizer for each parameter, by its name in the network."""
    names = {id(p): name for name, p in model.net_.module_.named_parameters()}
    groups = model.net_.optimizer_.param_groups
    return {names[id(p)]: group[key] for group in groups for p in group["params"]}


def grouped(data, groups, **settings):
    settings = {"trainable": "all", "max_epochs": 2, "random_state": 0, "lr": 0.01} | settings
    net_params = {"optimizer__param_groups": groups}
    return FineTunedClassifier(load_backbone(network()), net_params=net_params, **settings).fit(
        *data
    )


def test_groups_replace_the_rates_of_their_parameters_only(data):
    plain = grouped(data, [], layer_decay=0.5)
    groups = [("new_head.*", {"lr": 0.3}), ("*.bias", {"weight_decay": 0.0})]
    model = grouped(data, groups, layer_decay=0.5)
    before, rates, decays = rates_of(plain), rates_of(model), rates_of(model, "weight_decay")
    assert before.keys() == rates.keys()
    (head,) = {name.rpartition(".")[0] for name in rates if rates[name] == 0.3}
    for name, rate in rates.items():
        of_head = name.startswith(f"{head}.")
        assert rate == pytest.approx(0.3 if of_head else before[name])
        assert (decays[name] == 0) == (name.endswith(".bias") and not of_head)
    assert len(set(before.values())) > 2  # the rates of layer_decay stay


def test_weights_of_a_group_with_the_rate_0_stay(data):
    first = next(iter(load_backbone(network()).module.named_parameters()))[0].partition(".")[0]
    trained = grouped(data, [(f"{first}.*", {"lr": 0.0, "weight_decay": 0.0})])
    names = rates_of(trained)
    still = [name for name, rate in names.items() if rate == 0]
    assert 0 < len(still) < len(names)
    plain = grouped(data, [])
    untouched = dict(load_backbone(network()).module.named_parameters())
    tensors = dict(trained.net_.module_.named_parameters())
    moved = dict(plain.net_.module_.named_parameters())
    for name in still:
        assert any(torch.equal(tensors[name], tensor) for tensor in untouched.values())
        assert not torch.equal(moved[name], tensors[name])


def test_a_pattern_that_fits_nothing_is_refused_with_the_stages(data):
    with pytest.raises(ValueError, match=r"fits \['layer9\.\*'\]\. The stages are .*'new_head'\]"):
        grouped(data, [("layer9.*", {"lr": 0.1})])


@pytest.mark.parametrize("groups", [["new_head.*"], [("new_head.*", 0.1)], [(1, {"lr": 1})]])
def test_groups_of_another_form_are_refused(data, groups):
    with pytest.raises(TypeError, match="give pairs of a pattern of names and settings"):
        grouped(data, groups)


def test_a_pattern_whose_parameters_an_earlier_one_has_is_refused(data):
    groups = [("*.bias", {"lr": 0.2}), ("new_head.*", {"lr": 0.1}), ("new_head.*bias", {"lr": 0.3})]
    with pytest.raises(ValueError, match=r"such as '\*\.bias', have all .* fit 'new_head\.\*bias'"):
        grouped(data, groups)
    grouped(data, [groups[2], *groups[:2]])
    with pytest.raises(ValueError, match=r"no parameter that is trained fits \['nothing'\]"):
        grouped(data, [("*", {}), ("nothing", {})])


@pytest.mark.slow
def test_a_stage_called_head_is_not_the_new_head():
    photos = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    groups = [("head.*", {"lr": 0.25}), ("new_head.*", {"lr": 0.125})]
    net_params = {"optimizer__param_groups": groups}
    model = FineTunedClassifier(image_size=32, trainable=2, max_epochs=1, net_params=net_params)
    rates = rates_of(model.fit(photos, ["a", "b"] * 3))
    stages = [*model.trained_layers_, "new_pooling", "new_head"]
    for name, rate in rates.items():
        stage = stages[int(name.split(".")[1])]
        assert rate == {"head": 0.25, "new_head": 0.125}.get(stage, model.lr_)
    assert {0.25, 0.125, model.lr_} == set(rates.values())
    module = model.net_.module_
    assert module.stage_names()[-3:] == ["dropout", "new_pooling", "new_head"]
    module.names[-1] = "new_head"  # as in a network that was grown before
    assert module.stage_names(["new_pooling"])[-3:] == ["new_head", "new_pooling_", "new_head_"]


@pytest.mark.parametrize(
    ("optimizer", "settings", "message"),
    [
        (None, {"weight-decay": 0.0}, "AdamW takes no 'weight-decay': its settings are .*'betas'"),
        (None, {"momentum": 0.9}, "AdamW takes no 'momentum': its settings are .*'weight_decay'"),
        (None, {"params": []}, "AdamW takes no 'params'"),
        (torch.optim.SGD, {"betas": (0.9, 0.99)}, "SGD takes no 'betas': .*'momentum'"),
        (None, {"lr": -0.1}, "lr=-0.1 is no finite number of at least 0"),
        (None, {"lr": float("nan")}, "lr=nan is no finite number of at least 0"),
        (None, {"lr": "0.1"}, "lr='0.1' is no finite number of at least 0"),
    ],
)
def test_settings_that_the_optimizer_cannot_use_are_refused(data, optimizer, settings, message):
    groups = {"optimizer__param_groups": [("new_head.*", settings)]}
    net_params = groups | ({"optimizer": optimizer} if optimizer else {})
    with pytest.raises(ValueError, match=rf"settings of 'new_head\.\*': {message}"):
        fitted(data, net_params=net_params)


def test_settings_that_the_optimizer_knows_are_used(data):
    settings = {"lr": np.float32(0.125), "momentum": 0.5}
    net_params = {
        "optimizer": torch.optim.SGD,
        "optimizer__momentum": 0.9,
        "optimizer__param_groups": [("new_head.*", settings)],
    }
    model = fitted(data, net_params=net_params)
    (rate,) = {rate for rate in rates_of(model).values() if rate != 0.05}
    assert (type(rate), rate) == (float, 0.125)
    assert set(rates_of(model, "momentum").values()) == {0.5, 0.9}
