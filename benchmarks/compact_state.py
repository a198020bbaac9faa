"""What does the compact layout of an optimizer's state change in what it trains?

``random`` and ``digits`` feed the same gradients to an exact optimizer and to narrower
ones, and count the flips that only one of the two makes. Gradients are taken at the
weights of the exact optimizer. ``accuracy`` lets the training program
train with either layout, the same seeds.

    python -m benchmarks.compact_state random digits
    python -m benchmarks.compact_state accuracy
    python -m benchmarks.compact_state accuracy --dataset mnist --width 0.25 --epochs 3
"""

import argparse
import functools
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import sgdat_jax as sj
from benchmarks import timing
from sgdat_jax.data import sources
from sgdat_jax.experiments import configs, registry, setup
from sgdat_jax.optimizers import words
from sgdat_jax.training import loop, runs

RESULTS = pathlib.Path(__file__).parent / "results" / "compact_state"
_RANDOM_WEIGHTS = 100_000
_BATCH = 64
_CHUNK = 500  # steps in one program
LAYOUTS = ("exact", "compact")


def narrowed(
    tx: optax.GradientTransformation,
    *,
    latent_bits: int | None = None,
    momentum_bits: int | None = None,
    max_flips: int = words.MAX_FLIPS,
    by_chance: bool = False,
) -> optax.GradientTransformation:
    """Rounds the state of an exact `sgdat` after each step: layouts yet to be made.

    Args:
      tx: the optimizer.
      latent_bits: significant bits of latent weights.
      momentum_bits: of the momentum buffer.
      max_flips: at which counts stay.
      by_chance: whether latents are rounded up or down by chance, right on average.
    """

    def update(gradients, state, params=None):
        updates, state = tx.update(gradients, state, params)
        keys = optax.tree.split_key_like(
            jax.random.fold_in(jax.random.key(0), state.count), state.latent
        )
        rounding = by_chance_to if by_chance else lambda key, x, bits: nearest(x, bits)
        if latent_bits is not None:
            round_to = functools.partial(rounding, bits=latent_bits)
            state = state._replace(latent=jax.tree.map(round_to, keys, state.latent))
        if momentum_bits is not None:
            round_to = functools.partial(nearest, bits=momentum_bits)
            state = state._replace(momentum=jax.tree.map(round_to, state.momentum))
        most = max_flips + 1
        counts = jax.tree.map(lambda s: jnp.clip(s, -most, most), state.signed_count)
        return updates, state._replace(signed_count=counts)

    return optax.GradientTransformation(tx.init, update)


