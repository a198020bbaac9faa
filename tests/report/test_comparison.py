import csv
import io
import json
import warnings

import numpy as np
import pytest
from matplotlib import figure
from rich import console

from sgdat_jax import report


def test_rows_hold_mean_and_sample_deviation(groups):
    first, second = report.compare_runs(groups)
    assert (first["label"], first["runs"], first["seeds"]) == ("SGDAT", 2, [0, 1])
    assert first["test_accuracy"]["mean"] == pytest.approx(0.6)
    assert first["test_accuracy"]["std"] == pytest.approx(0.2 / np.sqrt(2))
    assert first["best_test_accuracy"]["mean"] == pytest.approx(0.7)
    assert second["test_accuracy"] == {"mean": 0.4, "std": None}
    # The first of two epochs holds the compiling.
    seconds = groups[1].runs[0].lines[1]["seconds"]
    assert second["seconds_per_epoch"]["mean"] == seconds
    assert (first["diverged"], second["diverged"]) == (0, 0)


def test_runs_that_diverged_are_counted_and_not_averaged(
    folder_of, diverged_of, tmp_path
):
    folder_of("a", 0.5), folder_of("b", 0.7, seed=1)
    some, all_ = diverged_of("c", seed=2), diverged_of("d", optimizer="bop")
    runs, skipped = report.read_runs([tmp_path / "runs"])
    assert skipped == []
    assert [run.folder for run in runs if run.diverged] == [some, all_]
    assert runs[-1].result == {"epoch": 2, "step": 30}
    groups = report.group_runs(runs)
    assert [(g.label, len(g.runs), len(g.diverged)) for g in groups] == [
        ("SGDAT", 2, 1),
        ("Bop", 0, 1),
    ]
    first, second = report.compare_runs(groups)
    assert (first["runs"], first["diverged"], first["seeds"]) == (3, 1, [0, 1, 2])
    assert first["test_accuracy"]["mean"] == pytest.approx(0.6)
    assert second["test_accuracy"] == {"mean": None, "std": None}
    out = tmp_path / "out"
    report.write_comparison(out, groups)
    text = (out / "comparison.md").read_text()
    assert "| SGDAT | 3 (1 diverged) | 2 | 60.00 ± 14.14 |" in text
    assert "| Bop | 1 (1 diverged) | 2 |  |  |  |  |" in text
    with (out / "comparison.csv").open(newline="") as file:
        assert [row["diverged"] for row in csv.DictReader(file)] == ["1", "1"]
    assert (out / "accuracy.png").exists()
    # A folder of nothing else is reported too, and keeps no plot of what was before.
    (out / "notes.png").write_text("mine")
    report.write_comparison(out, groups[1:])
    names = {path.name for path in out.glob("*.*")}
    assert names == {
        "comparison.md",
        "comparison.csv",
        "comparison.json",
        "notes.png",
    }


