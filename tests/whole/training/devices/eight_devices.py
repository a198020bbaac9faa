"""Trains a network on eight devices and on one, and prints what differs as JSON.

python eight_devices.py MODEL copied|sharded
"""

import functools
import json
import re
import sys

import jax
import numpy as np

import sgdat_jax as sj
import small_runs
from sgdat_jax.experiments import registry
from sgdat_jax.training import steps
from sgdat_jax.training.devices import parallel


def paths_that_differ(ours, theirs):
    """Where two trees have other bits."""
    pairs = zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True)
    return [
        jax.tree_util.keystr(path)
        for (path, a), b in pairs
        if np.asarray(a).tobytes() != np.asarray(b).tobytes()
    ]


def whole_batches(layout, alone, **changes):
    """Compares with one device where all devices see whole batches."""
    after, losses = small_runs.train(layout, split_batch=False, **changes)
    counts = jax.tree.leaves(small_runs.binary_part(after)[1])
    return {
        "same_losses": losses.tolist() == alone[1].tolist(),
        "differ": paths_that_differ(after, alone[0]),
        "most_flips": max(int(leaf.max()) for leaf in counts),
    }


def split_batches(layout, alone, **changes):
    """Compares with one device where each device sees its rows."""
    order = small_runs.ORDER
    after, losses = small_runs.train(layout, **changes)
    eighth = np.tile(order[:1, : small_runs.BATCH // 8], 8)
    first, first_alone, first_eighth = (
        small_runs.train(where, numbers, **changes)[0]
        for where, numbers in (
            (layout, order[:1]),
            (small_runs.alone(), order[:1]),
            (small_runs.alone(), eighth),
        )
    )
    latents = [sj.latent_weights(s.opt_state) for s in (first, first_alone)]
    return {
        "first_latents": small_runs.distance(*latents),
        "first_statistics": small_runs.distance(first.stats, first_alone.stats),
        "of_an_eighth": small_runs.distance(first_eighth.stats, first_alone.stats),
        "losses": (np.abs(losses / alone[1] - 1)).tolist(),
        "last_losses": float(losses[-50:].mean() / alone[1][-50:].mean() - 1),
        "flips": [
            sum(
                int(leaf.sum()) for leaf in jax.tree.leaves(sj.flip_counts(s.opt_state))
            )
            for s in (after, alone[0])
        ],
        **places(layout, after),
        **loop(layout, losses, **changes),
        **evaluations(layout, alone[0], **changes),
        "gathered": gathered(layout, **changes),
    }


def places(layout, after):
    """Where the arrays of a state lie."""
    leaves = jax.tree.leaves(after)
    shards = [shard for leaf in leaves for shard in leaf.addressable_shards]
    return {
        "astray": astray(layout, after),
        "bytes": sum(leaf.nbytes for leaf in leaves),
        "told": parallel.bytes_per_device(after, 8, sharded=layout.sharded),
        "held": [
            sum(shard.data.nbytes for shard in shards if shard.device == device)
            for device in jax.devices()
        ],
    }


def astray(layout, tree):
    """How many arrays do not lie as they should."""
    pairs = zip(
        jax.tree.leaves(tree),
        jax.tree.leaves(layout.shapes(tree)),
        strict=True,
    )
    return sum(not a.sharding.is_equivalent_to(b.sharding, a.ndim) for a, b in pairs)


def loop(layout, losses, **changes):
    """Three steps in one call, as on accelerators."""
    task, init = small_runs.task_and_init(layout, **changes)
    indices = layout.put_rows(small_runs.ORDER[:3], axis=1)
    data = small_runs.training_images(layout)
    after, (metrics, _) = small_runs.train_steps()(
        task, init(np.uint32(0)), data, indices
    )
    return {
        "looped": metrics.loss.tolist(),
        "singly": losses[:3].tolist(),
        "astray_after_loop": astray(layout, after),
    }


def evaluations(layout, state, **changes):
    """The metrics of 350 test images, on all devices and on one."""
    digits, results = small_runs.digits(), {}
    batch = steps.Batch(digits.test_images, digits.test_labels)
    weights = (np.arange(len(digits.test_labels)) < 350).astype(np.float32)
    evaluate = small_runs.loop.programs().eval_step
    for name, where in (
        ("evaluated", layout),
        ("evaluated_alone", small_runs.alone()),
    ):
        placed = jax.tree.map(
            lambda leaf, shape: jax.device_put(np.asarray(leaf), shape.sharding),
            state,
            where.shapes(state),
        )
        task = small_runs.task_and_init(where, **changes)[0]
        rows, given = where.put_rows((batch, weights))
        results[name] = list(map(float, evaluate(task, placed, rows, given)))
    return results


def gathered(layout, **changes):
    """What a step's program gathers from the devices: types and shapes."""
    task, init = small_runs.task_and_init(layout, **changes)
    indices = layout.put_rows(small_runs.ORDER[:1], axis=1)
    data = small_runs.training_images(layout)
    lowered = small_runs.train_steps().lower(task, init(np.uint32(0)), data, indices)
    text = lowered.compile().as_text()
    found = re.findall(r" = (\w+\[[\d,]*\])\S* all-gather\(", text)
    moved = re.findall(r" (all-to-all|collective-permute)\(", text)
    return sorted({*found, *moved})


def optimizers():
    """Where each optimizer has other bits than on one device, after a few steps."""
    layout = parallel.lay_out(jax.devices(), sharded=True, bits=False, scatter=False)
    differ = {}
    for name in registry.OPTIMIZERS:
        ours, theirs = (
            small_runs.train(
                where,
                small_runs.ORDER[:20],
                split_batch=False,
                optimizer=name,
                clip_norm=1.0,
            )[0]
            for where in (layout, small_runs.alone())
        )
        differ[name] = paths_that_differ(ours, theirs)
    return differ


def compare(model, where):
    """All that differs for a network."""
    alone = small_runs.train(small_runs.alone(), model=model)
    lay_out = functools.partial(
        parallel.lay_out, jax.devices(), sharded=where == "sharded"
    )
    results = split_batches(lay_out(), alone, model=model)
    return results | whole_batches(
        lay_out(bits=False, scatter=False), alone, model=model
    )


if __name__ == "__main__":
    what, *more = sys.argv[1:]
    print(json.dumps(compare(what, *more) if more else optimizers()))
