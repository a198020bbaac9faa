"""What does a product of signs cost by counting bits, beside one of floats?

Convolutions and matrix products of the binary networks, forward alone, from inputs and
kernels that are floats and have to be packed; and with kernels that are packed
beforehand, as in inference. All of a case take turns in one process, compiled with the
options of the training program, and their sums are compared before anything is timed.

    python -m benchmarks.products --batch 64
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
from sgdat_jax import bits

RESULTS = pathlib.Path(__file__).parent / "results" / "products"
CASES = {  # shape of an input, of the kernel, and stride
    "3x3, 24 channels": ((32, 32, 24), (3, 3, 24, 24), 1),
    "3x3, 32 channels": ((32, 32, 32), (3, 3, 32, 32), 1),
    "3x3, 64 channels": ((16, 16, 64), (3, 3, 64, 64), 1),
    "3x3, 128 channels": ((8, 8, 128), (3, 3, 128, 128), 1),
    "3x3, 256 channels": ((16, 16, 256), (3, 3, 256, 256), 1),
    "3x3, 512 channels": ((8, 8, 512), (3, 3, 512, 512), 1),
    "3x3, 160 to 320, stride 2": ((16, 16, 160), (3, 3, 160, 320), 2),
    "1x1, 256 to 512, stride 2": ((16, 16, 256), (1, 1, 256, 512), 2),
    "dense, 2048 to 256": ((2048,), (2048, 256), 1),
    "dense, 8192 to 1024": ((8192,), (8192, 1024), 1),
}
FLOATS, BITS, PACKED = "floats", "bits", "bits, kernel packed"


def products_of(kernel_shape, stride):
    """Returns products of floats and by bits, of inputs and a kernel."""
    window = kernel_shape[:-2]
    geometry = bits.Geometry(
        strides=(stride,) * len(window),
        pads=tuple((size // 2, size // 2) for size in window),
        dilation=(1,) * len(window),
    )
    floats = jnp.matmul
    if window:
        floats = functools.partial(
            lax.conv_general_dilated,
            window_strides=geometry.strides,
            padding=geometry.pads,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    by_bits = functools.partial(bits.product, floats, geometry, "float32")
    return floats, by_bits


def programs_of(batch, x_shape, kernel_shape, stride):
    """Returns functions without arguments by name, all of which return the same."""
    rng = np.random.default_rng(0)
    x, kernel = (
        jnp.asarray(rng.choice(np.float32([-1, 1]), shape))
        for shape in ((batch, *x_shape), kernel_shape)
    )
    compile_it = functools.partial(jax.jit, compiler_options=sj.compiler_options())
    floats, by_bits = map(compile_it, products_of(kernel_shape, stride))
    return {
        FLOATS: functools.partial(floats, x, kernel),
        BITS: functools.partial(by_bits, x, kernel),
        PACKED: functools.partial(by_bits, x, bits.pack(kernel, axis=-2)),
    }


def measure(name, batch, rounds):
    """Returns a row per program of a case."""
    _, kernel_shape, _ = case = CASES[name]
    programs = programs_of(batch, *case)
    sums = [program() for program in programs.values()]
    for other in sums[1:]:
        np.testing.assert_array_equal(sums[0], other)
    seconds = timing.take_turns(list(programs.values()), rounds=rounds).wall
    operations = 2 * sums[0].size * math.prod(kernel_shape[:-1])
    return [
        {
            "product": name,
            "batch": batch,
            "program": program,
            "rounds": len(seconds),
            "seconds": timing.spread(seconds[:, place])._asdict(),
            "operations_per_second": operations
            / timing.spread(seconds[:, place]).median,
            "over_floats": timing.paired_ratio(seconds, place, 0)._asdict(),
        }
        for place, program in enumerate(programs)
    ]


def show(rows):
    cells = [
        {
            "product": row["product"],
            "program": row["program"],
            "ms": f"{1e3 * row['seconds']['median']:.2f}",
            "G operations/s": f"{row['operations_per_second'] / 1e9:,.0f}",
            "time / floats'": timing.ratio_text(row["over_floats"]),
        }
        for row in rows
    ]
    timing.show(cells, names=("product", "program"))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--products", nargs="+", choices=CASES, default=list(CASES))
    add("--batch", type=int, default=64)
    add("--rounds", type=int, default=41)
    add("--out", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args(arguments)
    rows = []
    for name in options.products:
        rows += measure(name, options.batch, options.rounds)
    show(rows)
    timing.write(options.out / f"{jax.default_backend()}.json", {"rows": rows})


if __name__ == "__main__":
    main()