def nearest(x: jax.Array, bits: int) -> jax.Array:
    """Rounds to so many significant bits."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=bits - 1)


def by_chance_to(key: jax.Array, x: jax.Array, bits: int) -> jax.Array:
    """Rounds to so many significant bits, up with the chance that keeps the mean."""
    lost = 24 - bits
    noise = jax.random.bits(key, x.shape, jnp.uint32) >> (32 - lost)
    summed = jax.lax.bitcast_convert_type(x, jnp.uint32) + noise
    return jax.lax.bitcast_convert_type(summed >> lost << lost, jnp.float32)


# An exact optimizer, and what is held against it.
PAIRS: dict[str, tuple[optax.GradientTransformation, optax.GradientTransformation]] = {
    "sgdat compact": (sj.sgdat(), sj.sgdat(layout="compact")),
    "sgdat compact by chance": (
        sj.sgdat(),
        narrowed(sj.sgdat(), latent_bits=16, by_chance=True),
    ),
    "sgdat 16 bits": (
        sj.sgdat(),
        narrowed(sj.sgdat(), latent_bits=5, max_flips=31),
    ),
    "sgdat 16 bits by chance": (
        sj.sgdat(),
        narrowed(sj.sgdat(), latent_bits=5, max_flips=31, by_chance=True),
    ),
    "momentum compact": (
        sj.sgdat(momentum=0.9),
        sj.sgdat(momentum=0.9, layout="compact"),
    ),
    "momentum bfloat16": (
        sj.sgdat(momentum=0.9),
        narrowed(sj.sgdat(momentum=0.9), latent_bits=16, momentum_bits=8),
    ),
    "sgdt compact": (sj.sgdt(), sj.sgdt(layout="compact")),
    "bop compact": (sj.bop(), sj.bop(layout="compact")),
}


class Side(NamedTuple):
    """One optimizer of a pair and the weights that it trains."""

    params: optax.Params
    state: optax.OptState


class Pair(NamedTuple):
    """Two optimizers that see the same gradients, and what has come of it."""

    exact: Side
    other: Side
    flips: jax.Array  # of the exact one, over all weights and steps, float32
    apart: jax.Array  # flips that one makes and the other does not
    most_differ: jax.Array  # weights that differ, at the worst step


def begin(name: str, params: optax.Params) -> Pair:
    """Returns a pair at its start."""
    sides = (Side(params, tx.init(params)) for tx in PAIRS[name])
    return Pair(*sides, *jnp.zeros((3,), jnp.float32))


def advance(name: str, pair: Pair, gradients: optax.Updates) -> Pair:
    """Takes a step on both sides."""
    sides, flips = [], []
    for tx, side in zip(PAIRS[name], (pair.exact, pair.other), strict=True):
        updates, state = tx.update(gradients, side.state, side.params)
        flips.append(jax.tree.map(lambda u: u != 0, updates))
        sides.append(Side(optax.apply_updates(side.params, updates), state))
    return Pair(
        *sides,
        flips=pair.flips + _count(flips[0]),
        apart=pair.apart + _differing(*flips),
        most_differ=jnp.maximum(
            pair.most_differ, _differing(sides[0].params, sides[1].params)
        ),
    )


def measured(name: str, pair: Pair) -> dict[str, Any]:
    """Returns the row of a pair at its end.

    It holds flips per weight; the share of flips that only one side makes (``apart``);
    the shares of weights that differ at the end and at the worst step; the median of
    the latents' relative errors; and how far the exact side's flip counts go.
    """
    weights = sum(leaf.size for leaf in jax.tree.leaves(pair.exact.params))
    counts = _flat(sj.flip_counts(pair.exact.state))
    field = "latent" if hasattr(pair.exact.state, "latent") else "mu"
    real, other = (
        _flat(getattr(getattr(state, "unpacked", state), field))
        for state in (pair.exact.state, pair.other.state)
    )
    errors = np.abs(other - real)[real != 0] / np.abs(real)[real != 0]
    differ = _differing(pair.exact.params, pair.other.params)
    return {
        "pair": name,
        "weights": weights,
        "flips": float(pair.flips) / weights,
        "apart": float(pair.apart / pair.flips),
        "differ": float(differ) / weights,
        "differ_most": float(pair.most_differ) / weights,
        "error": float(np.median(errors)),
        "most_flips": int(counts.max()),
        "beyond_127": float((counts > words.MAX_FLIPS).mean()),
    }


def of_random_gradients(names: Sequence[str], steps: int) -> list[dict[str, Any]]:
    """Compares on normal gradients, whose sizes and means differ between weights.

    Their standard deviations spread over 1e-6 to 1e-1, evenly by magnitude, and their
    means over a thousandth of that to all of it.
    """
    rng = np.random.default_rng(0)
    size = 10.0 ** rng.uniform(-6, -1, _RANDOM_WEIGHTS)
    drift = size * 10.0 ** rng.uniform(-3, 0, _RANDOM_WEIGHTS)
    mean = jnp.asarray(drift * rng.choice([-1, 1], _RANDOM_WEIGHTS), jnp.float32)
    std = jnp.asarray(size, jnp.float32)
    params = jnp.asarray(rng.choice([-1, 1], _RANDOM_WEIGHTS), jnp.float32)

    def step(pairs, key):
        gradients = mean + std * jax.random.normal(key, mean.shape)
        return {n: advance(n, pair, gradients) for n, pair in pairs.items()}, None

    chunk = jax.jit(lambda pairs, keys: jax.lax.scan(step, pairs, keys)[0])
    pairs = {name: begin(name, params) for name in names}
    for keys in jax.random.split(jax.random.key(0), steps).reshape(-1, _CHUNK):
        pairs = chunk(pairs, keys)
    return [measured(name, pairs[name]) for name in names]


def of_digits(names: Sequence[str], steps: int) -> list[dict[str, Any]]:
    """Compares on the gradients of a `DigitsNet` that exact SGDAT and Adam train."""
    data = sources.digits()
    images, labels = jnp.asarray(data.train_images), jnp.asarray(data.train_labels)
    model = sj.models.DigitsNet(rngs=nnx.Rngs(0))
    tx = sj.partition_binary(model, binary=sj.sgdat(), real=optax.adam(1e-3))
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss_of(params, rest, batch):
        model = nnx.merge(graph, params, rest, copy=True)
        logits = model(images[batch].astype(jnp.float32) / 128 - 1)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch])
        return losses.mean(), nnx.state(model, nnx.Not(nnx.Param))

    @functools.partial(
        jax.jit, donate_argnums=0, compiler_options=sj.compiler_options()
    )
    def step(carry, batch):
        params, rest, state, pairs = carry
        grads, rest = jax.grad(loss_of, has_aux=True)(params, rest, batch)
        updates, state = tx.update(grads, state, params)
        flat = dict(enumerate(jax.tree.leaves(sj.select_binary(model, grads))))
        pairs = {name: advance(name, pair, flat) for name, pair in pairs.items()}
        return optax.apply_updates(params, updates), rest, state, pairs

    def start() -> optax.Params:
        leaves = jax.tree.leaves(sj.select_binary(model, params))
        return dict(enumerate(jnp.array(leaf) for leaf in leaves))

    carry = (
        params,
        rest,
        tx.init(params),
        {name: begin(name, start()) for name in names},
    )
    carry = jax.tree.map(jnp.array, carry)  # for sides share their first weights
    for batch in _batches(len(images), steps):
        carry = step(carry, batch)
    return [measured(name, carry[-1][name]) for name in names]


def accuracies(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Trains with each seed and layout by the training program."""
    data, plans, rows = None, {}, []
    for layout in LAYOUTS:
        name = f"sgdat_{layout}"
        registry.OPTIMIZERS[name] = functools.partial(sj.sgdat, layout=layout)
        settings = configs.TrainConfig(
            dataset=options.dataset,
            optimizer=name,
            epochs=options.epochs,
            width=options.width,
        )
        data = setup.load(settings) if data is None else data
        plans[layout] = setup.plan(settings, data)
    for seed in range(options.seeds):
        for layout, plan in plans.items():
            with tempfile.TemporaryDirectory() as folder:
                run = runs.begin(plan, seed, pathlib.Path(folder, "run"))
                row = {"layout": layout, "seed": seed} | _train(run)
            print(row, flush=True)
            rows.append(row)
    return rows


