import base64
import csv
import html.parser
import io
import json
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import figure
from rich import console

from sgdat_jax import report

pytestmark = pytest.mark.usefixtures("compiled_quickly")


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
    assert (first["selected_by"], second["selected_by"]) == ("test", "test")
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
    assert "| Bop | 1 (1 diverged) | 2 |  |  |  |" in text
    assert "| Bop | 0 |  |  |  |  |" in text  # has no seed to compare
    with (out / "comparison.csv").open(newline="") as file:
        assert [row["diverged"] for row in csv.DictReader(file)] == ["1", "1"]
    assert (out / "accuracy.png").exists()
    # A folder of nothing else is reported too, and keeps no plot of what was before.
    (out / "notes.png").write_text("mine")
    report.write_comparison(str(out), groups[1:])
    names = {path.name for path in out.glob("*.*")}
    assert names == {
        "comparison.md",
        "comparison.tex",
        "comparison.csv",
        "comparison.json",
        "differences.csv",
        "report.html",
        "notes.png",
    }


@pytest.mark.usefixtures("without_drawing")
def test_files_agree(groups, tmp_path):
    folder = tmp_path / "new" / "report"
    groups[0].runs[1].result["device"] = "gpu"
    paths = report.write_comparison(folder, groups)
    assert sorted(paths) == sorted(folder.iterdir())
    data = json.loads((folder / "comparison.json").read_text())
    assert data["rows"] == report.compare_runs(groups)
    assert data["differences"] == report.compare_pairs(groups)
    assert (data["dataset"], data["devices"]) == ("digits", ["cpu", "gpu"])
    with (folder / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["SGDAT", "Bop"]
    assert float(rows[0]["test_accuracy_mean"]) == pytest.approx(0.6)
    assert (rows[0]["seeds"], rows[1]["test_accuracy_std"]) == ("0 1", "")
    text = (folder / "comparison.md").read_text()
    assert "| SGDAT | 2 | 2 | 60.00 ± 14.14 |" in text
    assert "| Bop | 1 | 2 | 40.00 |" in text
    assert "chosen" not in text


def test_table_of_the_terminal(groups):
    terminal = console.Console(width=100, file=io.StringIO(), color_system=None)
    terminal.print(report.comparison_table(report.compare_runs(groups)))
    assert "60.00±14.14" in terminal.file.getvalue()


def _lines(axes):
    return {line.get_label(): line.get_ydata() for line in axes.get_lines()}


def test_accuracies_are_dots_means_and_intervals(groups):
    fig = report.plot_accuracy(groups)
    (axes,) = fig.axes
    dots, interval, mean, single, its_mean = (
        line.get_xdata() for line in axes.get_lines()
    )
    np.testing.assert_allclose(dots, [50, 70])
    # Of two values: 60 +- t(0.975, 1) * 10.
    np.testing.assert_allclose(interval, [60 - 127.062, 60 + 127.062], rtol=1e-5)
    assert (float(mean[0]), float(single[0]), float(its_mean[0])) == pytest.approx(
        (60, 40, 40)
    )
    assert [text.get_text() for text in axes.get_yticklabels()] == ["SGDAT", "Bop"]
    assert fig.get_suptitle() == "digits, DigitsNet"


def test_curves_and_bands_have_a_panel_each(groups):
    fig = report.plot_accuracy_curves(groups)
    assert [axes.get_title(loc="left") for axes in fig.axes] == ["SGDAT", "Bop"]
    other, own = fig.axes[0].get_lines()
    np.testing.assert_allclose(own.get_ydata(), [70, 60])
    np.testing.assert_allclose(other.get_ydata(), [50, 40])
    assert own.get_zorder() > other.get_zorder()
    band = fig.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    spread = 20 / np.sqrt(2)
    assert band.min() == pytest.approx(60 - spread)
    assert band.max() == pytest.approx(70 + spread)
    fig.draw_without_rendering()
    for axes in fig.axes:
        assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_flip_histograms_are_those_of_the_results(groups):
    fig = report.plot_flip_histograms(groups)
    drawn = [bar.get_height() for bar in fig.axes[0].patches]
    expected = [100 * share for share in groups[0].runs[0].result["flip_histogram"]]
    np.testing.assert_allclose(drawn, expected[: len(drawn)], rtol=1e-6)
    assert not any(expected[len(drawn) :])
    labels = [text.get_text() for text in fig.axes[0].get_xticklabels()]
    assert labels[:3] == ["0", "1", "2-3"][: len(drawn)]


def test_oscillation_counts_the_bins_above(groups):
    silent, oscillating = report.plot_oscillation(groups[:1], more_than=1).axes
    line = groups[0].runs[0].lines
    never = [100 * entry["flip_histogram"][0] for entry in line]
    often = [100 * sum(entry["epoch_flip_histogram"][2:]) for entry in line]
    for axes, expected in ((silent, never), (oscillating, often)):
        joined, first, last = (drawn.get_xdata() for drawn in axes.get_lines())
        np.testing.assert_allclose(joined, [expected[0], expected[-1]])
        np.testing.assert_allclose([first[0], last[0]], joined)
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


def _map(axes):
    """The numbers of a panel of layers by epochs, by layer."""
    (image,) = axes.get_images()
    first = axes.figure.axes[0]  # where alone they are written
    names = [text.get_text() for text in first.get_yticklabels()]
    return dict(zip(names, image.get_array(), strict=True))


def test_gradients_are_means_over_seeds(groups):
    first, second = groups[0].runs
    for line in second.lines:
        line["gradient_per_layer"] = {
            name: 3 * value for name, value in line["gradient_per_layer"].items()
        }
    axes, _bar = report.plot_gradients(groups[:1]).axes
    expected = [2 * line["gradient_per_layer"]["conv2"] for line in first.lines]
    np.testing.assert_allclose(_map(axes)["conv2 (binary)"], expected)


def test_all_plots_are_drawn_of_what_was_recorded(groups):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots = report.plot_comparison(groups)
        for fig in plots.values():
            assert isinstance(fig, figure.Figure)
            fig.savefig(io.BytesIO(), dpi=30)
    assert {"accuracy", "flip_ratio", "margins", "gradients"} < set(plots)
    assert len(plots["flip_ratio_per_layer"].axes) == 3  # one of them of colours
    gradients, _bar = plots["gradients"].axes
    assert gradients.get_title(loc="left") == "SGDAT"
    assert set(_map(gradients)) == {
        "conv1 (real)",
        "conv2 (binary)",
        "conv3 (binary)",
        "dense4 (binary)",
        "dense5 (real)",
    }


@pytest.mark.whole
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
    row = "| SGDAT full_precision=('*',) | 1 | 2 | 90.00 |  | "
    assert row in table
    assert (tmp_path / "out" / "gradients.png").exists()


def test_networks_of_other_layers(folder_of):
    other = folder_of("b", optimizer="bop")
    file = other / "metrics.jsonl"
    file.write_text(file.read_text().replace('"conv2"', '"conv9"'))
    groups = report.group_runs(report.read_runs([folder_of("a"), other])[0])
    first, second, _bar = report.plot_flip_ratios_per_layer(groups).axes
    assert set(_map(first)) == {"conv2", "conv3", "dense4", "conv9"}
    assert _map(first)["conv9"].mask.all() and _map(second)["conv2"].mask.all()
    assert not _map(first)["conv2"].mask.any()


def test_thresholds_are_named_where_margins_are_drawn(groups):
    fig = report.plot_margins(groups[:1])
    (named,) = [text for text in fig.axes[0].texts if text.get_text()]
    assert (named.get_text(), named.xy[0]) == ("threshold", 1.0)


@pytest.mark.whole
def test_pictures_are_written_twice_and_bit_for_bit_again(groups, tmp_path):
    paths = report.write_comparison(tmp_path, groups)
    pictures = [path for path in paths if path.suffix in (".png", ".svg")]
    found = {path.name: path.read_bytes() for path in pictures}
    names = {path.stem for path in pictures}
    assert {f"{n}{s}" for n in names for s in (".png", ".svg")} == set(found)
    report.write_comparison(tmp_path, groups)
    assert {path.name: path.read_bytes() for path in pictures} == found
    for content in (v for k, v in found.items() if k.endswith(".svg")):
        assert ElementTree.fromstring(content).tag.endswith("svg")


class _Page(html.parser.HTMLParser):
    """What a page holds, and that its tags are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.sources, self.names = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        if tag == "img":
            self.sources.append(dict(attrs)["src"])
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_a_page_holds_all_of_a_comparison(folder_of, tmp_path):
    folder_of("a", 0.5), folder_of("b", 0.7, seed=1)
    folder_of("c", 0.4, threshold=1e-6, label="<mine> & more")
    groups = report.group_runs(report.read_runs([tmp_path / "runs"])[0])
    report.write_comparison(tmp_path / "out", groups)
    text = (tmp_path / "out" / "report.html").read_text()
    page = _Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert "http" not in text.replace("http-equiv", "")  # needs no other file
    assert 'name="viewport"' in text
    assert not {"script", "link", "iframe"} & set(page.names)
    assert len(page.sources) >= 5
    for source in page.sources:
        kind, _, data = source.partition(",")
        assert kind == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")
    said = " ".join(page.text)
    versions = groups[0].runs[0].result["versions"]
    for expected in (
        "DigitsNet on digits",
        "60.00 ± 14.14",
        "<mine> & more",
        "1e-06",
        "batch_size",
        versions["jax"],
        groups[0].runs[0].result["device"],
    ):
        assert expected in said, expected


@pytest.mark.whole
def test_the_page_of_one_run_has_its_learning_curves(folder_of, tmp_path):
    groups = report.group_runs(report.read_runs([folder_of("a")])[0])
    names = {path.name for path in report.write_comparison(tmp_path / "out", groups)}
    assert {"learning.png", "learning.svg", "report.html"} <= names


def test_best_epochs_of_the_test_set_are_shown_if_asked_for(groups):
    rows = report.compare_runs(groups)
    assert "best epoch" not in report.comparison_markdown(rows)
    asked = report.comparison_markdown(rows, select_on_test=True)
    assert "| best epoch by test (%) |" in asked and "| 70.00 ± 14.14 |" in asked


@pytest.mark.usefixtures("without_drawing")
def test_best_epochs_of_a_validation_part_are_shown_and_compared(folder_of, tmp_path):
    shared = {"validation_share": 0.2}
    folder_of("a", 0.5, **shared), folder_of("b", 0.7, seed=1, **shared)
    folder_of("c", 0.6, optimizer="bop", **shared)
    groups = report.group_runs(report.read_runs([tmp_path / "runs"])[0])
    report.write_comparison(tmp_path / "out", groups)
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "| SGDAT | 2 | 2 | 60.00 ± 14.14 | 70.00 ± 14.14 |" in text
    assert "a part of the training images that is not trained with" in text
    assert "Test accuracy of the best epoch minus that of SGDAT" in text
    data = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert data["differences"][0]["measure"] == "best_test_accuracy"


@pytest.mark.usefixtures("without_drawing")
def test_tables_for_latex(groups, tmp_path):
    report.write_comparison(tmp_path, groups)
    text = (tmp_path / "comparison.tex").read_text()
    assert r"SGDAT & 2 & 2 & 60.00 $\pm$ 14.14 &" in text
    assert r"last epoch (\%)" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert r"$-$10.00" in text  # Bop minus SGDAT, of the seed that both have
