"""Which ideas for a faster or smaller training step are worth building in?

Each idea runs beside what the library does where it multiplies floats, in turns in one
process, so that a number accepts or refuses it: time and temporary memory over the
library's, and whether results are the same to the bit. Most are tried on a block of
`BinaryNet`: a binary 3x3 convolution, max-pooling or none, batch normalization in
training, and another binary convolution, with the gradient of the sum of squares of
what comes out; the others on an optimizer's step and on a whole training step. The
library beside itself is the noise.

    python -m benchmarks.trials
    python -m benchmarks.trials --parts block --shapes 64x32x32x32 --rounds 15
"""

import argparse
import contextlib
import functools
import pathlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import sgdat_jax as sj
from benchmarks import optimizer_step, timing, train_step, trial_blocks
from sgdat_jax import bits, layers, signs
from sgdat_jax.training import config, setup
from sgdat_jax.training import step as step_lib

RESULTS = pathlib.Path(__file__).parent / "results" / "trials"
SHAPES = ("64x32x32x32", "64x8x8x128")


def compile_block(name, block, pooled):
    """Compiles a variant's output with its gradient by all that is in the block."""

    def loss(block):
        y = trial_blocks.VARIANTS[name](block, pooled)
        return jnp.sum(y * y), y

    def run(block):
        gradients, y = jax.grad(loss, has_aux=True)(block)
        return {"output": y} | gradients._asdict()

    options = {} if name in trial_blocks.DEFAULT_OPTIONS else sj.compiler_options()
    return jax.jit(run, compiler_options=options).lower(block).compile()


def differences(found, expected):
    """Returns the largest difference of each array over the largest expected value."""
    return {
        name: float(jnp.abs(found[name] - leaf).max() / jnp.abs(leaf).max())
        for name, leaf in expected.items()
    }


def measure_block(shape, pooled, rounds, variants=tuple(trial_blocks.VARIANTS)):
    """Returns a row per variant of a block, of which the first is the library."""
    block = trial_blocks.made_block(shape)
    names = [
        name for name in variants if pooled or name not in trial_blocks.POOLED_ALONE
    ]
    programs = {name: compile_block(name, block, pooled) for name in names}
    results = {name: program(block) for name, program in programs.items()}
    expected = results[trial_blocks.LIBRARY]
    found = {
        name: {
            "difference": differences(result, expected),
            # Of the first alone: whole numbers, hence exact, go into the other.
            "signs_that_differ": _sign_changes(result["first"], expected["first"]),
        }
        for name, result in results.items()
    }
    del results
    turns = [functools.partial(program, block) for program in programs.values()]
    trial = f"block {'x'.join(map(str, shape))}{', pooled' if pooled else ''}"
    return _rows(trial, programs, turns, rounds, found)


def _sign_changes(found, expected):
    return float(jnp.mean(jnp.sign(found) != jnp.sign(expected)))


def _rows(trial, programs, turns, rounds, found):
    """Times programs, of which the first is the library's.

    Args:
      trial: name of what they do.
      programs: compiled programs by name.
      turns: what runs each once.
      rounds: how often.
      found: what is known of their results, by name.
    """
    memory = [p.memory_analysis().temp_size_in_bytes for p in programs.values()]
    seconds = timing.take_turns(turns, rounds=rounds).wall
    return [
        {
            "trial": trial,
            "variant": name,
            "rounds": len(seconds),
            "seconds": timing.spread(seconds[:, place])._asdict(),
            "over_library": timing.paired_ratio(seconds, place, 0)._asdict(),
            "temporary_bytes": memory[place],
            "temporary_over_library": memory[place] / memory[0] if memory[0] else None,
            **found[name],
        }
        for place, name in enumerate(programs)
    ]


def flatten(leaves):
    return jnp.concatenate([leaf.ravel() for leaf in leaves])


def write_out(leaves):
    """Returns what `flatten` does, by writing one leaf after the other into an array.

    XLA's CPU backend fuses a concatenation into loops that are far slower for it.
    """
    flat = jnp.zeros(sum(leaf.size for leaf in leaves), leaves[0].dtype)
    ends = np.cumsum([leaf.size for leaf in leaves])
    for end, leaf in zip(ends, leaves, strict=True):
        flat = lax.dynamic_update_slice(flat, leaf.ravel(), (end - leaf.size,))
    return flat


def split_like(flat, leaves):
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    parts = jnp.split(flat, ends)
    return [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]


def measure_leaves(rounds):
    """Returns a row per way to keep BinaryNet's weights for the optimizer."""
    tx = sj.sgdat()
    gradients = optimizer_step.gradients_like(
        optimizer_step.structs("BinaryNet", "float32")
    )
    flat_gradient = flatten(gradients)
    start = [signs.sign(leaf[::-1]) for leaf in gradients]

    def separate(params, state, gradients):
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    def joined(join, params, state, gradients):
        params, state = separate(params, state, join(gradients))
        return params, state, split_like(params, gradients)

    cases = {
        trial_blocks.LIBRARY: (separate, start, gradients),
        "the same again": (separate, start, gradients),
        "one leaf, concatenated": (
            functools.partial(joined, flatten),
            flatten(start),
            gradients,
        ),
        "one leaf, written out": (
            functools.partial(joined, write_out),
            flatten(start),
            gradients,
        ),
        "one leaf throughout": (separate, flatten(start), flat_gradient),
    }
    programs, turns, weights = {}, [], {}
    for name, (step, params, gradient) in cases.items():
        params = jax.tree.map(jnp.copy, params)
        state = tx.init(params)
        compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, gradient)
        programs[name] = compiled.compile()
        turns.append(_stepper(programs[name], params, state, gradient))
        weights[name] = _joined(turns[-1]()[0])
    found = {
        name: _changes(
            after, after, weights[trial_blocks.LIBRARY], weights[trial_blocks.LIBRARY]
        )
        for name, after in weights.items()
    }
    return _rows("sgdat's step", programs, turns, rounds, found)


