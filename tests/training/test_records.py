"""Sums over the steps of an epoch."""

import jax.numpy as jnp
import numpy as np

from sgdat_jax.optimizers import FlipRatio
from sgdat_jax.training import steps
from sgdat_jax.training.metrics import records


def _record(skipped, losses):
    sums = jnp.asarray(losses, jnp.float32)
    metrics = steps.Metrics(jnp.ones_like(sums), sums, sums, sums)
    flips = FlipRatio(sums, {"conv": {"kernel": 2 * sums}})
    weights = steps.WeightMetrics(jnp.asarray(skipped, jnp.int32), flips, None)
    return metrics, weights


def test_skipped_steps_are_counted_one_by_one():
    record = records.EpochRecord()
    # How many were skipped in a row, up to each step.
    record.add(_record([0, 1, 2], [1.0, 0.0, 0.0]))
    record.add(_record([0, 1], [3.0, 0.0]))
    sums = record.sums()
    assert (sums["steps"], sums["skipped_steps"]) == (5, 3)
    assert (sums["examples"], sums["loss"]) == (5, 4)
    assert sums["flip_ratio_per_layer"] == {"conv": 8}


def test_sums_go_on_to_the_bit_wherever_they_were_cut():
    losses = np.random.default_rng(0).uniform(size=20).astype(np.float32)
    whole = records.EpochRecord()
    whole.add(_record([0] * 20, losses))
    for cut in (1, 7, 19):
        first = records.EpochRecord()
        first.add(_record([0] * cut, losses[:cut]))
        second = records.EpochRecord(first.sums())
        for loss in losses[cut:]:
            second.add(_record([0], [loss]))
        assert second.sums() == whole.sums()
