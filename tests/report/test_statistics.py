"""Paired differences, against scipy and by hand."""

import numpy as np
import pytest
from scipy import stats

from sgdat_jax import report
from sgdat_jax.report import statistics


@pytest.fixture
def groups(folder_of, tmp_path):
    accuracies = {
        "sgdat": (0.60, 0.62, 0.58, 0.65),
        "bop": (0.56, 0.60, 0.55, 0.61),
        "boat": (0.60, 0.61, 0.59, 0.66),
    }
    for name, values in accuracies.items():
        for seed, value in enumerate(values):
            folder_of(f"{name}{seed}", value, optimizer=name, seed=seed)
    return report.group_runs(report.read_runs([tmp_path / "runs"])[0])


def _values(groups, label):
    (group,) = [group for group in groups if group.label == label]
    return group.results("test_accuracy")


def test_intervals_and_p_values_are_those_of_scipy(groups):
    rows = report.paired_differences(groups)
    assert [row["reference"] for row in rows] == ["SGDAT", "SGDAT"]
    for row in rows:
        assert row["seeds"] == [0, 1, 2, 3]
        theirs = stats.ttest_rel(
            _values(groups, row["label"]), _values(groups, "SGDAT")
        )
        interval = theirs.confidence_interval(0.95)
        assert row["p"] == pytest.approx(theirs.pvalue)
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    bop = next(row for row in rows if row["label"] == "Bop")
    assert bop["mean"] == pytest.approx(-0.0325)
    # Two rows: the smaller p counts twice, the other once.
    smaller, larger = sorted(row["p"] for row in rows)
    adjusted = sorted(row["p_adjusted"] for row in rows)
    assert adjusted == pytest.approx([2 * smaller, max(larger, 2 * smaller)])


def test_the_reference_can_be_named(groups):
    rows = report.paired_differences(groups, "Bop")
    by_label = {row["label"]: row["mean"] for row in rows}
    assert by_label["SGDAT"] == pytest.approx(0.0325)
    with pytest.raises(ValueError, match="unknown reference 'Bob'; the nearest is"):
        report.paired_differences(groups, "Bob")


def test_only_seeds_that_both_have_are_paired(folder_of, diverged_of, tmp_path):
    folder_of("a", 0.5), folder_of("b", 0.7, seed=1), folder_of("c", 0.9, seed=2)
    folder_of("d", 0.6, optimizer="bop", seed=1)
    (
        folder_of("e", 0.6, optimizer="bop", seed=3),
        diverged_of("f", optimizer="bop", seed=2),
    )
    groups = report.group_runs(report.read_runs([tmp_path / "runs"])[0])
    (row,) = report.paired_differences(groups)
    assert row["seeds"] == [1]
    assert row["mean"] == pytest.approx(-0.1)
    assert row["low"] is row["high"] is row["p"] is row["p_adjusted"] is None


def test_equal_differences_have_no_test(folder_of, tmp_path):
    for seed in (0, 1):
        folder_of(f"a{seed}", 0.1 + 0.2 * seed, seed=seed)
        folder_of(f"b{seed}", 0.2 + 0.2 * seed, seed=seed, optimizer="bop")
    groups = report.group_runs(report.read_runs([tmp_path / "runs"])[0])
    (row,) = report.paired_differences(groups)
    assert (row["low"], row["high"]) == pytest.approx((0.1, 0.1))
    assert row["p"] is None


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(0)
    samples = rng.normal(1.0, 2.0, (4000, 5))
    ends = np.array([statistics.mean_interval(sample) for sample in samples])
    covered = np.mean((ends[:, 0] <= 1.0) & (ends[:, 1] >= 1.0))
    assert covered == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors
