"""How sure a comparison is: differences over the same seeds, and intervals of means."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sgdat_jax import names
from sgdat_jax.report.runs import Group

CONFIDENCE = 0.95
_ROUNDING = 1e-12  # of differences of shares


def paired_differences(
    groups: Sequence[Group],
    reference: str | None = None,
    key: str = "test_accuracy",
) -> list[dict[str, Any]]:
    """Returns how each group differs from one of them, seed by seed.

    Runs of one seed have the same initial weights and the same order of images, so
    their difference varies less than that of two runs by chance. The intervals are
    those of Student's t on the differences; p values are of the paired t test, two-
    sided, and adjusted by Holm's method for the number of groups that are compared.

    Args:
      groups: what `group_runs` returns.
      reference: label of the group to compare with; None: SGDAT if it is there, or
        else the first.
      key: entry of the runs' results.

    Returns:
      A dictionary per other group: ``label``, ``reference``, ``seeds`` that both have,
      ``mean`` of the differences, the ends of its interval ``low`` and ``high``, ``p``
      and ``p_adjusted``; None where there are too few seeds or they all differ alike.

    Raises:
      ValueError: if there is no group of that label.

    Example:
      >>> from sgdat_jax import report
      >>> runs, _ = report.read_runs(["benchmarks/results/cifar10_h200/runs"])
      >>> groups = report.group_runs(runs)
      >>> row = report.paired_differences(groups, "SGD", "best_test_accuracy")[1]
      >>> row["label"], row["seeds"], round(row["mean"], 4)  # of several: low, high, p
      ('Bop', [0], -0.0033)

    References:
      Holm, A simple sequentially rejective multiple test procedure, Scandinavian
      Journal of Statistics, 1979.
    """
    base = reference_of(groups, reference)
    measured = {run.config.seed: run.result[key] for run in base.runs}
    rows: list[dict[str, Any]] = []
    for group in groups:
        if group is base:
            continue
        others = {run.config.seed: run.result[key] for run in group.runs}
        seeds = sorted(measured.keys() & others.keys())
        differences = np.array([others[seed] - measured[seed] for seed in seeds])
        rows.append(
            {"label": group.label, "reference": base.label, "seeds": seeds}
            | _tested(differences)
        )
    adjusted = iter(holm([row["p"] for row in rows if row["p"] is not None]))
    return [
        row | {"p_adjusted": None if row["p"] is None else next(adjusted)}
        for row in rows
    ]


def reference_of(groups: Sequence[Group], label: str | None) -> Group:
    """Returns the group that the others are compared with.

    Raises:
      ValueError: if there is no group of that label.
    """
    by_label = {group.label: group for group in groups}
    if label is None:
        # With restarts, as of a recipe, the label goes on after a comma.
        ours = (g for g in groups if g.label.partition(",")[0] == "SGDAT")
        return next(ours, groups[0])
    found: Group = names.look_up("reference", by_label, label)
    return found


def mean_interval(values: np.ndarray) -> tuple[float, float] | None:
    """Returns the ends of a mean's interval by Student's t; None for a single value.

    Example:
      >>> import numpy as np
      >>> from sgdat_jax.report import statistics
      >>> low, high = statistics.mean_interval(np.array([1.0, 2.0, 3.0]))
      >>> round(low, 3), round(high, 3)
      (-0.484, 4.484)
    """
    if len(values) < 2:
        return None
    from scipy import stats  # takes a second

    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)


def _tested(differences: np.ndarray) -> dict[str, float | None]:
    if not len(differences):
        return dict.fromkeys(("mean", "low", "high", "p"))
    low, high = mean_interval(differences) or (None, None)
    found = {"mean": float(differences.mean()), "low": low, "high": high, "p": None}
    if len(differences) < 2 or np.ptp(differences) < _ROUNDING:
        return found  # of differences without a spread a t test says nothing
    from scipy import stats

    p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return found | {"p": p if math.isfinite(p) else None}


def holm(values: Sequence[float]) -> list[float]:
    """Returns p values adjusted for their number by Holm's method.

    Example:
      >>> from sgdat_jax.report import statistics
      >>> statistics.holm([0.04, 0.01, 0.03])
      [0.06, 0.03, 0.06]
    """
    order = np.argsort(values)
    factors = len(values) - np.arange(len(values))
    adjusted = np.maximum.accumulate(np.asarray(values)[order] * factors)
    result = np.empty(len(values))
    result[order] = np.minimum(adjusted, 1.0)
    return [float(value) for value in result]
