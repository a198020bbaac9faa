"""TPUs that are not there: their devices, and what programs for them tell."""

import functools

import jax
import pytest

from benchmarks import chips, hlo, hlo_products
from sgdat_jax.data import sources
from sgdat_jax.experiments import configs, setup
from sgdat_jax.training import ahead
from sgdat_jax.training.devices import parallel

BATCH = 64


@functools.cache
def devices(count=4):
    """Chips of a v5e."""
    pytest.importorskip("libtpu")
    return chips.devices("v5e", count)


def alone():
    """One chip."""
    return parallel.lay_out(devices(1))


def compile_for(layout, function, *arguments, **options):
    """Compiles a function for arguments that lie whole on the devices of a layout."""
    shapes = layout.whole_shapes(arguments)
    return jax.jit(function, **options).lower(*shapes).compile()


def program(compiled):
    """The parts of a compiled program's text."""
    return hlo.parse(compiled.as_text())


def operands(compiled, scope=""):
    """The dtypes of all products in a scope: of both operands and the result."""
    return {
        (*product.operands, product.result)
        for product in hlo_products.products(program(compiled))
        if scope in product.scope
    }


@functools.cache
def plan(where, dtype="bfloat16"):
    layout = alone()
    if where != "alone":
        layout = parallel.lay_out(devices(), sharded=where == "sharded")
    config = configs.TrainConfig(
        model="DigitsNet", batch_size=BATCH, compute_dtype=dtype
    )
    return setup.plan(config, sources.digits(), layout)


@functools.cache
def step(where):
    return ahead.train_batch(plan(where)).compile()


def sums(compiled):
    """Bytes of what devices send to each other, by kind."""
    found = {}
    for one in hlo.collectives(program(compiled)):
        found[one.kind] = found.get(one.kind, 0) + one.nbytes
    return found
