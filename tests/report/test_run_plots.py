import io
import itertools
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

import sgdat_jax as sj
import shared_runs
from sgdat_jax import report, run_folder
from sgdat_jax.report import figures


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def lines():
    return run_folder.read_metrics(shared_runs.finished().folder)


def _lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def _shares(axes):
    """The percentages of a table of flips, by layer."""
    (image,) = axes.get_images()
    names = [text.get_text() for text in axes.get_yticklabels()]
    return dict(zip(names, np.asarray(image.get_array()), strict=True))


def test_learning_curves_hold_the_metrics(lines):
    loss, accuracy = report.plot_learning(lines).axes
    for part in ("train", "test"):
        for axes, key, scale in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
            line = _lines(axes)[part]
            np.testing.assert_array_equal(line.get_xdata(), [1, 2])
            expected = [scale * entry[f"{part}_{key}"] for entry in lines]
            np.testing.assert_array_equal(line.get_ydata(), expected)
    assert f"{lines[-1]['test_accuracy']:.2%}" in accuracy.get_title(loc="left")
    for axes in (loss, accuracy):
        assert axes.get_xlabel() == "epoch"
        assert axes.get_legend() is None
        assert {text.get_text() for text in axes.texts} == {"train", "test"}


def test_titles_tell_of_data_network_and_optimizer(lines):
    subject = "digits, DigitsNet, sgdat"
    state = shared_runs.finished().state.opt_state
    for fig in (
        report.plot_learning(lines, subject),
        report.plot_flip_ratio(lines, subject),
        report.plot_flip_counts(state, subject),
    ):
        assert fig.get_suptitle() == subject


def test_a_validation_part_is_drawn(lines):
    with_part = [
        line | {"valid_loss": 1.5, "valid_accuracy": 0.5 + 0.1 * line["epoch"]}
        for line in lines
    ]
    _, accuracy = report.plot_learning(with_part).axes
    drawn = _lines(accuracy)["validation"]
    np.testing.assert_allclose(drawn.get_ydata(), [60, 70])


@pytest.mark.parametrize("count", [2, 7, 8, 19])
def test_labels_at_the_ends_neither_repeat_colours_nor_overlap(count):
    fig, (axes,) = figures.panels(1)
    for index, color in enumerate(figures.colors(count)):
        axes.plot([1, 2], [0, 1 + 0.001 * index], color=color, label=str(index))
    figures.label_ends(axes, 7.0)
    assert (
        len(
            {
                line.get_color()
                if isinstance(line.get_color(), str)
                else tuple(line.get_color())
                for line in axes.get_lines()
            }
        )
        == count
    )
    fig.draw_without_rendering()
    boxes = sorted(
        (text.get_window_extent() for text in axes.texts), key=lambda box: box.y0
    )
    assert len(boxes) == count
    for lower, upper in itertools.pairwise(boxes):
        assert lower.y1 <= upper.y0 + 2  # of pixels, 100 to the inch
    assert boxes[0].y0 > 0 and boxes[-1].y1 < fig.bbox.y1


def test_labels_stand_beside_their_lines():
    fig, (axes,) = figures.panels(1)
    axes.plot([1, 2], [0, 10], label="high")
    axes.plot([1, 2], [10, 3], label="low")
    figures.label_ends(axes)
    fig.draw_without_rendering()
    for text, value in zip(axes.texts, (3, 10), strict=True):
        box = text.get_window_extent()
        place = axes.transData.transform((2, value))[1]
        assert box.y0 < place < box.y1


def test_epochs_are_whole_numbers(lines):
    for drawn in (lines, lines[:1]):
        fig = report.plot_learning(drawn)
        fig.draw_without_rendering()
        for axes in fig.axes:
            assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_flip_ratios_hold_the_metrics(lines):
    (axes,) = report.plot_flip_ratio(lines).axes
    drawn = _lines(axes)
    assert set(drawn) == {"conv2", "conv3", "dense4", "all binary weights"}
    for name, line in drawn.items():
        expected = [
            entry["flip_ratio_per_layer"].get(name, entry["flip_ratio"])
            for entry in lines
        ]
        np.testing.assert_array_equal(line.get_ydata(), expected)
        assert 0 < min(expected) <= max(expected) < axes.get_ylim()[1]


