"""Checks that an optimizer, a sign or a layer of your own can be held to.

Call them in a test. Each asks what this library asks of its own parts, and raises an
`AssertionError` that says what does not hold. They need no test framework.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from sgdat_jax import inference, layers, optimizers, signs, summary

_DTYPES = ("float32", "bfloat16", "float16")
_STEPS = 4


def check_binary_optimizer(tx: optax.GradientTransformation) -> None:
    """Checks a binary optimizer as the library checks its own.

    - Weights stay exactly -1 and +1 in float32, bfloat16 and float16: updates are 0 or
      -2w.
    - The state keeps its structure, shapes and dtypes, and has no buffer twice.
      `jax.lax.scan` can carry it, and ``init`` works on shapes.
    - ``update`` refuses to go without ``params`` and ignores unknown extra arguments.
    - `optax.apply_if_finite` keeps NaN out, and `sgdat_jax.partition_binary` takes it.

    Args:
      tx: the optimizer, with hyperparameters with which gradients of about 1 flip some
        weights within four steps.

    Raises:
      AssertionError: at the first question that it does not answer as it must.

    Example:
      >>> import sgdat_jax as sj
      >>> from sgdat_jax import testing
      >>> testing.check_binary_optimizer(sj.sgdat(learning_rate=1e-4))
    """
    for check in OPTIMIZER_CHECKS:
        check(optax.with_extra_args_support(tx))


def check_weights_stay_binary(tx: optax.GradientTransformationExtraArgs) -> None:
    """Checks that updates are exactly 0 or -2w, and that some weight flips."""
    for dtype in _DTYPES:
        params, flips = _params(dtype), 0
        state, update = tx.init(params), jax.jit(tx.update)
        for step in range(_STEPS):
            updates, state = update(_gradients(step, dtype), state, params)
            flat = zip(*map(jax.tree.leaves, (updates, params)), strict=True)
            for u, w in flat:
                exact = (u == 0) | (u == -2 * w)
                assert exact.all(), f"an update in {dtype} is neither 0 nor -2w: {u}"
                flips += int((u != 0).sum())
            params = optax.apply_updates(params, updates)
        assert flips, f"no weight flips in {_STEPS} steps in {dtype}"


def check_state_keeps_its_form(tx: optax.GradientTransformationExtraArgs) -> None:
    """Checks that shapes and dtypes are the same after a step, and known before it."""
    for dtype in _DTYPES:
        params = _params(dtype)
        state = tx.init(params)
        weak = [leaf for leaf in jax.tree.leaves(state) if jnp.asarray(leaf).weak_type]
        assert not weak, f"the state has weak types, which a step makes strong: {weak}"
        updates, after = jax.eval_shape(tx.update, _gradients(0, dtype), state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        shapes = jax.eval_shape(tx.init, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(shapes, state)


def check_state_can_be_carried(tx: optax.GradientTransformationExtraArgs) -> None:
    """Checks that a scan trains as steps one by one do, with donated buffers."""

    def step(carry: Any, gradients: Any) -> tuple[Any, None]:
        params, state = carry
        updates, state = tx.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = _params()
    start = params, tx.init(params)
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(start)]
    assert len(set(buffers)) == len(buffers), (
        "the state holds a buffer twice, or one of the parameters"
    )
    gradients = [_gradients(t) for t in range(_STEPS)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *gradients)
    (scanned, _), _ = jax.jit(lambda c, g: jax.lax.scan(step, c, g))(start, stacked)
    one_step = jax.jit(step, donate_argnums=0)
    for gradient in gradients:
        start, _ = one_step(start, gradient)
    chex.assert_trees_all_equal(scanned, start[0])


def check_arguments_of_update(tx: optax.GradientTransformationExtraArgs) -> None:
    """Checks that ``params`` are asked for and unknown arguments ignored."""
    params, gradients = _params(), _gradients(0)
    state = tx.init(params)
    try:
        tx.update(gradients, state)
    except ValueError as error:
        assert "params" in str(error), f"the error does not name `params`: {error}"
    else:
        raise AssertionError("`update` must raise ValueError without `params`")
    update = jax.jit(tx.update)
    given = update(gradients, state, params, value=1.0, unknown=None)
    chex.assert_trees_all_equal(given, update(gradients, state, params))


def check_nan_can_be_kept_out(tx: optax.GradientTransformationExtraArgs) -> None:
    """Checks that `optax.apply_if_finite` around it skips a step of NaN."""
    careful = optax.apply_if_finite(tx, 3)
    params = _params()
    state = careful.init(params)
    nan = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    updates, after = jax.jit(careful.update)(nan, state, params)
    chex.assert_trees_all_equal(optax.apply_updates(params, updates), params)
    chex.assert_trees_all_equal(after.inner_state, state.inner_state)


def check_partition_takes_it(tx: optax.GradientTransformationExtraArgs) -> None:
    """Checks that it trains the binary weights of a model beside another optimizer."""
    model = layers.BinaryLinear(4, 2, use_bias=True, rngs=nnx.Rngs(0))
    real = optax.sgd(1.0)
    both = optimizers.partition_binary(model, binary=tx, real=real)
    params = nnx.state(model, nnx.Param)
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = both.update(ones, both.init(params), params)
    after = optax.apply_updates(params, updates)
    assert (jnp.abs(after["kernel"][...]) == 1).all(), "the kernel is not binary"
    assert (after["bias"][...] == -1).all(), "the bias was not left to the other"


OPTIMIZER_CHECKS: tuple[Callable[..., None], ...] = (
    check_weights_stay_binary,
    check_state_keeps_its_form,
    check_state_can_be_carried,
    check_arguments_of_update,
    check_nan_can_be_kept_out,
    check_partition_takes_it,
)


def check_sign(quantizer: layers.Quantizer) -> None:
    """Checks a sign function as the library checks its own.

    It gives -1 and +1 in the dtype of its input, +1 for 0 and -0.0, and NaN of NaN. Its
    gradient is finite. It is the same under `jax.jit` and `jax.vmap`. It is known as a
    sign, so that layers count its bits.

    Args:
      quantizer: for example what `sgdat_jax.surrogate` made.

    Raises:
      AssertionError: at the first question that it does not answer as it must.

    Example:
      >>> import sgdat_jax as sj
      >>> from sgdat_jax import testing
      >>> testing.check_sign(sj.approx_sign)
    """
    known = "mark it by `sgdat_jax.surrogate` or by its attribute `is_sign = True`"
    assert signs.is_sign(quantizer), f"{quantizer!r} is not known as a sign: {known}"
    for dtype in _DTYPES:
        x = jnp.array([-1e4, -1.5, -1.0, -1e-3, -0.0, 0.0, 1e-3, 1.0, 2.0, 1e4], dtype)
        value = quantizer(x)
        chex.assert_trees_all_equal(value, jnp.where(x >= 0, 1, -1).astype(dtype))
        assert value.dtype == x.dtype, f"{dtype} becomes {value.dtype}"
        chex.assert_trees_all_equal(jax.jit(quantizer)(x), value)
        chex.assert_trees_all_equal(jax.vmap(quantizer)(x), value)
        slope = jax.grad(lambda x: quantizer(x).astype("float32").sum())(x)
        chex.assert_tree_all_finite(slope)
        assert np.isnan(quantizer(x[:1] * jnp.nan)).all(), "NaN does not give NaN"


def check_binary_layer(layer: nnx.Module, input_shape: tuple[int, ...]) -> None:
    """Checks a layer as the library checks its own.

    It has a `sgdat_jax.BinaryParam`, and gradients reach it. `sgdat_jax.summarize`
    counts its work. `inference.fold` changes nothing that it computes.

    Args:
      layer: maps a batch to a batch.
      input_shape: of one example, without the batch.

    Raises:
      AssertionError: at the first question that it does not answer as it must.

    Example:
      >>> import sgdat_jax as sj
      >>> from flax import nnx
      >>> from sgdat_jax import testing
      >>> layer = sj.BinaryConv(8, 16, (3, 3), rngs=nnx.Rngs(0))
      >>> testing.check_binary_layer(layer, (6, 6, 8))
    """
    assert jax.tree.leaves(nnx.state(layer, layers.BinaryParam)), "no BinaryParam"
    x = jax.random.normal(jax.random.key(0), (2, *input_shape))
    gradients = nnx.grad(lambda layer: (layer(x) ** 2).sum())(layer)
    for path, leaf in jax.tree.leaves_with_path(gradients):
        chex.assert_tree_all_finite(leaf)
        assert leaf.any(), f"no gradient at {jax.tree_util.keystr(path)}"
    work = summary.total(summary.summarize(layer, input_shape))
    assert work.binary_macs + work.real_macs > 0, "`summarize` counts no operations"
    expected = nnx.jit(lambda layer, x: layer(x))(layer, x)
    folded = inference.to_function(inference.fold(layer))(x)
    # Sums of signs are exact; whatever else there is may be rounded once more.
    chex.assert_trees_all_close(folded, expected, rtol=1e-5, atol=1e-6)


def _params(dtype: str = "float32") -> chex.ArrayTree:
    rng = np.random.default_rng(0)
    return {
        "a": jnp.asarray(rng.choice([-1.0, 1.0], (8, 3)), dtype),
        "b": {"c": jnp.asarray(rng.choice([-1.0, 1.0], 16), dtype)},
    }


def _gradients(step: int, dtype: str = "float32") -> chex.ArrayTree:
    """Returns multiples of 1/8 up to 9/8, some of them zero."""
    rng = np.random.default_rng(100 + step)
    return jax.tree.map(
        lambda p: jnp.asarray(rng.integers(-9, 10, p.shape) / 8, dtype), _params()
    )
