import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest

torch = pytest.importorskip("torch")

from benchmarks import published_curves, published_loop, torch_nets  # noqa: E402

BATCH, STEPS = 64, 2  # per epoch
# With most seeds some sums of signs equal their mean over the batch exactly, and the
# sign of 0 is for rounding to decide: PyTorch's in float32 and in float64 differ then.
SEED = 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a tiny run of two epochs, and the words of its command."""
    folder = tmp_path_factory.mktemp("published_loop")
    rng = np.random.default_rng(0)
    for part, count in (("train", BATCH * STEPS), ("test", 20)):
        images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        np.save(folder / f"{part}_images.npy", images)
        np.save(folder / f"{part}_labels.npy", np.arange(count) % 10)
    words = ["--data", f"{folder}/", "--width", "0.0625", "--epochs", "2"]
    words += ["--batch", str(BATCH), "--seeds", str(SEED), "--out", str(folder / "out")]
    published_loop.main(words)
    return folder / "out", words


def test_loops_start_alike_and_take_the_same_steps(trained):
    found = json.loads((trained[0] / f"seed{SEED}.json").read_text())
    assert found["steps_per_epoch"] == STEPS
    weights = found["binary_weights"]
    assert list(weights) == [f"conv{n}" for n in range(2, 7)] + ["dense7", "dense8"]
    total = sum(weights.values())
    first, *_, last = found["first_steps"]
    assert [s["step"] for s in found["first_steps"]] == list(range(1, 2 * STEPS + 1))
    # Before the first step of an optimizer, rounding of float32 alone.
    losses = first["loss"]
    for other in ("published", "rounded", "float64"):
        assert losses["ours"] == pytest.approx(losses[other], rel=1e-5)
    # The first step sets all weights by the signs of their gradients.
    assert max(map(sum, first["differing"].values())) < 0.001 * total
    assert [row["loop"] for row in found["epochs"]] == 2 * ["ours", "published"]
    for ours, published in (found["epochs"][:2], found["epochs"][2:]):
        assert ours.keys() == published.keys()
        assert ours["flip_ratio"] == pytest.approx(published["flip_ratio"], rel=0.05)
        assert ours["train_loss"] == pytest.approx(published["train_loss"], rel=0.1)
    equal = 1 - sum(last["differing"]["ours_published"]) / total
    assert found["epochs"][-1]["equal_weights"] == pytest.approx(equal)


def test_a_whole_seed_is_not_trained_again(trained, monkeypatch):
    out, words = trained
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    _, row = json.loads((out / "summary.json").read_text())["epochs"]
    assert row["ours"]["range_over_seeds"] == 0
    assert row["difference"]["interval"] is None  # of one seed
    monkeypatch.setattr(published_loop, "train", lambda *_: pytest.fail("trained"))
    published_loop.main(words)
    with pytest.raises(pytest.fail.Exception, match="trained"):
        published_loop.main([*words, "--epochs", "3"])


def test_latents_alone_go_on_at_an_epoch():
    torch.manual_seed(0)
    theirs = published_loop.PublishedLoop(torch_nets.BinaryNet(0.0625))
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8)
    theirs.step(images, labels)
    (weight, *_) = theirs.binary
    before = {key: value.clone() for key, value in theirs._sgdat.state[weight].items()}
    assert before["latent"].abs().max() > 0
    assert before["flips"].max() == 1
    theirs.begin_epoch()
    after = theirs._sgdat.state[weight]
    assert torch.equal(after["latent"], before["latent"])
    assert after["flips"].max() == 0
    assert not theirs._adam.state
    theirs.step(images, labels)
    assert not torch.equal(after["latent"], before["latent"])


def test_rows_tell_how_far_loops_are_apart():
    def result(seed, accuracies, epochs=1):
        rows = epochs * [
            {"loop": loop, "test_accuracy": accuracy, "flip_ratio": 0.5}
            | {"equal_weights": 0.75}
            for loop, accuracy in accuracies.items()
        ]
        return {"about": {"seed": seed}, "epochs": rows}

    found = [
        result(0, {"ours": 0.25, "published": 0.5}, epochs=2),  # further than the next
        result(1, {"ours": 0.75, "published": 0.25}),
    ]
    (row,) = published_curves.per_epoch(found)
    assert row["difference"]["test_accuracy"] == [-0.25, 0.5]
    assert row["difference"]["mean"] == 0.125
    low, high = row["difference"]["interval"]
    assert low < 0.125 < high
    assert row["ours"]["range_over_seeds"] == 0.5
    assert row["equal_weights"] == [0.75, 0.75]


def test_rounded_corrections_are_those_of_optax():
    gradient = jnp.float32(1)
    tx = optax.scale_by_adam(eps=0)
    state = tx.init(gradient)
    for step in range(1, 5):
        update, state = tx.update(gradient, state)
        # The gradient is constant, so that Adam's exact step is 1. Its moments are
        # rounded, too, by half a unit in the last place of float32 at a time.
        expected = published_loop.rounding_of_corrections(step)
        assert float(update) == pytest.approx(expected, abs=4e-7)
    assert abs(published_loop.rounding_of_corrections(1) - 1) > 6e-6


def test_batches_are_those_of_the_training_program(trained):
    class Options:
        data, width, epochs, batch = f"{trained[0].parent}/", 0.0625, 2, BATCH

    config = published_loop.settings_of(Options, seed=SEED)
    data = published_loop.setup.load(config)
    plan = published_loop.setup.plan(config, data)
    batches = published_loop.Batches(published_loop.runs.unstarted(plan, SEED, None))
    seen = [batches.train(step) for step in range(2 * STEPS)]
    for epoch in (seen[:STEPS], seen[STEPS:]):
        labels = np.concatenate([labels.numpy() for _, labels in epoch])
        assert sorted(labels) == sorted(data.train_labels)
    assert not torch.equal(seen[0][1], seen[STEPS][1])
    images, labels = next(batches.test())
    assert labels.tolist() == data.test_labels.tolist()
    pixels = data.test_images[2, 4, 5] / 255
    expected = (pixels - plan.task.mean) / plan.task.std
    np.testing.assert_allclose(images[2, :, 4, 5], expected, rtol=1e-5)