def test_files_agree(groups, tmp_path):
    folder = tmp_path / "new" / "report"
    groups[0].runs[1].result["device"] = "gpu"
    paths = report.write_comparison(folder, groups)
    assert sorted(paths) == sorted(folder.iterdir())
    data = json.loads((folder / "comparison.json").read_text())
    assert data["rows"] == report.compare_runs(groups)
    assert (data["dataset"], data["devices"]) == ("digits", ["cpu", "gpu"])
    with (folder / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["SGDAT", "Bop"]
    assert float(rows[0]["test_accuracy_mean"]) == pytest.approx(0.6)
    assert (rows[0]["seeds"], rows[1]["test_accuracy_std"]) == ("0 1", "")
    text = (folder / "comparison.md").read_text()
    assert "| SGDAT | 2 | 2 | 60.00 ± 14.14 | 70.00 ± 14.14 |" in text
    assert "| Bop | 1 | 2 | 40.00 | 50.00 |" in text
    assert "chosen on the test set" in text


def test_table_of_the_terminal(groups):
    terminal = console.Console(width=100, file=io.StringIO(), color_system=None)
    terminal.print(report.comparison_table(report.compare_runs(groups)))
    assert "60.00±14.14" in terminal.file.getvalue()


def _lines(axes):
    return {line.get_label(): line.get_ydata() for line in axes.get_lines()}


def test_accuracies_and_bands(groups):
    curves, last = report.plot_accuracy(groups).axes
    np.testing.assert_allclose(_lines(curves)["SGDAT"], [70, 60])
    np.testing.assert_allclose(_lines(curves)["Bop"], [50, 40])
    band = curves.collections[0].get_paths()[0].vertices[:, 1]
    spread = 20 / np.sqrt(2)
    assert band.min() == pytest.approx(60 - spread)
    assert band.max() == pytest.approx(70 + spread)
    shown = [line.get_xdata() for line in last.get_lines()[::2]]
    np.testing.assert_allclose(shown[0], [50, 70])
    assert [text.get_text() for text in last.get_yticklabels()] == ["SGDAT", "Bop"]


def test_flip_histograms_are_those_of_the_results(groups):
    (axes,) = report.plot_flip_histograms(groups).axes
    drawn = _lines(axes)["SGDAT"]
    expected = groups[0].runs[0].result["flip_histogram"]
    np.testing.assert_allclose(np.nan_to_num(drawn), expected, rtol=1e-6)
    assert [text.get_text() for text in axes.get_xticklabels()][:3] == ["0", "1", "2-3"]


def test_oscillation_counts_the_bins_above(groups):
    silent, oscillating = report.plot_oscillation(groups[:1], more_than=1).axes
    line = groups[0].runs[0].lines
    never = [100 * entry["flip_histogram"][0] for entry in line]
    often = [100 * sum(entry["epoch_flip_histogram"][2:]) for entry in line]
    np.testing.assert_allclose(_lines(silent)["SGDAT"], never)
    np.testing.assert_allclose(_lines(oscillating)["SGDAT"], often)
    assert often[0] > 0
    with pytest.raises(ValueError, match=r"more_than.*power of two, got 2"):
        report.plot_oscillation(groups, more_than=2)


def test_powers_of_two_are_those_of_the_last_epoch(groups):
    sgdat = groups[0]
    for run, share in zip(sgdat.runs, (0.25, 0.75), strict=True):
        for line, exponent in zip(run.lines, (-30, -20), strict=True):
            shares = np.zeros(40)
            shares[exponent + 40] = share
            line["threshold_histogram"] = shares.tolist()
    (axes,) = report.plot_thresholds(groups[:1]).axes
    (stairs,) = axes.patches
    values, edges, _ = stairs.get_data()
    assert dict(zip(edges, values, strict=False))[2.0**-20] == 50
    assert values.sum() == 50
    assert axes.get_xlim() == (2.0**-20, 2.0**-19)


def test_gradients_are_means_over_seeds(groups):
    first, second = groups[0].runs
    for line in second.lines:
        line["gradient_per_layer"] = {
            name: 3 * value for name, value in line["gradient_per_layer"].items()
        }
    (axes,) = report.plot_gradients(groups[:1]).axes
    expected = [2 * line["gradient_per_layer"]["conv2"] for line in first.lines]
    np.testing.assert_allclose(_lines(axes)["conv2 (binary)"], expected)


def test_all_plots_are_drawn_of_what_was_recorded(groups):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots = report.plot_comparison(groups)
        for fig in plots.values():
            assert isinstance(fig, figure.Figure)
            fig.savefig(io.BytesIO(), dpi=30)
    assert {"accuracy", "flip_ratio", "margins", "gradients"} < set(plots)
    assert len(plots["flip_ratio_per_layer"].axes) == 3
    assert [axes.get_title() for axes in plots["gradients"].axes] == ["SGDAT"]
    gradients = _lines(plots["gradients"].axes[0])
    assert set(gradients) == {
        "conv1 (real)",
        "conv2 (binary)",
        "conv3 (binary)",
        "dense4 (binary)",
        "dense5 (real)",
    }


def test_runs_without_binary_weights_stand_beside_others(folder_of, tmp_path):
    flips = ("flip_ratio", "flip_ratio_per_layer")
    real = folder_of("real", 0.9, without=flips, full_precision=["*"])
    file = real / "result.json"
    result = {
        key: value
        for key, value in json.loads(file.read_text()).items()
        if "flip" not in key
    }
    file.write_text(json.dumps(result))
    message = f"{file} has no flips_per_weight."
    assert report.read_runs([real]) == ([], [message])
    file.write_text(json.dumps(result | {"model": {"binary_layers": []}}))
    runs, skipped = report.read_runs([folder_of("binary", 0.5), real])
    assert skipped == []
    report.write_comparison(tmp_path / "out", report.group_runs(runs))
    table = (tmp_path / "out" / "comparison.md").read_text()
    row = "| SGDAT full_precision=('*',) | 1 | 2 | 90.00 | 100.00 |  | "
    assert row in table
    assert (tmp_path / "out" / "gradients.png").exists()


def test_networks_of_other_layers_and_colors_of_fewer_groups(folder_of):
    other = folder_of("b", optimizer="bop")
    file = other / "metrics.jsonl"
    file.write_text(file.read_text().replace('"conv2"', '"conv9"'))
    groups = report.group_runs(report.read_runs([folder_of("a"), other])[0])
    axes = report.plot_flip_ratios_per_layer(groups).axes
    titles = {ax.get_title(): list(_lines(ax)) for ax in axes if ax.get_title()}
    assert titles["conv2"] == ["SGDAT"]
    assert titles["conv9"] == ["Bop"]
    assert titles["conv3"] == ["SGDAT", "Bop"]
    both, alone = (
        report.plot_flip_ratios(drawn).axes[0].get_lines()
        for drawn in (groups, groups[1:])
    )
    assert both[1].get_color() == alone[0].get_color() != both[0].get_color()
