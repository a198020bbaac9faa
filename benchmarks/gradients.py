"""What do gradients of a convolution of signs cost by lookups, beside XLA's?

Both gradients of the 3x3 convolutions of the binary networks, from inputs and kernels
that are floats and have to be packed. All of a case take turns in one process, compiled
with the options of the training program; their results are compared before anything is
timed.

    python -m benchmarks.gradients --batch 128
"""

import argparse
import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import sgdat_jax as sj
from benchmarks import timing
from sgdat_jax import bits, lookups
from sgdat_jax.lookups import native

RESULTS = pathlib.Path(__file__).parent / "results" / "gradients"
CASES = {  # height and width, features and outputs
    "32x32x20": (32, 20, 20),
    "32x32x32": (32, 32, 32),
    "16x16x64": (16, 64, 64),
    "8x8x128": (8, 128, 128),
    "32x32x128": (32, 128, 128),
    "16x16x256": (16, 256, 256),
    "8x8x512": (8, 512, 512),
}
GEOMETRY = bits.Geometry((1, 1), ((1, 1), (1, 1)), (1, 1))
convolve = functools.partial(
    lax.conv_general_dilated,
    window_strides=GEOMETRY.strides,
    padding=GEOMETRY.pads,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
)


def programs_of(batch, size, features, outputs):
    """Returns for each gradient XLA's function of no arguments, and that by lookups."""
    rng = np.random.default_rng(0)
    x, kernel = (
        jnp.asarray(rng.choice(np.float32([-1, 1]), shape))
        for shape in ((batch, size, size, features), (3, 3, features, outputs))
    )
    g = jnp.asarray(rng.standard_normal((batch, size, size, outputs)), jnp.float32)
    by_xla = {
        "kernel": lambda x, g: jax.linear_transpose(
            lambda kernel: convolve(x, kernel), kernel
        )(g)[0],
        "inputs": lambda kernel, g: jax.linear_transpose(
            lambda x: convolve(x, kernel), x
        )(g)[0],
    }
    by_lookups = {
        "kernel": lambda x, g: lookups.to_kernel(x, g, kernel.shape, GEOMETRY),
        "inputs": lambda kernel, g: lookups.to_inputs(kernel, g, x.shape, GEOMETRY),
    }
    compile_it = functools.partial(jax.jit, compiler_options=sj.compiler_options())
    return {
        to: [
            functools.partial(compile_it(way[to]), signs, g)
            for way in (by_xla, by_lookups)
        ]
        for to, signs in (("kernel", x), ("inputs", kernel))
    }


def measure(name, batch, rounds):
    """Returns a row per gradient of a case."""
    size, features, outputs = CASES[name]
    operations = 2 * batch * size**2 * math.prod((3, 3, features, outputs))
    rows = []
    for to, programs in programs_of(batch, size, features, outputs).items():
        of_xla, looked_up = (program() for program in programs)
        # Sums of a million rounded numbers, in two orders.
        scale = jnp.abs(of_xla).max()
        np.testing.assert_allclose(looked_up, of_xla, rtol=0, atol=1e-5 * scale)
        seconds = timing.take_turns(programs, rounds=rounds).wall
        spreads = [timing.spread(seconds[:, place]) for place in range(2)]
        rows.append(
            {
                "product": name,
                "gradient": to,
                "batch": batch,
                "rounds": len(seconds),
                "seconds": [spread._asdict() for spread in spreads],
                "operations_per_second": [operations / s.median for s in spreads],
                "over_xla": timing.paired_ratio(seconds, 1, 0)._asdict(),
            }
        )
    return rows


def show(rows):
    cells = [
        {
            "convolution": row["product"],
            "gradient to": row["gradient"],
            "XLA, ms": f"{1e3 * row['seconds'][0]['median']:.2f}",
            "lookups, ms": f"{1e3 * row['seconds'][1]['median']:.2f}",
            "G operations/s": " ".join(
                f"{rate / 1e9:,.0f}" for rate in row["operations_per_second"]
            ),
            "time / XLA's": timing.ratio_text(row["over_xla"]),
        }
        for row in rows
    ]
    timing.show(cells, names=("convolution", "gradient to"))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--cases", nargs="+", choices=CASES, default=list(CASES))
    add("--batch", type=int, default=128)
    add("--rounds", type=int, default=21)
    add("--out", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args(arguments)
    sj.keep_freed_memory()
    if not (sj.look_up_gradients() and native.is_ready()):
        parser.error("this machine cannot look gradients up")
    rows = []
    for name in options.cases:
        rows += measure(name, options.batch, options.rounds)
        show(rows[-2:])
    timing.write(options.out / "float32.json", {"rows": rows})


if __name__ == "__main__":
    main()
