"""Checks of what users hand to an optimizer; each error names it and shows it."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax


def check_number(
    name: str,
    value: Any,
    *,
    below: float = math.inf,
    at_most: float = math.inf,
    optional: bool = False,
    schedule: bool = False,
) -> None:
    """Checks that a hyperparameter lies in ``[0, below)`` and is ``at_most`` so much.

    Traced arrays have no value yet, and schedules give theirs later: both pass.

    Raises:
      ValueError: if a number is outside, NaN included.
      TypeError: if it is neither a number, nor an array of shape (), nor one of the
        kinds allowed: None with ``optional``, a callable with ``schedule``.
    """
    if (optional and value is None) or (schedule and callable(value)):
        return
    if isinstance(value, jax.core.Tracer) and value.ndim == 0:
        return
    if isinstance(value, jax.Array | np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        allowed = "a number or an array of shape ()"
        allowed += ", or a schedule" if schedule else ", or None" if optional else ""
        raise TypeError(f"`{name}` must be {allowed}, got {value!r}.")
    if not (0 <= float(value) < below and value <= at_most):
        interval = f"[0, {below:g})" if at_most == math.inf else f"[0, {at_most:g}]"
        raise ValueError(f"`{name}` must be in {interval}, got {value!r}.")


def check_steps(name: str, value: Any, *, optional: bool = False) -> None:
    """Checks a number of steps: an integer of at least 1, or None with ``optional``.

    Traced arrays have no value yet and pass.

    Raises:
      ValueError: if it is an integer below 1.
      TypeError: if it is something else.
    """
    if isinstance(value, jax.core.Tracer) or (optional and value is None):
        return
    if isinstance(value, jax.Array | np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        kinds = "an integer or None" if optional else "an integer"
        raise TypeError(f"`{name}` must be {kinds}, got {value!r}.")
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1, got {value!r}.")


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


def check_latent_dtype(dtype: Any) -> None:
    """Checks that a dtype of latent weights is None or a real floating-point one.

    Raises:
      TypeError: if it is something else.
    """
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"`latent_dtype` must be real floating-point, got {dtype!r}.")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Checks that a value is one of a few words.

    Raises:
      ValueError: if it is not.
    """
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}, got {value!r}.")


def check_count_dtype(dtype: Any) -> None:
    """Checks that a flip counter's dtype is None or a signed integer.

    Raises:
      TypeError: if it is something else, or narrower than 8 bits, which XLA's backends
        hardly support.
    """
    # NumPy, unlike JAX, has no narrower ones among its signed integers.
    if dtype is not None and not np.issubdtype(jnp.dtype(dtype), np.signedinteger):
        raise TypeError(
            f"`count_dtype` must be a signed integer of 8 bits or more, got {dtype!r}."
        )


def check_update(
    updates: optax.Updates, params: optax.Params | None, state_tree: chex.ArrayTree
) -> None:
    """Checks that the arguments of ``update`` fit each other and the state.

    Raises:
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
