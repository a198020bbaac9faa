"""Runs by the steps themselves, wherever they are told to lie, of a tiny network."""

import functools

import jax
import numpy as np

import sgdat_jax as sj
from benchmarks.small_net import TinyNet as TinyNet
from sgdat_jax.data import sources
from sgdat_jax.experiments import configs, setup
from sgdat_jax.training import loop, steps
from sgdat_jax.training.devices import parallel

BATCH = 64
STEPS = 100
_NUM_IMAGES = 1437  # for training
# Without jax, which must not have begun when a process joins a job.
ORDER = np.random.default_rng(0).integers(0, _NUM_IMAGES, (STEPS, BATCH), np.int32)

digits = functools.cache(sources.digits)  # loaded by the tests that need it


def alone():
    """One device."""
    return parallel.lay_out(jax.local_devices()[:1])


def train_steps():
    """The program of runs, which is not asked for before a process joins its job."""
    return loop.programs().train_steps


@functools.cache
def task_and_init(layout, **changes):
    """The fixed part of a run, and what makes its start."""
    settings = configs.TrainConfig(batch_size=BATCH, **{"model": "TinyNet"} | changes)
    return setup.create(settings, digits(), STEPS, layout)


def training_images(layout):
    images, labels = digits().train_images, digits().train_labels
    return layout.put_whole(steps.Images.of(images, labels))


def train(layout, order=ORDER, *, split_batch=True, **changes):
    """Trains by the program of runs; returns the last state, and the loss per step."""
    task, init = task_and_init(layout, **changes)
    data, rows = training_images(layout), layout.rows(BATCH)
    now, losses = init(np.uint32(0)), []
    take = train_steps()
    programs = take._cache_size()
    for numbers in order:
        if split_batch:
            indices = layout.put_rows(numbers[np.newaxis, rows], axis=1)
        else:
            indices = layout.put_whole(numbers[np.newaxis])
        now, (metrics, _) = take(task, now, data, indices)
        losses.append(float(metrics.loss[0]))
    assert take._cache_size() <= programs + 1
    return now, np.array(losses)


def binary_part(run_state):
    """The binary weights of a state, and how often each has flipped."""
    weights = sj.select_binary(run_state.params, run_state.params)
    return weights, sj.flip_counts(run_state.opt_state)


def distance(ours, theirs):
    """The largest difference of two arrays or trees, over the largest magnitude."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(b).max())
        for a, b in pairs
    )
