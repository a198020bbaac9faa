"""The programs of a run of DigitsNet on one TPU and on four, and of its predictions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sgdat_jax as sj
import small_runs  # noqa: F401  # whose TinyNet compiles quickly
import tpus
from benchmarks import hlo, hlo_products
from sgdat_jax import inference
from sgdat_jax.data import sources
from sgdat_jax.experiments import configs, setup
from sgdat_jax.models import pooling
from sgdat_jax.training import ahead
from sgdat_jax.training.devices import parallel

pytestmark = [pytest.mark.tpu_compile, pytest.mark.usefixtures("without_cache")]

# Operands and sums. The matrix unit takes signs of float32 as bfloat16, which is exact.
IN_BFLOAT16 = ("bf16", "bf16", "f32")
IN_FLOAT32 = {("f32", "f32", "f32"), ("bf16", "f32", "f32"), ("f32", "bf16", "f32")}


def test_one_chip_talks_to_no_other():
    assert tpus.sums(tpus.step("alone")) == {}


@pytest.mark.parametrize("where", ["copied", "sharded"])
def test_four_chips_share_the_operations(where):
    shared, whole = (
        sum(
            product.operations
            for product in hlo_products.products(tpus.program(tpus.step(place)))
        )
        for place in (where, "alone")
    )
    assert shared == pytest.approx(whole / 4, rel=0.01)


@pytest.mark.parametrize("where", ["alone", "copied", "sharded"])
def test_each_chip_holds_the_state_that_it_is_told_to(where):
    layout, compiled = tpus.plan(where).task.layout, tpus.step(where)
    state = ahead.state(tpus.plan(where))
    told = parallel.bytes_per_device(state, layout.devices, sharded=layout.sharded)
    memory = compiled.memory_analysis()
    batch = tpus.BATCH // layout.devices * (8 * 8 + 4)
    # Tiles are filled up: of vectors, of single channels, and of parts of 16 columns.
    filled = 1.6 if where == "sharded" else 1.25
    assert told + batch <= memory.argument_size_in_bytes < filled * (told + batch)
    # The state takes the place of the one before.
    assert memory.alias_size_in_bytes > 0.99 * told


def test_evaluation_moves_no_gradients():
    found = tpus.sums(ahead.eval_step(tpus.plan("copied")).compile())
    assert set(found) <= {"all-gather", "all-reduce"}
    assert sum(found.values()) < 100_000


def test_steps_in_a_loop_copy_no_images():
    count = 50_000  # as in CIFAR-10, made of one pixel
    pixels = np.broadcast_to(np.uint8(0), (count, 32, 32, 3))
    labels = np.broadcast_to(np.int32(0), count)
    names = tuple("0123456789")
    made = sources.Dataset("made", pixels, labels, pixels, labels, class_names=names)
    config = configs.TrainConfig(
        model="TinyNet", batch_size=tpus.BATCH, normalization="imagenet"
    )
    plan = setup.plan(config, made, tpus.alone())
    compiled = ahead.train_steps(plan, 2).compile()
    memory = compiled.memory_analysis()
    assert pixels.size < memory.argument_size_in_bytes < 1.05 * pixels.size
    assert memory.temp_size_in_bytes < 0.01 * pixels.size
    # Of the images a step reads its batch.
    assert hlo.hbm_bytes(tpus.program(compiled)) < 0.1 * pixels.size


@pytest.mark.parametrize(
    ("dtype", "forward"),
    [
        ("bits", {IN_BFLOAT16}),
        ("bfloat16", {IN_BFLOAT16}),
        ("float32", {("bf16", "f32", "f32")}),
        ("int8", {("s8", "s8", "s32")}),
    ],
)
def test_folded_products_are_in_the_dtype_that_is_told(dtype, forward):
    model = nnx.jit(sj.models.DigitsNet)(rngs=nnx.Rngs(0))
    graph, state = nnx.split(inference.fold(model, dtype))
    images = jax.ShapeDtypeStruct((tpus.BATCH, 8, 8, 1), jnp.float32)

    def predict(state, images):
        return nnx.merge(graph, state)(images)

    compiled = tpus.compile_for(tpus.alone(), predict, state, images)
    # The first layer takes images and the last gives logits, both in float32.
    assert forward <= tpus.operands(compiled)
    assert tpus.operands(compiled) - forward <= IN_FLOAT32


def test_training_multiplies_signs_in_the_narrow_dtype():
    layer = sj.BinaryConv(
        64,
        128,
        (3, 3),
        dtype=jnp.bfloat16,
        preferred_element_type=jnp.float32,
        rngs=nnx.Rngs(0),
    )
    graph, params = nnx.split(layer)
    images = jax.ShapeDtypeStruct((8, 16, 16, 64), jnp.bfloat16)

    def loss(params, images):
        return jnp.square(nnx.merge(graph, params)(images)).sum()

    forward = tpus.compile_for(tpus.alone(), loss, params, images)
    assert tpus.operands(forward) == {IN_BFLOAT16}
    both = tpus.compile_for(tpus.alone(), jax.grad(loss, (0, 1)), params, images)
    assert tpus.operands(both) == {IN_BFLOAT16, ("bf16", "bf16", "bf16")}


def test_training_keeps_two_bytes_of_an_activation():
    shape = 1024, 16, 16, 128  # too large for fast memory

    def layer(rngs):
        options = {"dtype": jnp.bfloat16, "preferred_element_type": jnp.float32}
        return sj.BinaryConv(128, 128, (3, 3), **options, rngs=rngs)

    def network():
        rngs = nnx.Rngs(0)
        norms = (nnx.BatchNorm(128, rngs=rngs) for _ in range(2))
        layers = (part for norm in norms for part in (layer(rngs), norm))
        return nnx.Sequential(*layers, layer(rngs))

    graph, params, others = nnx.split(nnx.eval_shape(network), nnx.Param, ...)

    def loss(params, others, images):
        model = nnx.merge(graph, params, others, copy=True)
        return jnp.square(model(images)).mean()

    images = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    gradient = jax.grad(loss, (0, 2))
    compiled = tpus.compile_for(tpus.alone(), gradient, params, others, images)
    in_memory = {
        array.dtype
        for found, _ in hlo.executed(tpus.program(compiled))
        for one in found.values()
        for array in one.arrays
        if math.prod(array.shape) == math.prod(shape) and array.in_hbm
    }
    assert in_memory == {"s16", "bf16"}


def test_pooling_writes_no_halves():
    images = jax.ShapeDtypeStruct((256, 32, 32, 128), jnp.bfloat16)
    kernel = jax.ShapeDtypeStruct((3, 3, 128, 128), jnp.bfloat16)

    def pooled(x, kernel):
        sums = jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            preferred_element_type=jnp.float32,
        )
        return jax.vjp(pooling.max_pool, sums)

    program = tpus.program(tpus.compile_for(tpus.alone(), pooled, images, kernel))
    written = {
        hlo.elements(one)
        for found, _ in hlo.executed(program)
        for one in found.values()
        if not hlo.is_free(one)
    }
    assert math.prod(images.shape) in written
    assert math.prod(images.shape) // 2 not in written
