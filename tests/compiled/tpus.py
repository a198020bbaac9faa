"""TPUs that are not there: their devices, and what programs for them tell."""

import functools
import os

import jax
import pytest
from jax.experimental import topologies

from benchmarks import hlo
from sgdat_jax.data import sources
from sgdat_jax.experiments import configs, setup
from sgdat_jax.training import ahead, parallel

BATCH = 64
# Read when libtpu is loaded. It would ask a cloud's metadata server, lock a file that
# other processes of tests need, and look for other hosts.
_WITHOUT_A_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


@functools.cache
def devices(topology="v5e:2x2"):
    """The chips of a topology."""
    pytest.importorskip("libtpu")
    for name, value in _WITHOUT_A_TPU.items():
        os.environ.setdefault(name, value)
    described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    return described.devices


def alone():
    """One chip."""
    return parallel.lay_out(devices()[:1])


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
        for product in hlo.products(program(compiled))
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
