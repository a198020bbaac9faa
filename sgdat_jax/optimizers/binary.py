"""What all binary optimizers share: signed flip counts, flips and reading them back.

A binary weight and its flip count travel together as one *signed count*: a narrow
integer whose sign is the weight's and whose magnitude is one more than the number of
flips, so a fresh weight is +1 or -1. One array then answers both questions that a flip
rule asks. Each output of an update is a function of its own old value and of outputs
already computed, so XLA makes one pass over memory. Where a compact
state is unpacked, signed counts are unsigned: the counters of words.py.

The functions here work on single leaves; the optimizers map them over their trees, and
`flip_rule` makes Optax transformations of those that need nothing but their state.
Nothing here knows of layers, models or training.
"""

from collections.abc import Callable
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import optax

from sgdat_jax import checks, dtypes
from sgdat_jax.optimizers import words
from sgdat_jax.optimizers.parameters import trees


def value_at(value: Any, count: chex.Numeric) -> Any:
    """Returns a hyperparameter's value at a step, whether scheduled or not."""
    return value(count) if callable(value) else value


Start = Literal["zero", "params"]


def check_storage(
    start: Start,
    latent_dtype: jax.typing.DTypeLike | None = None,
    count_dtype: jax.typing.DTypeLike | None = None,
) -> None:
    """Checks what latent weights start at, and the dtypes of a state.

    Raises:
      ValueError: if the start is unknown.
      TypeError: if a dtype is of the wrong kind.
    """
    checks.choice("`start`", start, ("zero", "params"))
    dtypes.check_floating("`latent_dtype`", latent_dtype)
    dtypes.check_counter("`count_dtype`", count_dtype)


def init_latents(
    params: optax.Params,
    dtype: jax.typing.DTypeLike | None = None,
    start: Start = "zero",
) -> optax.Updates:
    """Returns the first latent weights: zero, or the parameters' own values.

    They are float32, or the parameters' dtype where that is wider, unless a dtype is
    given.
    """

    def init(param: jax.Array) -> jax.Array:
        zero = jnp.zeros_like(param, dtype or dtypes.wide(jnp.result_type(param)))
        # A sum, so that the state does not share the parameters' memory.
        return zero + jnp.asarray(param, zero.dtype) if start == "params" else zero

    return jax.tree.map(init, params)


def init_signed_counts(
    params: optax.Params, dtype: jax.typing.DTypeLike | None = None
) -> optax.Updates:
    """Returns the signed counts of weights that have not flipped yet: their signs."""
    return jax.tree.map(
        lambda p: jnp.where(p >= 0, 1, -1).astype(dtype or jnp.int16), params
    )


def _is_counter(signed_count: jax.Array) -> bool:
    return jnp.issubdtype(signed_count.dtype, jnp.unsignedinteger)


def counter(signed_count: jax.Array) -> jax.Array:
    """Returns signed counts as counters of words.py, whatever they are."""
    if _is_counter(signed_count):
        return signed_count
    return words.counter(flip_count(signed_count), signed_count > 0)