def test_flip_counts_and_margins_hold_the_state():
    opt_state = shared_runs.finished().state.opt_state
    counts, margins = report.plot_flip_counts(opt_state).axes
    leaves = sj.layers_of(sj.flip_counts(opt_state))
    shares = _shares(counts)
    assert set(shares) == set(leaves)
    for name, row in shares.items():
        values = np.asarray(leaves[name])
        edges = [*sj.optimizers.FLIP_BINS[: len(row)], np.inf]
        for share, low, high in zip(row, edges, edges[1:], strict=False):
            within = (values >= low) & (values < high)
            assert share == pytest.approx(100 * np.mean(within))
        assert sum(row) == pytest.approx(100)

    latents = jax.tree.leaves(sj.latent_weights(opt_state))
    thresholds = jax.tree.leaves(sj.thresholds(opt_state))
    latents, thresholds = (
        np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in tree])
        for tree in (latents, thresholds)
    )
    flipped = thresholds > 0
    drawn = np.sum(flipped & (latents != 0))
    assert sum(bar.get_height() for bar in margins.patches) == drawn > 0
    below = np.sum(np.abs(latents[flipped]) < thresholds[flipped])
    left = sum(
        bar.get_height()
        for bar in margins.patches
        if bar.get_x() + bar.get_width() <= 1
    )
    right = sum(bar.get_height() for bar in margins.patches if bar.get_x() > 1)
    assert left <= below <= drawn - right
    assert f"{np.mean(~flipped):.0%} never flipped" in counts.get_title(loc="left")


def test_save_plots_writes_three_pictures_twice(tmp_path, lines):
    paths = report.save_plots(
        tmp_path / "plots", lines, shared_runs.finished().state.opt_state
    )
    stems = ("learning", "flip_ratio", "flip_counts")
    names = {f"{stem}{suffix}" for stem in stems for suffix in (".png", ".svg")}
    assert {path.name for path in paths} == names
    assert {path.name for path in (tmp_path / "plots").iterdir()} == names
    for path in paths:
        if path.suffix == ".svg":
            continue
        with Image.open(path) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert min(picture.size) > 500
            assert len(set(picture.convert("L").get_flattened_data())) > 10


def _state(tx, gradient, steps=3):
    params = {"layer": {"kernel": jnp.where(jnp.arange(12) % 2 == 0, 1.0, -1.0)}}
    state = tx.init(params)
    gradients = {"layer": {"kernel": jnp.full(12, gradient)}}
    for _ in range(steps):
        updates, state = tx.update(gradients, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return state


@pytest.mark.parametrize(
    ("settings", "gradient"),
    [
        ({"learning_rate": 0.0}, 1.0),
        ({"threshold": 1e30}, 0.0),
        ({"threshold": 0.0}, 1.0),
        ({"threshold": 1e30, "momentum": 0.9}, 1.0),
        ({"learning_rate": 1e30, "threshold": 1e-30}, 1e8),
        ({}, float("nan")),
    ],
    ids=["rate 0", "no flips", "threshold 0", "huge threshold", "overflow", "nan"],
)
def test_extreme_states_are_drawn_without_a_warning(settings, gradient):
    fig = report.plot_flip_counts(_state(sj.sgdat(**settings), gradient))
    picture = io.BytesIO()
    fig.savefig(picture, dpi=30)
    assert len(picture.getvalue()) > 1000
    (row,) = _shares(fig.axes[0]).values()
    assert sum(row) == pytest.approx(100)


@pytest.mark.parametrize("epochs", [1, 2])
def test_runs_without_flips_are_drawn_without_a_warning(tmp_path, lines, epochs):
    state = _state(sj.sgdat(learning_rate=0.0), 1.0)
    quiet = [
        line | {"flip_ratio": 0.0, "flip_ratio_per_layer": {"layer": 0.0}}
        for line in lines[:epochs]
    ]
    paths = report.save_plots(tmp_path, quiet, state)
    assert all(path.stat().st_size > 1000 for path in paths)


def test_single_epoch_is_visible(lines):
    figures = report.plot_learning(lines[:1]), report.plot_flip_ratio(lines[:1])
    drawn = [line for fig in figures for axes in fig.axes for line in axes.get_lines()]
    assert len(drawn) == 8
    assert all(line.get_marker() == "o" for line in drawn)
    (first, *_) = report.plot_learning(lines).axes[0].get_lines()
    assert first.get_marker() == ""


def test_never_flipped_is_said():
    state = _state(sj.sgdat(learning_rate=0.0), 1.0)
    # Without a threshold above zero there is no margin to draw.
    (counts,) = report.plot_flip_counts(state).axes
    (row,) = _shares(counts).values()
    assert list(row) == [100]
    assert "100% never flipped" in counts.get_title(loc="left")


@pytest.mark.parametrize(
    ("tx", "pictures"),
    [(sj.bop(), 1), (sj.boat(), 2), (sj.latent(optax.sgd(1e-2)), 1), (sj.sgdt(), 2)],
)
def test_margins_are_drawn_where_there_are_thresholds(tx, pictures):
    fig = report.plot_flip_counts(_state(tx, 1.0))
    assert len(fig.axes) == pictures


def test_metrics_are_plain_json(lines):
    assert json.loads(json.dumps(lines, allow_nan=False)) == lines
