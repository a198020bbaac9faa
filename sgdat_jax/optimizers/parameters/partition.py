"""Who trains the binary weights of a model, and who the others."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from sgdat_jax import layers
from sgdat_jax.optimizers import binary as binary_rules
from sgdat_jax.optimizers.parameters import freezing, paths, trees


def partition_binary(
    model: nnx.Module | nnx.State | Mapping[str, Any],
    *,
    binary: optax.GradientTransformation,
    real: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Trains a model's binary weights with one optimizer and all others with another.

    Binary are the weights of type `sgdat_jax.BinaryParam`. The result works on every
    form of the model's parameters: in an ``nnx.Optimizer``, on the state of
    ``nnx.split`` or ``nnx.state``, on pure nested dictionaries, and on the variables of
    a Linen model, whose binary weights form the collection ``"binary_params"``.

    A binary weight without an optimizer never trains, and nothing else would tell. So
    it is an error if the model has no binary weights, if one of them is missing from
    the parameters, if ``binary`` neither flips nor freezes one, and if ``real`` is a
    binary optimizer.

    Weights stay as they are, to the bit, if you say so: all of them with
    ``binary=optax.set_to_zero()``, some of them with `optax.masked`,
    `optax.selective_transform`, or `optax.freeze` in a chain. Under
    ``optax.masked(sgdat(), mask)`` Optax would add the gradients themselves to the
    weights that the mask leaves out; here their updates are zero.

    A binary optimizer is one whose state, or a state in it, says which weights it
    trains: a ``NamedTuple`` with ``signed_count``, as `flip_rule` makes it, or with
    ``binary_params``, a tree shaped like those weights, if it counts no flips.

    Args:
      model: an ``nnx.Module``, its ``nnx.State``, or a Linen model's variables.
      binary: trains the binary weights; `sgdat` or another optimizer of this library,
        or one of your own, alone or within Optax's wrappers; or what freezes them.
      real: trains the real-valued parameters, for example ``optax.adam(1e-3)``.

    Returns:
      An `optax.GradientTransformationExtraArgs`; its state is `optax.partition`'s.

    Raises:
      TypeError: if ``binary`` or ``real`` is not an Optax optimizer.
      ValueError: if ``model`` has no binary weights; in ``init``, in each other case
        above.

    Example:
      >>> from flax import nnx
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import sgdat_jax as sj
      >>> model = sj.BinaryLinear(4, 2, use_bias=True, rngs=nnx.Rngs(0))
      >>> tx = sj.partition_binary(model, binary=sj.sgdat(), real=optax.adam(1e-3))
      >>> optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
      >>> gradients = nnx.grad(lambda m: m(jnp.ones((1, 4))).sum())(model)
      >>> _ = optimizer.update(model, gradients)
      >>> print(model.kernel[...][0])
      [-1. -1.]

      With all binary weights frozen:

      >>> tx = sj.partition_binary(
      ...     model, binary=optax.set_to_zero(), real=optax.adam(1e-3)
      ... )
    """
    binary = trees.as_optimizer("`binary`", binary)
    real = trees.as_optimizer("`real`", real)
    binary_paths = paths.binary_paths(model)
    if not binary_paths:
        raise ValueError(
            "`model` must have binary weights (of type BinaryParam, or in the "
            f"collection {layers.LINEN_COLLECTION!r}), got none in "
            f"{type(model).__name__}."
        )

    named = {
        "binary": _in_scope("binary_optimizer", binary),
        "real": _in_scope("real_optimizer", real),
    }
    inner = optax.partition(named, functools.partial(_labels, binary_paths))

    def left_out(state: Any) -> set[paths.Path]:
        """Returns the binary weights that no binary optimizer in a state trains."""
        trained = binary_rules.trained_weights(state.inner_states["binary"])
        return binary_paths - {path for path, _ in paths.leaves_with_path(trained)}

    def init_fn(params: Any) -> Any:
        state = inner.init(params)
        if binary_rules.trained_weights(state.inner_states["real"]) is not None:
            raise ValueError(
                "`real` must not be a binary optimizer: it would turn the real-valued "
                "parameters into -1 and +1."
            )
        left = left_out(state)
        if left and paths.leaves_with_path(params):
            _check_frozen(binary, state, paths.select_binary(model, params), left)
        return state

    def update_fn(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        left = left_out(state)
        updates, state = inner.update(updates, state, params, **extra)
        return (_without(updates, left) if left else updates), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _labels(binary_paths: set[paths.Path], params: Any) -> Any:
    """Returns who trains each parameter, for `optax.partition`."""
    present = {path for path, _ in paths.leaves_with_path(params)}
    missing = binary_paths - present
    # Optax maps over states by calling `init` on a placeholder without leaves.
    if present and missing:
        raise ValueError(
            "`params` and `updates` must hold every binary weight, or nobody flips "
            f"it; missing: {paths.join(sorted(missing)[0])}."
        )
    return paths.map_with_path(
        lambda path, _: "binary" if path in binary_paths else "real", params
    )


def _without(updates: Any, left_out: set[paths.Path]) -> Any:
    """Returns updates that are zero where nobody trains a binary weight."""
    return paths.map_with_path(
        lambda path, update: (
            jax.tree.map(jnp.zeros_like, update) if path in left_out else update
        ),
        updates,
    )


def _check_frozen(
    binary: optax.GradientTransformation,
    state: Any,
    params: Any,
    left_out: set[paths.Path],
) -> None:
    """Raises ValueError if a weight that nobody flips is not left out on purpose."""
    own_state = state.inner_states["binary"]
    is_binary = binary_rules.trained_weights(own_state) is not None
    fates = freezing.fates(binary, params)
    frozen = ("frozen", "passed on") if is_binary else ("frozen",)
    moved = sorted(path for path in left_out if fates[path] not in frozen)
    if not moved:
        return
    how = (
        "To freeze weights, give `optax.set_to_zero()`, `optax.masked(sgdat(), mask)`, "
        "or `optax.chain(sgdat(), optax.masked(optax.set_to_zero(), mask))`."
    )
    if not is_binary:
        raise ValueError(
            "`binary` must be a binary optimizer such as sgdat(), got one that flips "
            f"no weight: its state is {_describe(own_state)}. {how}"
        )
    raise ValueError(
        "`binary` must flip or freeze every binary weight, got one that moves "
        f"{paths.join(moved[0])} otherwise. {how}"
    )


def _in_scope(
    name: str, tx: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Returns an optimizer whose operations have a name in profiles."""
    return tx._replace(update=jax.named_scope(name)(tx.update))


def _describe(state: optax.MaskedState) -> str:
    def is_named_tuple(node: Any) -> bool:
        return isinstance(node, tuple) and hasattr(node, "_fields")

    parts = jax.tree.leaves(state.inner_state, is_leaf=is_named_tuple)
    return ", ".join(type(part).__name__ for part in parts)
