import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sgdat_jax as sj
import shared_runs
from sgdat_jax import run_folder
from sgdat_jax.experiments import configs, registry, setup
from sgdat_jax.training import loop, runs
from sgdat_jax.training.metrics import results

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def run():
    return shared_runs.finished()


def test_another_seed_gives_other_weights_orders_and_shifts(run):
    init = setup.create(run.config, run.dataset, run.steps_per_epoch)[1]
    start, same = init(1), init(0)
    again = shared_runs.fresh_state(run)
    shared_runs.assert_bit_equal(same, again)
    for a, b in zip(
        jax.tree.leaves(sj.select_binary(start.params, start.params)),
        jax.tree.leaves(sj.select_binary(same.params, same.params)),
        strict=True,
    ):
        assert 0.4 < np.mean(np.asarray(a) != np.asarray(b)) < 0.6
    assert (int(start.seed), int(same.seed)) == (1, 0)
    order = loop.epoch_order(run, 1, 0)
    assert (order != loop.epoch_order(run, 0, 0)).any()


@pytest.mark.parametrize("batch_size", [64, 1437, 1])
def test_order_of_images(run, batch_size):
    steps = 1437 // batch_size
    settings = dataclasses.replace(run.config, batch_size=batch_size)
    run = run._replace(config=settings, steps_per_epoch=steps)
    first, again, second = (np.asarray(loop.epoch_order(run, 0, e)) for e in (0, 0, 1))
    assert first.shape == (steps, batch_size)
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()
    for order in (first, second):
        assert len(np.unique(order)) == order.size
        assert 0 <= order.min() <= order.max() < 1437


def test_images_left_out_of_an_epoch_differ(run):
    left = [
        set(range(1437))
        - set(np.asarray(loop.epoch_order(run, 0, epoch)).ravel().tolist())
        for epoch in range(3)
    ]
    assert [len(numbers) for numbers in left] == 3 * [1437 % shared_runs.BATCH]
    assert left[0] != left[1] != left[2]


@pytest.mark.parametrize("size", [1, 100, 180, 359, 360, 512])
def test_batches_cover_the_test_set(run, size, monkeypatch):
    monkeypatch.setattr(loop, "_EVAL_BATCH", size)
    batches = list(loop.test_batches(run.dataset, run.task.layout))
    assert len(batches) == -(-360 // size)
    assert len({batch.images.shape for batch, _ in batches}) == 1
    for name in ("images", "labels"):
        kept = [
            np.asarray(getattr(batch, name))[np.asarray(weights) == 1]
            for batch, weights in batches
        ]
        whole = getattr(run.dataset, f"test_{name}")
        np.testing.assert_array_equal(np.concatenate(kept), whole)


def test_evaluate_does_not_depend_on_the_batches(run, monkeypatch):
    whole = loop.evaluate(run)
    monkeypatch.setattr(loop, "_EVAL_BATCH", 100)
    parts = loop.evaluate(run)
    assert parts["test_accuracy"] == whole["test_accuracy"]
    assert parts["test_top5_accuracy"] == whole["test_top5_accuracy"]
    assert parts["test_loss"] == pytest.approx(whole["test_loss"], rel=1e-5)


def test_restore_gives_the_same_state_and_metrics(run):
    restored = setup.restore(run.folder)
    shared_runs.assert_bit_equal(restored.state, run.state)
    assert restored.config == run.config
    last = run_folder.read_metrics(run.folder)[-1]
    assert loop.evaluate(restored).items() <= last.items()


def test_result_says_how_it_was_chosen(run):
    lines = run_folder.read_metrics(run.folder)
    result = run_folder.read_result(run.folder)
    accuracies = [line["test_accuracy"] for line in lines]
    assert result["test_accuracy"] == accuracies[-1]
    assert result["best_test_accuracy"] == max(accuracies)
    assert accuracies[result["best_epoch"] - 1] == max(accuracies)
    assert 0.5 < result["test_accuracy"] <= 1
    assert result["versions"]["jax"] == jax.__version__


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 1438}, "batch_size must be at most the 1,437.*got 1,438"),
        ({"crop_padding": 8}, "crop_padding must be less than the 8.*got 8"),
    ],
)
def test_config_that_does_not_fit_leaves_nothing(tmp_path, settings, message):
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match=message):
        setup.set_up(configs.TrainConfig(run_dir=str(folder), **settings))
    assert list(tmp_path.iterdir()) == []


def test_default_folder_is_named_after_the_run():
    settings = configs.TrainConfig(model="DigitsNet", seed=12)
    folder = pathlib.Path(setup._default_folder(settings))
    assert folder.parent == pathlib.Path("runs")
    assert folder.name.startswith("digits-DigitsNet-sgdat-seed12-2")


def test_restart_of_flip_counts_at_every_epoch(run):
    settings = dataclasses.replace(run.config, reset_flips_every_epoch=True)
    task, init = setup.create(settings, run.dataset, steps_per_epoch=2)
    start = init(settings.seed)
    gradients = jax.tree.map(jnp.ones_like, start.params)
    opt_state, params, totals = start.opt_state, start.params, []
    for _ in range(3):
        updates, opt_state = jax.jit(task.tx.update)(gradients, opt_state, params)
        params = jax.tree.map(jnp.add, params, updates)
        counts = jax.tree.leaves(sj.flip_counts(opt_state))
        totals.append(sum(int(leaf.sum()) for leaf in counts))
    # All weights above zero flip in the first step, and none can flip back.
    assert totals[0] == totals[1] > 0
    assert totals[2] == 0


@pytest.mark.slow
def test_streaming_changes_no_bit(run):
    settings = dataclasses.replace(run.config, stream_above=0.0)
    streamed = run._replace(config=settings)
    assert runs.is_streamed(streamed) and not runs.is_streamed(run)
    ends = []
    for kind, data in (
        (run, loop.on_device(run.dataset, run.task.layout)),
        (streamed, None),
    ):
        state_ = shared_runs.fresh_state(run, diagnostics=True)
        begin = kind._replace(state=state_, progress=runs.Progress())
        *_, end = loop._train_epoch(begin, data, loop.Watcher())
        ends.append(end)
    shared_runs.assert_bit_equal(ends[0].state, ends[1].state)
    lines = [results.epoch_lines(end)[0] for end in ends]
    assert lines[0] == lines[1]


def test_streaming_needs_grain(run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    setup.load(run.config)
    with pytest.raises(ValueError, match=r"need grain.* got 0\.0"):
        setup.load(dataclasses.replace(run.config, stream_above=0.0))


@pytest.mark.slow
def test_default_run_reaches_its_accuracy(tmp_path):
    run = setup.set_up(configs.TrainConfig(run_dir=str(tmp_path / "run")))
    _, result = loop.train(run, loop.Watcher())
    assert result["epochs"] == 20
    assert result["test_accuracy"] >= 0.985
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written == result


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.OPTIMIZERS)
def test_every_optimizer_trains(tmp_path, name):
    # By itself Diode takes thousands of steps to leave its random start.
    learning_rate = 1.0 if name == "diode" else None
    settings = configs.TrainConfig(
        optimizer=name,
        learning_rate=learning_rate,
        epochs=3,
        run_dir=str(tmp_path),
    )
    run, result = loop.train(setup.set_up(settings), loop.Watcher())
    assert result["test_accuracy"] > 0.5
    for leaf in jax.tree.leaves(sj.select_binary(run.state.params, run.state.params)):
        assert set(np.unique(leaf)) == {-1.0, 1.0}
    assert run_folder.read_metrics(run.folder)[-1]["flip_ratio"] > 0
