import json

import jax
import numpy as np
import pytest

from tests import small_sets

torch = pytest.importorskip("torch")

from benchmarks import published_curves, published_loop, torch_nets  # noqa: E402

BATCH, STEPS = 10, 4  # of 40 images, by 10 classes of small_sets


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a tiny run of one epoch, and the words of its command."""
    folder = tmp_path_factory.mktemp("published_loop")
    small_sets.arrays(folder, 10, (32, 32, 3))
    words = ["--data", f"{folder}/", "--width", "0.0625", "--epochs", "1"]
    words += ["--batch", str(BATCH), "--seeds", "3", "--out", str(folder / "out")]
    published_loop.main(words)
    return folder / "out", words


def test_loops_start_alike_and_take_the_same_steps(trained):
    found = json.loads((trained[0] / "seed3.json").read_text())
    assert found["about"]["steps_per_epoch"] == STEPS
    weights = found["binary_weights"]
    assert list(weights) == [f"conv{n}" for n in range(2, 7)] + ["dense7", "dense8"]
    first, *_, last = found["first_steps"]
    assert [step["step"] for step in found["first_steps"]] == [1, 2, 3, 4]
    # Before any step of an optimizer, rounding of float32 alone.
    losses = first["loss"]
    assert losses["ours"] == pytest.approx(losses["published"], rel=1e-5)
    assert losses["reordered"] == pytest.approx(losses["published"], rel=1e-5)
    # In the first step about half of all weights flip, by the signs of gradients.
    assert sum(first["differing"]["ours"]) < 0.01 * sum(weights.values())
    ours, published, reordered = found["epochs"]
    assert [row["loop"] for row in found["epochs"]] == [
        "ours",
        "published",
        "reordered",
    ]
    assert ours.keys() == published.keys() == reordered.keys()
    assert published["equal_to_published"] is None
    equal = 1 - sum(last["differing"]["ours"]) / sum(weights.values())
    assert ours["equal_to_published"] == pytest.approx(equal)
    for row in found["epochs"]:
        assert row["flip_ratio"] == pytest.approx(published["flip_ratio"], rel=0.1)
        assert row["train_loss"] == pytest.approx(published["train_loss"], rel=0.1)


def test_a_whole_seed_is_not_trained_again(trained, monkeypatch):
    out, words = trained
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    (row,) = json.loads((out / "summary.json").read_text())["epochs"]
    assert row["ours"]["range_over_seeds"] == 0
    assert len(row["ours_minus_published"]["test_accuracy"]) == 1
    monkeypatch.setattr(published_loop, "train", lambda *_: pytest.fail("trained"))
    published_loop.main(words)
    with pytest.raises(pytest.fail.Exception, match="trained"):
        published_loop.main([*words, "--epochs", "2"])


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
    def result(seed, accuracies):
        rows = [
            {"loop": loop, "test_accuracy": accuracy, "flip_ratio": 0.5}
            | {"equal_to_published": 0.75}
            for loop, accuracy in accuracies.items()
        ]
        return {"about": {"seed": seed}, "epochs": rows}

    found = [
        result(0, {"ours": 0.25, "published": 0.5, "reordered": 0.5}),
        result(1, {"ours": 0.75, "published": 0.25, "reordered": 0.5}),
    ]
    (row,) = published_curves.per_epoch(found)
    assert row["ours_minus_published"]["test_accuracy"] == [-0.25, 0.5]
    assert row["ours_minus_published"]["mean"] == 0.125
    low, high = row["ours_minus_published"]["interval"]
    assert low < 0.125 < high
    assert row["published"]["range_over_seeds"] == 0.25
    assert row["reordered_minus_published"]["test_accuracy"] == [0, 0.25]


def test_batches_are_those_of_the_training_program(trained):
    class Options:
        data, width, epochs, batch = f"{trained[0].parent}/", 0.0625, 2, BATCH

    config = published_loop.settings_of(Options, seed=3)
    data = published_loop.setup.load(config)
    plan = published_loop.setup.plan(config, data)
    run = published_loop.runs.begin(plan, 3, None)
    batches = published_loop.Batches(run)
    seen = [batches.train(step) for step in range(2 * STEPS)]
    for epoch in (seen[:STEPS], seen[STEPS:]):
        labels = np.concatenate([labels.numpy() for _, labels in epoch])
        assert sorted(labels) == sorted(data.train_labels)
    assert not torch.equal(seen[0][1], seen[STEPS][1])
    # The first step of the program, whose loss is of the batch that PyTorch gets.
    numbers = published_loop.loop.epoch_order(run, 3, 0)[:1]
    images = published_loop.loop.on_device(data, run.task.layout)
    _, (metrics, _) = published_loop.loop.programs().train_steps(
        run.task, jax.tree.map(np.array, run.state), images, numbers
    )
    net = published_loop.network_of(run).train()
    loss = torch.nn.functional.cross_entropy(net(seen[0][0]), seen[0][1])
    assert float(metrics.loss[0]) / BATCH == pytest.approx(loss.item(), rel=1e-5)
