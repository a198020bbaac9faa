"""Sums over the steps of an epoch, until its line of metrics is written."""

from typing import Any

import jax
import numpy as np

from sgdat_jax import optimizers
from sgdat_jax.training import steps

Sums = dict[str, Any]  # numbers by name, or by name and layer; as in JSON


class EpochRecord:
    """Sums over the steps of an epoch.

    The sums are of float64 and in the order of the steps, so they do not depend, to the
    bit, on how many steps a call takes or on where an interrupted run went on.

    Args:
      sums: what `sums` returned, to go on from there.
    """

    def __init__(self, sums: Sums | None = None):
        self._sums = sums or {}
        self._pending: list[Sums] = []

    def add(self, record: steps.Record) -> None:
        """Adds the record of one step or more, without waiting for them."""
        self._pending.append(_by_name(*record))

    def sums(self) -> Sums:
        """Waits for the steps and returns the sums; an empty dict before any step."""
        if self._pending:
            if not self._sums:
                self._sums = jax.tree.map(lambda _: 0.0, self._pending[0])
            self._sums = jax.tree.map(_add_in_order, self._sums, *self._pending)
            self._pending.clear()
        return self._sums


def _by_name(metrics: steps.Metrics, weights: steps.WeightMetrics) -> Sums:
    named: Sums = {
        "steps": np.ones(len(metrics.loss)),
        "skipped_steps": weights.skipped > 0,
        **metrics._asdict(),
    }
    if weights.flips is not None:
        named["flip_ratio"] = weights.flips.total
        named["flip_ratio_per_layer"] = optimizers.layers_of(weights.flips.per_leaf)
    if weights.gradients is not None:
        named["gradient_per_layer"] = optimizers.layers_of(weights.gradients)
    return named


def _add_in_order(total: float, *parts: Any) -> float:
    values = np.concatenate([[total], *parts]).astype(np.float64)
    return float(np.add.accumulate(values)[-1])
