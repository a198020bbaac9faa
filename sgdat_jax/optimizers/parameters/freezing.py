"""What an optimizer does with weights that no binary optimizer in it trains."""

from collections.abc import Iterator
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend import core

from sgdat_jax.optimizers.parameters import paths

Fate = Literal["frozen", "passed on", "moved"]


def fates(
    tx: optax.GradientTransformation, params: chex.ArrayTree
) -> dict[paths.Path, Fate]:
    """Returns what becomes of the gradient of each parameter under an optimizer.

    It is told by the optimizer's traced program, on arrays of one entry in place of the
    parameters:

    - "frozen": the update is zero whatever the gradients, the state and the parameters,
      as that of `optax.set_to_zero` is. A learning rate of 0 does not freeze: it may
      come from a schedule.
    - "passed on": the update is the gradient itself, as `optax.masked` leaves it where
      its mask is False.
    - "moved": it is anything else.

    Args:
      tx: the optimizer.
      params: a tree of arrays or of their shapes; masks have no leaves.
    """
    with jax.ensure_compile_time_eval():
        small = jax.tree.map(
            lambda p: jnp.ones((1,) * jnp.ndim(p), jnp.result_type(p)), params
        )
        operands = small, tx.init(small), small
        program = jax.make_jaxpr(tx.update)(*operands)
        gradients = program.jaxpr.invars[: len(jax.tree.leaves(small))]
        updates = program.jaxpr.outvars[: len(gradients)]
        values = core.jaxpr_as_fun(program)(*jax.tree.leaves(operands))[: len(updates)]
        # In here, for what is done with arrays behind the block may be traced.
        are_zero = [not np.any(jax.device_get(value)) for value in values]
    depends = _dependent(program.jaxpr)

    def fate(gradient: Any, update: Any, is_zero: bool) -> Fate:
        if update is gradient:
            return "passed on"
        is_constant = isinstance(update, core.Literal) or update not in depends
        return "frozen" if is_constant and is_zero else "moved"

    told = map(fate, gradients, updates, are_zero)
    return {path: next(told) for path, _ in paths.leaves_with_path(small)}


def _dependent(program: core.Jaxpr) -> set[Any]:
    """Returns the variables of a program that depend on its inputs."""
    depends = set(program.invars)

    def inputs(equation: Any) -> Iterator[Any]:
        return (v for v in equation.invars if not isinstance(v, core.Literal))

    for equation in program.eqns:
        if not depends.isdisjoint(inputs(equation)):
            depends.update(equation.outvars)
    return depends