def _train(run: runs.Run) -> dict[str, Any]:
    run, result = loop.train(run, loop.Watcher())
    counts = _flat(sj.flip_counts(run.state.opt_state))
    return {
        "test_accuracy": result["test_accuracy"],
        "best_test_accuracy": result["best_test_accuracy"],
        "flips_per_weight": result["flips_per_weight"],
        "most_flips": int(counts.max()),
        "at_limit": float((counts >= words.MAX_FLIPS).mean()),
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns mean and standard deviation of each layout, and of the differences."""
    by_layout = {
        layout: np.array([r["test_accuracy"] for r in rows if r["layout"] == layout])
        for layout in LAYOUTS
    }
    by_layout["difference"] = by_layout["compact"] - by_layout["exact"]
    return {
        name: {"mean": float(values.mean()), "std": float(values.std(ddof=1))}
        for name, values in by_layout.items()
    }


def _batches(images: int, steps: int) -> Iterator[np.ndarray]:
    rng, taken = np.random.default_rng(0), 0
    while taken < steps:
        order = rng.permutation(images)[: images // _BATCH * _BATCH]
        for batch in order.reshape(-1, _BATCH)[: steps - taken]:
            taken += 1
            yield batch


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def _count(tree: Any) -> jax.Array:
    return jnp.asarray(
        sum(jnp.sum(leaf, dtype=jnp.float32) for leaf in jax.tree.leaves(tree))
    )


def _differing(first: Any, second: Any) -> jax.Array:
    return _count(jax.tree.map(jnp.not_equal, first, second))


COMPARISONS: dict[str, Callable[[Sequence[str], int], list[dict[str, Any]]]] = {
    "random": of_random_gradients,
    "digits": of_digits,
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the options of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("parts", nargs="+", choices=[*COMPARISONS, "accuracy"])
    add("--steps", type=int, default=10_000, help=f"multiple of {_CHUNK}")
    add("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS))
    add("--dataset", default="digits", help="of accuracy, as in sgdat-jax train")
    add("--name", help="of the file of accuracies; the data set's if none is given")
    add("--epochs", type=int, default=20)
    add("--width", type=float, default=1.0)
    add("--seeds", type=int, default=5)
    add("--out", type=pathlib.Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    if options.steps < 1 or options.steps % _CHUNK:
        parser.error(f"--steps must be a multiple of {_CHUNK}, got {options.steps}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and writes the results."""
    options = parse(arguments)
    sj.keep_freed_memory()
    for part in options.parts:
        if part == "accuracy":
            rows = accuracies(options)
            found = summary(rows)
            print(found)
            name = options.name or options.dataset
            timing.write(
                options.out / f"accuracy_{name}.json", {"summary": found, "rows": rows}
            )
            continue
        rows = COMPARISONS[part](options.pairs, options.steps)
        cells = [
            {
                key: f"{value:.3g}" if isinstance(value, float) else str(value)
                for key, value in row.items()
            }
            for row in rows
        ]
        timing.show(cells, names=["pair"])
        timing.write(
            options.out / f"decisions_{part}.json",
            {"steps": options.steps, "rows": rows},
        )


if __name__ == "__main__":
    main()
