"""Checks of the trees that `init` and `update` are given."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax


def check_real_floating(params: optax.Params) -> None:
    """Checks that every parameter is a real floating-point array.

    Raises:
      TypeError: naming the first that is not.
    """
    for path, leaf in jax.tree.leaves_with_path(params):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                "`params` must be real floating-point arrays, got "
                f"{dtype} at params{jax.tree_util.keystr(path)}."
            )


def check_update(
    updates: optax.Updates, params: optax.Params | None, state_tree: chex.ArrayTree
) -> None:
    """Checks that the arguments of ``update`` fit each other and the state.

    Raises:
      TypeError: if an update is complex: its imaginary part would be lost.
      ValueError: if ``params`` is None, or if structures or shapes differ.
    """
    if params is None:
        raise ValueError(
            "`params` must be passed to `update`: an update takes each binary weight "
            "from its present value to -1 or +1. Got params=None."
        )
    for name, tree in (("updates", updates), ("params", params)):
        got: Any = jax.tree.structure(tree)
        expected: Any = jax.tree.structure(state_tree)
        if got != expected:
            raise ValueError(
                f"`{name}` must have the structure that `init` saw, got {got} instead "
                f"of {expected}."
            )
        held = jax.tree.leaves(state_tree)
        for (path, leaf), like in zip(
            jax.tree.leaves_with_path(tree), held, strict=True
        ):
            if jnp.shape(leaf) != jnp.shape(like):
                raise ValueError(
                    f"`{name}` must have the shapes that `init` saw, got "
                    f"{jnp.shape(leaf)} instead of {jnp.shape(like)} at "
                    f"{name}{jax.tree_util.keystr(path)}."
                )
            if jnp.iscomplexobj(leaf):
                raise TypeError(
                    f"`{name}` must be real arrays, got {jnp.result_type(leaf)} at "
                    f"{name}{jax.tree_util.keystr(path)}."
                )


def as_optimizer(name: str, value: Any) -> optax.GradientTransformationExtraArgs:
    """Returns an Optax optimizer, or an `optax.MultiSteps`, that takes extra arguments.

    Raises:
      TypeError: if it is something else.
    """
    if isinstance(value, optax.MultiSteps):
        value = value.gradient_transformation()
    if not isinstance(value, optax.GradientTransformation):
        raise TypeError(f"{name} must be an Optax optimizer, got {value!r}.")
    return optax.with_extra_args_support(value)
