"""`training.fit`: objects in, a result out, as the command has it by names."""

import concurrent.futures
import functools
import json
import signal

import chex
import jax
import numpy as np
import optax
import pytest
from flax import nnx

import sgdat_jax as sj
import shared_runs
import small_runs
from sgdat_jax import inference, training
from sgdat_jax.data import augment
from sgdat_jax.experiments import configs, setup
from sgdat_jax.training import loop

pytestmark = pytest.mark.usefixtures("compiled_quickly")


class OwnNet(nnx.Module):
    """A network that knows nothing of this library's training, but for two layers."""

    def __init__(self, rngs, classes=10):
        self.first = nnx.Linear(64, 32, rngs=rngs)
        self.layers = nnx.List([sj.BinaryLinear(32, 32, rngs=rngs)])
        self.last = nnx.Linear(32, classes, rngs=rngs)

    def __call__(self, images):
        x = self.first(images.reshape(len(images), -1))
        for layer in self.layers:
            x = layer(x)
        return self.last(x)


class FloatNet(nnx.Module):
    """A network without binary layers."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, images):
        return self.linear(images.reshape(len(images), -1))


def _optimizer(model):
    return sj.partition_binary(model, binary=sj.sgdat(1e-3), real=optax.adam(1e-2))


@pytest.fixture(scope="module")
def fitted():
    model = OwnNet(nnx.Rngs(0))
    return training.fit(model, _optimizer(model), small_runs.digits(), epochs=3)


def test_own_network_learns(fitted):
    assert fitted.result["test_accuracy"] == fitted.lines[-1]["test_accuracy"] > 0.6
    assert fitted.result["flips_per_weight"] > 0
    assert fitted.result["model"] == {"name": "OwnNet", "binary_layers": ["layers/0"]}
    assert [line["epoch"] for line in fitted.lines] == [1, 2, 3]
    counts = jax.tree.leaves(sj.flip_counts(fitted.opt_state))
    assert sum(map(np.sum, counts)) > 0


def test_networks_of_the_result_predict_what_was_measured(fitted):
    data = small_runs.digits()
    scaled = data.train_images / 255
    images = augment.normalize(data.test_images, [scaled.mean()], [scaled.std()])
    best = max(line["test_accuracy"] for line in fitted.lines)
    for model, accuracy in (
        (fitted.model, fitted.lines[-1]["test_accuracy"]),
        (fitted.best, best),
    ):
        found = np.argmax(model(images), -1) == data.test_labels
        assert isinstance(model, OwnNet)
        assert np.mean(found) == pytest.approx(accuracy, abs=1 / len(found))


def test_model_is_left_as_it_is():
    model = FloatNet(nnx.Rngs(0))
    before = jax.tree.map(np.array, nnx.state(model))
    fitted = training.fit(model, optax.sgd(0.1), small_runs.digits(), epochs=1)
    shared_runs.assert_bit_equal(nnx.state(model), before)
    assert "flips_per_weight" not in fitted.result
    assert fitted.lines[0]["test_accuracy"] > 0.4


def test_it_is_what_the_command_does(tmp_path):
    config = configs.TrainConfig(model="TinyNet", epochs=1, run_dir=str(tmp_path / "a"))
    run = setup.set_up(config)
    model = run.task.network.build(0)
    ended, _ = loop.train(run, loop.Watcher())
    fitted = training.fit(model, run.task.tx, run.dataset, epochs=1)
    assert fitted.lines == ended.progress.lines
    shared_runs.assert_bit_equal(nnx.state(fitted.model, nnx.Param), ended.state.params)


def test_weights_that_are_no_longer_binary_are_told():
    model = OwnNet(nnx.Rngs(0))
    with pytest.warns(UserWarning, match="must be -1 and .1 where they are binary"):
        training.fit(model, optax.adam(1e-2), small_runs.digits(), epochs=1)


class _Interrupting(training.Watcher):
    def __init__(self, step):
        self.left = step

    def stepped(self, metrics, flip_ratio):
        self.left -= len(metrics.loss)
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


def test_interrupted_run_goes_on(tmp_path, fitted):
    model, data, folder = OwnNet(nnx.Rngs(0)), small_runs.digits(), tmp_path / "run"
    tx = _optimizer(model)
    options = {"epochs": 3, "run_dir": folder, "label": "mine"}
    with pytest.raises(KeyboardInterrupt):
        training.fit(model, tx, data, watchers=[_Interrupting(30)], **options)
    with pytest.raises(ValueError, match="holds a run"):
        training.fit(model, tx, data, **options)
    again = training.fit(model, tx, data, resume=True, **options)
    assert again.lines == fitted.lines
    shared_runs.assert_bit_equal(nnx.state(again.best), nnx.state(fitted.best))
    finished = training.fit(model, tx, data, resume=True, **options)
    assert (finished.lines, finished.result) == (again.lines, again.result)
    shared_runs.assert_bit_equal(finished.opt_state, again.opt_state)
    assert json.loads((folder / "config.json").read_text())["label"] == "mine"
    with pytest.raises(ValueError, match="holds a run with batch_size=64, not 32"):
        training.fit(model, tx, data, resume=True, batch_size=32, **options)


@pytest.mark.whole
def test_on_devices_and_in_a_thread(fitted):
    model = OwnNet(nnx.Rngs(0))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        on_two = pool.submit(
            training.fit,
            model,
            _optimizer(model),
            small_runs.digits(),
            epochs=1,
            devices=2,
            sharded=True,
        ).result()
    assert on_two.result["devices"] == 2
    assert on_two.lines[0]["train_loss"] == pytest.approx(
        fitted.lines[0]["train_loss"], rel=0.05
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epoch": 1}, TypeError, "epoch"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
        ({"epochs": "3"}, TypeError, "epochs must be of type int"),
        ({"batch_size": 2000}, ValueError, "batch_size must be at most the 1,437"),
        ({"resume": True}, ValueError, "run_dir must be a folder with resume"),
    ],
)
def test_wrong_options(options, error, message):
    model = FloatNet(nnx.Rngs(0))
    with pytest.raises(error, match=message):
        training.fit(model, optax.sgd(0.1), small_runs.digits(), **options)


def test_network_of_other_classes():
    model = OwnNet(nnx.Rngs(0), classes=7)
    with pytest.raises(ValueError, match=r"logits \(batch, 10\) for digits, got"):
        training.fit(model, _optimizer(model), small_runs.digits())


class RandomNet(OwnNet):
    """A network that forgets, by chance, what it has seen."""

    def __init__(self, rngs):
        super().__init__(rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, images):
        return super().__call__(self.dropout(images))


@pytest.mark.whole
def test_dropout_goes_on_where_it_was(tmp_path):
    def fit(folder, epochs):
        model = RandomNet(nnx.Rngs(0))
        return training.fit(
            *(model, _optimizer(model), small_runs.digits()),
            **dict(epochs=epochs, run_dir=tmp_path / folder, resume=True),
        )

    straight = fit("straight", 2)
    fit("twice", 1)
    again = fit("twice", 2)
    assert again.lines == straight.lines
    np.testing.assert_array_equal(again.best.first.kernel, straight.best.first.kernel)


def test_files_of_own_networks_are_loaded_with_the_network(tmp_path):
    model, data = RandomNet(nnx.Rngs(0)), small_runs.digits()
    fitted = training.fit(model, _optimizer(model), data, epochs=1, run_dir=tmp_path)
    with pytest.raises(ValueError, match="pass the network itself"):
        inference.load(tmp_path)
    with pytest.raises(ValueError, match="does not fit the network"):
        inference.load(tmp_path, model=OwnNet(nnx.Rngs(1), classes=7))
    classify = inference.load(tmp_path, model=RandomNet(nnx.Rngs(1)))
    found = classify.predict(data.test_images).labels == data.test_labels
    assert np.mean(found) == pytest.approx(fitted.result["best_test_accuracy"])


class RealNet(nnx.Module):
    """A network whose binary layer has a real-valued kernel, and a lone number."""

    def __init__(self, rngs):
        real = {"kernel_quantizer": sj.ste_sign, "output_scale": "xnor"}
        init = nnx.initializers.lecun_normal()
        self.layer = sj.BinaryLinear(64, 32, **real, kernel_init=init, rngs=rngs)
        self.last = nnx.Linear(32, 10, rngs=rngs)
        self.scale = nnx.Param(jax.numpy.ones(()))

    def __call__(self, images):
        x = self.layer(images.reshape(len(images), -1))
        return self.last(x) * self.scale


class EmptyNet(OwnNet):
    """A network that also has a parameter without entries."""

    def __init__(self, rngs):
        super().__init__(rngs)
        self.nothing = nnx.Param(jax.numpy.zeros((0, 3)))


def test_frozen_and_empty_weights_stay_while_the_others_train(tmp_path):
    model, data = EmptyNet(nnx.Rngs(0)), small_runs.digits()
    tx = sj.partition_binary(model, binary=optax.set_to_zero(), real=optax.adam(1e-2))
    fit = functools.partial(
        training.fit, model, tx, data, epochs=2, run_dir=tmp_path, diagnostics=True
    )
    fitted = fit()
    shared_runs.assert_bit_equal(fit(resume=True).opt_state, fitted.opt_state)
    before, after = (nnx.state(m, sj.BinaryParam) for m in (model, fitted.model))
    chex.assert_trees_all_equal(before, after)
    first, last = fitted.lines
    assert last["train_loss"] < first["train_loss"]
    assert last["flip_ratio"] == 0
    assert last["gradient_per_layer"]["nothing"] == 0


@pytest.mark.whole
@pytest.mark.filterwarnings("ignore:.params. must be -1 and")
def test_real_kernels_of_binary_layers_are_not_sent_as_bits():
    def fit(**options):
        return training.fit(
            *(RealNet(nnx.Rngs(0)), optax.adam(1e-2), small_runs.digits()),
            **dict(epochs=1, **options),
        )

    alone, split = fit(), fit(devices=8, sharded=True)
    # Sums over a batch are taken in another order.
    found = [f.lines[-1]["train_loss"] for f in (alone, split)]
    assert found[1] == pytest.approx(found[0], rel=1e-3)
