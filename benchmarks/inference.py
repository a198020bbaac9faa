"""What does a prediction cost, and what does folding a network for inference save?

The same weights are evaluated by the training graph, in float32 and bfloat16, and
folded by `sgdat_jax.inference.fold`, with products in float32, bfloat16 and int8. All
of a case take turns in one process; times are medians, ratios are medians over the
turns. Their predictions are compared before anything is timed.

    python -m benchmarks.inference --models DigitsNet BinaryNet --width 0.25
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import sgdat_jax as sj
from benchmarks import timing
from sgdat_jax import cpu, inference

RESULTS = pathlib.Path(__file__).parent / "results" / "inference"
SHAPES = {
    "DigitsNet": (8, 8, 1),
    "BinaryNet": (32, 32, 3),
    "SgdatResNet18": (32, 32, 3),
    "BiRealResNet18": (32, 32, 3),
}
PLAIN = "plain float32"
PROGRAMS = {  # dtype of the network, and of the folded network's products
    PLAIN: (None, None),
    "plain bfloat16": (jnp.bfloat16, None),
    "folded float32": (None, "float32"),
    "folded bfloat16": (None, "bfloat16"),
    "folded int8": (None, "int8"),
    "folded bits": (None, "bits"),
}
_COMPARED = 256  # images of which predictions are compared


def build(model, width, dtype=None):
    net = getattr(sj.models, model)
    return net(input_shape=SHAPES[model], width=width, dtype=dtype, rngs=nnx.Rngs(0))


def made_weights(model, width):
    """Returns a network's state, with running averages of images that it has seen once.

    Scales are of both signs, and no channel is like another, as after training.
    """
    network = nnx.jit(lambda: build(model, width))()
    rng = np.random.default_rng(0)
    for _, norm in nnx.iter_modules(network):
        if isinstance(norm, nnx.BatchNorm):
            norm.momentum = 0.0
            if norm.scale is not None:
                values = rng.normal(size=(2, norm.num_features))
                norm.scale[...], norm.bias[...] = jnp.asarray(values, jnp.float32)
    nnx.jit(lambda network, images: network(images))(network, made_images(model, 64))
    return nnx.state(network)


def made_programs(model, width, names):
    """Returns functions from images to logits by name, all with the same weights."""
    weights = made_weights(model, width)
    programs = {}
    for name in names:
        dtype, products = PROGRAMS[name]
        shapes = nnx.eval_shape(lambda dtype=dtype: build(model, width, dtype))
        shapes.eval()
        network = nnx.merge(nnx.graphdef(shapes), weights)
        if products is not None:
            network = inference.fold(network, products)
        programs[name] = inference.to_function(network)
    return programs


def made_images(model, batch):
    """Returns normalized images; pixels do not matter for speed."""
    values = np.random.default_rng(1).normal(size=(batch, *SHAPES[model]))
    return jnp.asarray(values, jnp.float32)


def agreement(programs, images):
    """Returns the share of images of which each program predicts what the first does.

    A training graph in bfloat16 rounds its real-valued first layer, which changes many
    predictions of weights that have learned nothing. Folded networks do not round it.
    """
    predictions = [np.argmax(run(images), -1) for run in programs.values()]
    return [float(np.mean(one == predictions[0])) for one in predictions]


def measure(model, batch, programs, shares, options):
    """Returns a row per program of one case."""
    images = made_images(model, batch)
    turns = [lambda run=run: run(images) for run in programs.values()]
    seconds = timing.take_turns(
        turns, rounds=options.rounds, seconds=options.seconds
    ).wall
    rows = []
    for place, name in enumerate(programs):
        took = timing.spread(seconds[:, place])
        rows.append(
            {
                "model": model,
                "width": options.width,
                "batch": batch,
                "program": name,
                "rounds": len(seconds),
                "seconds": took._asdict(),
                "images_per_second": batch / took.median,
                "over_plain": timing.paired_ratio(seconds, place, 0)._asdict(),
                "same_predictions": shares[place],
            }
        )
    return rows


def show(rows):
    cells = [
        {
            "model": row["model"],
            "batch": str(row["batch"]),
            "program": row["program"],
            "ms": f"{1e3 * row['seconds']['median']:.2f}",
            "images/s": f"{row['images_per_second']:,.0f}",
            "time / plain's": timing.ratio_text(row["over_plain"]),
            "same": f"{row['same_predictions']:.0%}",
        }
        for row in rows
    ]
    timing.show(cells, names=("model", "program"))


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    add("--batch", type=int, nargs="+", default=[1, 16, 128, 1024])
    add("--width", type=float, default=1.0)
    add(
        "--programs", nargs="+", choices=list(PROGRAMS)[1:], help="beside the plain one"
    )
    add("--rounds", type=int, default=201, help="that the programs take turns")
    add("--seconds", type=float, default=5.0, help="after which a case ends earlier")
    add("--out", type=pathlib.Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    options.programs = [PLAIN, *(options.programs or list(PROGRAMS)[1:])]
    return options


def main(arguments=None):
    options = parse(arguments)
    cpu.keep_freed_memory()
    rows = []
    for model in options.models:
        programs = made_programs(model, options.width, options.programs)
        shares = agreement(programs, made_images(model, _COMPARED))
        for batch in options.batch:
            rows += measure(model, batch, programs, shares, options)
            show(rows[-len(programs) :])
    name = f"{jax.default_backend()}-width{options.width:g}.json"
    timing.write(options.out / name, {"rows": rows})


if __name__ == "__main__":
    main()
