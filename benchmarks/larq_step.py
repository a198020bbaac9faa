r"""How fast is a whole training step of BinaryNet in Larq on TensorFlow?

The same architecture and batch as in `benchmarks.train_step`, padded with zeros as
there and as Larq does by default. Both of Larq's ways: Bop for binary kernels and Adam
for the rest, and Adam on latent weights. A step is a `tf.function` of our own, with
augmentation or without; it returns loss, correct and top-5 predictions, but does not
count flips. Keras's `train_on_batch` stands beside it. It needs an environment of its
own, without this library:

    python3.11 -m venv larq
    larq/bin/pip install larq 'tensorflow-cpu<2.17' 'tf_keras<2.17'
    TF_USE_LEGACY_KERAS=1 larq/bin/python -m benchmarks.larq_step --width 0.25

With results of `benchmarks.train_step` in the same folder, rows say how many times as
long as SGDAT's step theirs takes; run both in turns.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import sys
import time

import larq
import numpy as np
import tensorflow as tf
import tf_keras as keras

from benchmarks import larq_nets

RESULTS = pathlib.Path(__file__).parent / "results" / "train_step"
PACKAGES = ("larq", "tensorflow-cpu", "tf_keras", "numpy")
BATCH = 128
PADDING = 4
BOP = {  # kernels are -1 and +1 themselves, which marks them for Bop
    "kernel_quantizer": larq.quantizers.NoOp(precision=1),
    "kernel_constraint": None,
}


def made_data():
    """Returns images and labels of CIFAR's shape; pixels do not matter for speed."""
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 32, 32, 3), np.uint8)
    return images, (np.arange(BATCH) % 10).astype(np.int32)


def training_parts(width, binary_optimizer):
    """Returns a network and its optimizer, of binary kernels and of the rest."""
    adam = keras.optimizers.legacy.Adam(1e-3)
    if binary_optimizer == "adam":
        return larq_nets.binary_net(width), adam
    bop = (larq.optimizers.Bop.is_binary_variable, larq.optimizers.Bop())
    optimizer = larq.optimizers.CaseOptimizer(bop, default_optimizer=adam)
    return larq_nets.binary_net(width, **BOP), optimizer


def augment(images):
    """Shifts images by up to some pixels and mirrors half of them, by chance."""
    count, height, width, _ = images.shape
    sides = (PADDING, PADDING)
    padded = tf.pad(images, ((0, 0), sides, sides, (0, 0)))
    top, left = tf.unstack(
        tf.random.uniform((2, count, 1), 0, 2 * PADDING + 1, tf.int32)
    )
    columns = left + tf.range(width)
    mirrored = tf.random.uniform((count, 1)) < 0.5
    columns = tf.where(mirrored, columns[:, ::-1], columns)[:, None]
    rows = (top + tf.range(height))[:, :, None]
    examples = tf.range(count)[:, None, None]
    shape = (count, height, width)
    places = [tf.broadcast_to(part, shape) for part in (examples, rows, columns)]
    return tf.gather_nd(padded, tf.stack(places, axis=-1))


def own_step(width, binary_optimizer, *, augmented):
    """Returns a function that takes a step and returns its metrics."""
    model, optimizer = training_parts(width, binary_optimizer)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    images, labels = made_data()
    scaled = images.astype(np.float32) / 255
    mean, std = scaled.mean((0, 1, 2)), scaled.std((0, 1, 2))
    images, labels = tf.constant(images), tf.constant(labels)

    @tf.function
    def step():
        pixels = augment(images) if augmented else images
        normal = (tf.cast(pixels, tf.float32) / 255 - mean) / std
        with tf.GradientTape() as tape:
            logits = model(normal, training=True)
            loss = loss_of(labels, logits)
        weights = model.trainable_variables
        gradients = tape.gradient(loss, weights)
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        top = tf.math.top_k(logits, 5).indices == labels[:, None]
        hits = [tf.math.count_nonzero(part) for part in (top[:, 0], top)]
        return loss * BATCH, *hits

    return lambda: [value.numpy() for value in step()]


def keras_step(width, binary_optimizer):
    """Returns the step that Keras makes, on images that are normalized already."""
    model, optimizer = training_parts(width, binary_optimizer)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    images, labels = made_data()
    images = tf.constant((images / 255 - 0.5) / 0.25, tf.float32)
    labels = tf.constant(labels)
    return lambda: model.train_on_batch(images, labels)


def take_turns(steps, rounds, warmup=2):
    """Returns seconds of each step in each round; rounds differ in their order."""
    chance = np.random.default_rng(0)
    taken = np.empty((rounds, len(steps)))
    for turn in range(-warmup, rounds):
        for place in chance.permutation(len(steps)):
            begun = time.perf_counter()
            steps[place]()
            if turn >= 0:
                taken[turn, place] = time.perf_counter() - begun
    return taken


def measure(width, rounds):
    """Returns a row per step, as `benchmarks.train_step` writes them."""
    steps = {
        "larq bop": own_step(width, "bop", augmented=True),
        "larq bop, no augmentation": own_step(width, "bop", augmented=False),
        "larq bop, train_on_batch": keras_step(width, "bop"),
        "larq adam": own_step(width, "adam", augmented=True),
        "larq adam, no augmentation": own_step(width, "adam", augmented=False),
    }
    taken = take_turns(list(steps.values()), rounds)
    rows = []
    for name, seconds in zip(steps, taken.T, strict=True):
        median, low, high = map(float, np.percentile(seconds, (50, 25, 75)))
        rows.append(
            {
                "model": "BinaryNet",
                "batch": BATCH,
                "step": name,
                "rounds": rounds,
                "steps_per_round": 1,
                "seconds": {"median": median, "low": low, "high": high},
                "images_per_second": BATCH / median,
            }
        )
    return rows


def compare(rows, file):
    """Adds to each row its median time over that of SGDAT's step in a file."""
    (ours,) = (
        row for row in json.loads(file.read_text())["rows"] if row["step"] == "sgdat"
    )
    for row in rows:
        ratio = row["seconds"]["median"] / ours["seconds"]["median"]
        row["median_over_sgdat"] = ratio


def circumstances():
    """Returns what a result needs beside it: machine, versions, date and command."""
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    (processor, *_) = (line for line in cpuinfo if line.startswith("model name"))
    options = map(shlex.quote, sys.argv[1:])
    return {
        "command": " ".join(["python", "-m", "benchmarks.larq_step", *options]),
        "date": datetime.date.today().isoformat(),
        "platform": "cpu",
        "processor": processor.partition(":")[2].strip(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    rows = measure(options.width, options.rounds)
    case = f"float32-BinaryNet-width{options.width:g}.json"
    if (options.out / f"cpu-{case}").exists():
        compare(rows, options.out / f"cpu-{case}")
    for row in rows:
        print(row)
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(circumstances() | {"rows": rows}, indent=2)
    (options.out / f"larq-{case}").write_text(text + "\n")


if __name__ == "__main__":
    main()
