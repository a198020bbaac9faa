"""Summaries of networks without values, as initial ones would be compiled first."""

from flax import nnx

import sgdat_jax as sj


def rngs():
    return nnx.Rngs(0)


def rows_of(make, shape, dtype="float32"):
    rows = []
    # Within, for what leaves it has its attributes in another order.
    nnx.eval_shape(lambda: rows.extend(sj.summarize(make(), shape, dtype)))
    return rows


def one_row(make, shape, dtype="float32"):
    (row,) = rows_of(make, shape, dtype)
    return row