def _joined(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def _changes(state, weights, expected_state, expected_weights):
    return {
        "is_equal": np.array_equal(state, expected_state),
        "signs_that_differ": _sign_changes(weights, expected_weights),
    }


def _stepper(program, params, state, gradient):
    held = [params, state]

    def turn():
        held[:] = program(*held[:2], gradient)
        return held

    return turn


class PackedConv(layers.BinaryConv):
    def __init__(self, *args, **options):
        options |= {"input_quantizer": trial_blocks.packed_sign}
        super().__init__(
            *args, **options, conv_general_dilated=trial_blocks.packed_conv
        )


class PackedLinear(layers.BinaryLinear):
    def __init__(self, *args, **options):
        super().__init__(
            *args, **options | {"input_quantizer": trial_blocks.packed_sign}
        )


def by_floats():
    """Multiplies floats on a CPU as well."""
    return mock.patch.object(bits, "are_faster", lambda *shapes: False)


@contextlib.contextmanager
def without_check():
    """Takes every step, so that no old state has to be kept beside the new one."""
    taken = mock.patch.object(step_lib, "_select", lambda condition, one, other: one)
    with by_floats(), taken:
        yield


def packed_layers():
    """Makes networks of layers that keep bits."""
    packed = {"BinaryConv": PackedConv, "BinaryLinear": PackedLinear}
    return mock.patch.multiple(layers, **packed)


STEPS = {
    trial_blocks.LIBRARY: by_floats,
    "the same again": by_floats,
    trial_blocks.BITS: contextlib.nullcontext,
    "no check for finite steps": without_check,
    "packed residual": packed_layers,
}


def measure_step(model, width, batch, rounds):
    """Returns a row per variant of a whole training step."""
    settings = config.TrainConfig(
        model=model, width=width, batch_size=batch, crop_padding=4, flip=True
    )
    data = train_step.made_images(batch)
    programs, turns, results = {}, [], {}
    for name, changed in STEPS.items():
        with changed():
            programs[name], turn = _training(settings, data)
        turns.append(turn)
        state, _ = turn()
        results[name] = _joined(state), _joined(state.params)
    found = {
        name: _changes(*result, *results[trial_blocks.LIBRARY])
        for name, result in results.items()
    }
    trial = f"step of {model} x{width:g}, batch {batch}"
    return _rows(trial, programs, turns, rounds, found)


def _training(settings, data):
    """Returns the training program and a turn of it, as in `train_step`."""
    plan = setup.plan(settings, data)
    images = step_lib.Batch(
        jnp.asarray(data.train_images), jnp.asarray(data.train_labels)
    )
    batch = jnp.arange(settings.batch_size)
    indices = jnp.tile(batch, (step_lib.steps_per_call(), 1))
    state = plan.init(0)
    # A function of its own, for JAX to trace it anew.
    steps = functools.partial(step_lib.train_steps, plan.task)
    options = sj.compiler_options()
    jitted = jax.jit(steps, donate_argnums=0, compiler_options=options)
    program = jitted.lower(state, images, indices).compile()
    held = [state]

    def turn():
        held[0], record = program(held[0], images, indices)
        return held[0], record

    return program, turn


def show(rows):
    for trial in dict.fromkeys(row["trial"] for row in rows):
        print(trial)
        cells = [
            {
                "variant": row["variant"],
                "time / library's": timing.ratio_text(row["over_library"]),
                "MB": f"{row['temporary_bytes'] / 1e6:.1f}",
                "/ library's": _memory_text(row),
                "off by": _difference_text(row),
                "signs that differ": f"{row['signs_that_differ']:.2%}",
            }
            for row in rows
            if row["trial"] == trial
        ]
        timing.show(cells, names=("variant",))


def _memory_text(row):
    ratio = row["temporary_over_library"]
    return "-" if ratio is None else f"{ratio:.2f}"


def _difference_text(row):
    if "is_equal" in row:
        return "0" if row["is_equal"] else "some"
    return f"{max(row['difference'].values()):.0e}"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    parts = ("block", "leaves", "step")
    add("--parts", nargs="+", choices=parts, default=parts, help="what to measure")
    add("--shapes", nargs="+", default=SHAPES, help="inputs of a block")
    variants = [name for name in trial_blocks.VARIANTS if name != trial_blocks.LIBRARY]
    add("--variants", nargs="+", choices=variants, default=variants, help="of a block")
    add("--model", default="BinaryNet", help="of the whole step")
    add("--width", type=float, default=0.25)
    add("--batch", type=int, default=64)
    add("--rounds", type=int, default=21)
    add("--out", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args(arguments)
    measured = {}
    if "block" in options.parts:
        for text in options.shapes:
            shape = tuple(map(int, text.split("x")))
            measured[f"block-{text}"] = [
                row
                for pooled in (False, True)
                for row in measure_block(
                    shape,
                    pooled,
                    options.rounds,
                    (trial_blocks.LIBRARY, *options.variants),
                )
            ]
    if "leaves" in options.parts:
        measured["leaves"] = measure_leaves(options.rounds)
    if "step" in options.parts:
        measured["step"] = measure_step(
            options.model, options.width, options.batch, options.rounds
        )
    for name, rows in measured.items():
        show(rows)
        file = options.out / f"{jax.default_backend()}-{name}.json"
        timing.write(file, {"rows": rows})


if __name__ == "__main__":
    main()