def weight(signed_count: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Returns the weights, -1 or +1, of signed counts."""
    if _is_counter(signed_count):
        return words.weight(signed_count, dtype)
    return jnp.where(signed_count > 0, 1, -1).astype(dtype)


def flip_count(signed_count: jax.Array) -> jax.Array:
    """Returns how often each weight has flipped, in the signed count's dtype."""
    if _is_counter(signed_count):
        return words.flip_count(signed_count)
    return jnp.abs(signed_count) - jnp.ones_like(signed_count)


def restart_count(signed_count: jax.Array) -> jax.Array:
    """Returns signed counts with the same weights and zero flips."""
    if _is_counter(signed_count):
        return words.restart(signed_count)
    return jnp.sign(signed_count)


def adaptive_threshold(signed_count: jax.Array, threshold: chex.Numeric) -> jax.Array:
    """Returns ``threshold * flip_count``, in float32."""
    return threshold * flip_count(signed_count).astype(jnp.float32)


def flip_beyond(
    signed_count: jax.Array, latent: jax.Array, threshold: chex.Numeric
) -> jax.Array:
    """Moves each weight to the sign of its latent where that exceeds the threshold.

    Args:
      signed_count: signed counts before the step.
      latent: latent weights of the same shape.
      threshold: thresholds of at least zero, a scalar or of the same shape. The
        inequality ``|latent| > threshold`` is strict, so a latent of exactly zero, or
        of NaN, leaves the weight as it is.

    Returns:
      Signed counts after the step. The flip count of a weight that flips grows by one
      and stays at the largest value that the dtype holds instead of wrapping around.
    """
    # Used once, so that XLA computes even a costly latent in the same pass.
    against = _against(signed_count, latent)
    return jnp.where(against > threshold, _flipped(signed_count), signed_count)


def _against(signed_count: jax.Array, latent: jax.Array) -> jax.Array:
    if _is_counter(signed_count):
        return words.against(signed_count, latent)
    return jnp.where(signed_count > 0, -1, 1).astype(latent.dtype) * latent


def _flipped(signed_count: jax.Array) -> jax.Array:
    if _is_counter(signed_count):
        return words.flipped(signed_count)
    one = jnp.ones_like(signed_count)
    limit = jnp.iinfo(signed_count.dtype).max
    grown = jnp.minimum(jnp.abs(signed_count), limit - 1) + one
    return jnp.where(signed_count > 0, -grown, grown)


def exact_update(signed_count: jax.Array, param: jax.Array) -> jax.Array:
    """Returns the update that takes a parameter to the weight of its signed count.

    For a parameter that is -1 or +1 this is exactly 0 or -2 times it, and the sum with
    the parameter is exact in every binary floating-point format. A real-valued
    parameter in [-1, 1] lands within one unit in the last place of -1 or +1 at its
    first update and on it at the next; a larger one may need one update more.
    """
    return weight(signed_count, jnp.result_type(param)) - param


def flip_rule(
    init: Callable[[optax.Params], Any],
    step: Callable[..., Any],
    *,
    takes_extra_args: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Makes a binary optimizer of a rule that says which weights flip.

    Use it for an optimizer of your own. The rule changes nothing but its state, a
    ``NamedTuple`` with at least ``count``, the number of updates, and ``signed_count``:
    the weights and how often each has flipped. The functions of this module make
    (`init_signed_counts`), read (`weight`) and change (`flip_beyond`) the latter.

    Args:
      init: from parameters to the first state.
      step: from gradients and the state to the state after the step; ``count`` is the
        number of updates before it and need not be changed.
      takes_extra_args: whether ``step`` also takes, by name, the extra arguments that
        ``update`` is given, such as ``value``, the loss.

    Returns:
      An `optax.GradientTransformationExtraArgs` whose updates are exactly 0 or -2w. It
      checks its arguments, counts the steps, and works wherever the optimizers of this
      library work; hold it to `sgdat_jax.testing.check_binary_optimizer`.

    Raises:
      TypeError: if ``init`` or ``step`` is no function, or, in the result's ``init``
        and ``update``, if parameters are not real floating-point arrays or updates are
        complex.
      ValueError: in ``update``, if ``params`` is None or trees do not fit.

    Example:
      >>> from typing import NamedTuple
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import sgdat_jax as sj
      >>> from sgdat_jax.optimizers import binary
      >>> class State(NamedTuple):
      ...     count: jax.Array
      ...     signed_count: optax.Updates
      >>> def obey(threshold):
      ...     def init(params):
      ...         counts = binary.init_signed_counts(params)
      ...         return State(jnp.zeros([], jnp.int32), counts)
      ...     def step(gradients, state):
      ...         flip = lambda s, g: binary.flip_beyond(s, -g, threshold)
      ...         counts = jax.tree.map(flip, state.signed_count, gradients)
      ...         return state._replace(signed_count=counts)
      ...     return sj.flip_rule(init, step)
      >>> params, tx = jnp.array([1.0, -1.0, 1.0]), obey(threshold=0.1)
      >>> updates, _ = tx.update(jnp.array([0.5, 0.5, 0.05]), tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      [-1. -1.  1.]
    """
    checks.function("`init`", init)
    checks.function("`step`", step)

    def init_fn(params: optax.Params) -> Any:
        trees.check_real_floating(params)
        return init(params)

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        trees.check_update(updates, params, state.signed_count)
        after = step(updates, state, **(extra_args if takes_extra_args else {}))
        state = after._replace(count=optax.safe_increment(state.count))
        return jax.tree.map(exact_update, state.signed_count, params), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def latent_weights(opt_state: optax.OptState) -> chex.ArrayTree:
    """Returns the latent weights held by an optimizer state.

    Args:
      opt_state: the state of a binary optimizer, alone or inside chained, partitioned,
        masked, injected or multi-step states, or of an ``nnx.Optimizer``.

    Returns:
      A pytree shaped like the binary parameters, float32 unless another
      ``latent_dtype`` was asked for. Parameters that the optimizer does not train are
      ``optax.MaskedNode()``, which has no leaves.

    Raises:
      ValueError: if no state in ``opt_state`` holds latent weights.

    Example:
      >>> import jax.numpy as jnp
      >>> import sgdat_jax as sj
      >>> params = {"kernel": jnp.array([1.0, -1.0])}
      >>> tx = sj.sgdat(learning_rate=0.5)
      >>> gradients = {"kernel": jnp.array([2.0, 4.0])}
      >>> _, state = tx.update(gradients, tx.init(params), params)
      >>> print(sj.latent_weights(state)["kernel"])
      [-1. -2.]
    """
    return _collect(opt_state, "latent")


def flip_counts(opt_state: optax.OptState) -> chex.ArrayTree:
    """Returns how often each binary weight has flipped since the last restart.

    Args:
      opt_state: as in `latent_weights`.

    Returns:
      A pytree shaped like the binary parameters, of the counter's integer dtype; int32
      for a compact state.

    Raises:
      ValueError: if no state in ``opt_state`` holds flip counts.

    Example:
      >>> import jax.numpy as jnp
      >>> import sgdat_jax as sj
      >>> params = {"kernel": jnp.array([1.0, -1.0])}
      >>> tx = sj.sgdat()
      >>> gradients = {"kernel": jnp.array([2.0, 4.0])}
      >>> _, state = tx.update(gradients, tx.init(params), params)
      >>> print(sj.flip_counts(state)["kernel"])
      [1 0]
    """
    return jax.tree.map(flip_count, _collect(opt_state, "signed_count"))


def thresholds(opt_state: optax.OptState) -> chex.ArrayTree:
    """Returns the threshold that each latent weight must exceed to flip its weight.

    Args:
      opt_state: as in `latent_weights`.

    Returns:
      A pytree shaped like the binary parameters, float32, in the unit of the latent
      weights: ``threshold`` of the last step (of step 0 before it) times the flip
      count.

    Raises:
      ValueError: if no state in ``opt_state`` holds thresholds.

    Example:
      >>> import jax.numpy as jnp
      >>> import sgdat_jax as sj
      >>> params = {"kernel": jnp.array([1.0, -1.0])}
      >>> tx = sj.sgdat(threshold=0.25)
      >>> _, state = tx.update(
      ...     {"kernel": jnp.array([9e4, 4.0])}, tx.init(params), params
      ... )
      >>> print(sj.thresholds(state)["kernel"])
      [0.25 0.  ]
    """
    return _collect(opt_state, "thresholds")


def trained_weights(opt_state: optax.OptState) -> chex.ArrayTree | None:
    """Returns which weights the binary optimizers in a state keep in {-1, +1}.

    A state tells by ``signed_count`` or, if its optimizer counts no flips, by an
    attribute or property ``binary_params``: a tree shaped like those parameters.

    Args:
      opt_state: as in `latent_weights`.

    Returns:
      A tree with a leaf for each such weight; None if no binary optimizer is there.
    """
    trees = [
        state.binary_params if hasattr(state, "binary_params") else state.signed_count
        for state in _binary_states(opt_state)
    ]
    return _join(trees) if trees else None


def _binary_states(opt_state: optax.OptState) -> list[Any]:
    def is_binary(node: Any) -> bool:
        return isinstance(node, tuple) and (
            hasattr(node, "signed_count") or hasattr(node, "binary_params")
        )

    return list(filter(is_binary, jax.tree.leaves(opt_state, is_leaf=is_binary)))


def _collect(opt_state: optax.OptState, attribute: str) -> chex.ArrayTree:
    """Takes one tree out of each state that has the attribute and joins the trees."""
    # A compact state says by ``unpacked`` which state it stands for.
    states = [getattr(s, "unpacked", s) for s in _binary_states(opt_state)]
    trees = [getattr(s, attribute) for s in states if hasattr(s, attribute)]
    if not trees:
        raise ValueError(
            f"`opt_state` holds no binary optimizer's `{attribute}`: got a state of "
            f"type {type(opt_state).__name__}."
        )
    return _join(trees)


def _join(trees: list[chex.ArrayTree]) -> chex.ArrayTree:
    """Returns one tree of several, each masked where another is not."""
    masked = optax.MaskedNode

    def first_unmasked(*nodes: Any) -> Any:
        return next((n for n in nodes if not isinstance(n, masked)), masked())

    return jax.tree.map(
        first_unmasked, *trees, is_leaf=lambda node: isinstance(node, masked)
    )
