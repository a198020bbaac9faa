"""One process of several that train as one job.

    python one_of_many.py ADDRESS PROCESSES PROCESS copied|sharded FOLDER STEPS [FAIL]

It leaves what it has seen in the folder. With FAIL it raises an error at that step; by
``cluster`` in place of ADDRESS it finds out itself who the others are.
"""

import pathlib
import sys

import jax
import numpy as np

import small_runs
from sgdat_jax.training import steps
from sgdat_jax.training.devices import hosts, parallel


def seen(layout, after, losses):
    """All that a process can tell of the run, as arrays."""
    digits = small_runs.digits()
    count = len(digits.test_labels)
    rows = layout.rows(count)
    share = steps.Batch(digits.test_images[rows], digits.test_labels[rows])
    weights = np.ones(count, np.float32)[rows]
    evaluate = small_runs.loop.programs().eval_step
    task = small_runs.task_and_init(layout)[0]
    metrics = evaluate(task, after, *layout.put_rows((share, weights)))
    binary = layout.gather(small_runs.binary_part(after))
    return {
        "losses": losses,
        "rows": [rows.start, rows.stop],
        "metrics": np.array(metrics),
        "writer": hosts.is_writer(),
        "bytes": sum(
            shard.data.nbytes
            for leaf in jax.tree.leaves(after)
            for shard in leaf.addressable_shards
        ),
        **{str(i): leaf for i, leaf in enumerate(jax.tree.leaves(binary))},
    }


def orders(steps, fail):
    """The batches, over and over if need be; each is told of, and one may fail."""
    for number in range(steps):
        if number == fail:
            raise OSError("no space left on device")
        if number % 10 == 0:
            print("step", number, flush=True)
        yield small_runs.ORDER[number % small_runs.STEPS]


def main(address, processes, process, where, folder, steps, fail=-1):
    if address == "cluster":
        hosts.join(heartbeat_seconds=10)
    else:
        hosts.join(address, int(process), int(processes), heartbeat_seconds=10)
    with hosts.one_for_all():
        layout = parallel.lay_out(jax.devices(), sharded=where == "sharded")
        after, losses = small_runs.train(layout, orders(int(steps), int(fail)))
        file = pathlib.Path(folder, f"{jax.process_index()}.npz")
        np.savez(file, **seen(layout, after, losses))


if __name__ == "__main__":
    main(*sys.argv[1:])
