"""Multiply-accumulates: all products of a program, and whose they are."""

import jax
import pytest
from flax import nnx

import sgdat_jax as sj
from sgdat_jax import inference
from summaries import one_row, rngs, rows_of

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_transposed_convolutions_count_each_input_once():
    # Each of 5 x 4 pixels meets each weight; in between are zeros.
    expected = 5 * 4 * (3 * 3 * 6 * 7)
    options = {"strides": 2, "use_bias": True}

    def make(kind):
        return kind(6, 7, (3, 3), rngs=rngs(), **options)

    row = one_row(lambda: make(nnx.ConvTranspose), (5, 4, 6))
    assert (row.real_weights, row.real_macs) == (3 * 3 * 6 * 7 + 7, expected)
    row = one_row(lambda: make(sj.BinaryConvTranspose), (5, 4, 6))
    assert (row.binary_weights, row.real_weights) == (3 * 3 * 6 * 7, 7)
    assert (row.binary_macs, row.real_macs) == (expected, 0)
    assert row.output_shape == (10, 8, 7)


def test_general_products_are_counted():
    axes = -2, -1
    row = one_row(
        lambda: nnx.LinearGeneral((5, 6), (2, 3), axis=axes, rngs=rngs()), (4, 5, 6)
    )
    assert (row.output_shape, row.real_macs) == ((4, 2, 3), 4 * 5 * 6 * 2 * 3)
    shapes = (8, 2, 4), (8, 4)
    row = one_row(lambda: nnx.Einsum("nta,hab->nthb", *shapes, rngs=rngs()), (11, 2))
    assert (row.real_weights, row.real_macs) == (64 + 32, 11 * 2 * 8 * 4)


class _Attends(nnx.Module):
    def __init__(self):
        self.attention = nnx.MultiHeadAttention(
            num_heads=2, in_features=8, decode=False, rngs=rngs()
        )

    def __call__(self, x):
        return self.attention(x)


def test_attention_is_counted_with_its_own_products():
    rows = {row.name: row for row in rows_of(_Attends, (5, 8))}
    projections = [f"attention/{name}" for name in ("query", "key", "value", "out")]
    assert set(rows) == {"attention", *projections}
    assert {rows[name].real_macs for name in projections} == {5 * 8 * 8}
    # Queries with keys, and weights with values: 5 x 5 products of 8 numbers each.
    assert rows["attention"].real_macs == 2 * 5 * 5 * 8
    assert rows["attention"].real_weights == 0


class _Embeds(nnx.Module):
    def __init__(self):
        self.embed = nnx.Embed(11, 6, rngs=rngs())
        self.head = sj.BinaryLinear(6, 3, rngs=rngs())

    def __call__(self, tokens):
        return self.embed.attend(self.head(self.embed(tokens)) @ jax.numpy.ones((3, 6)))


def test_look_ups_are_listed_and_other_methods_counted():
    row = one_row(lambda: nnx.Embed(11, 6, rngs=rngs()), (5,), "int32")
    assert (row.real_weights, row.real_macs) == (66, 0)
    assert row.not_counted == "look-ups"
    rows = {row.name: row for row in rows_of(_Embeds, (5,), "int32")}
    assert rows["embed"].real_macs == 5 * 6 * 11  # of `attend`
    assert rows["head"].binary_macs == 5 * 6 * 3
    assert rows[""].real_macs == 5 * 3 * 6  # of the network's own
    assert list(rows) == ["", "embed", "head"]


def test_cells_are_counted_at_each_step():
    rows = rows_of(lambda: nnx.RNN(nnx.GRUCell(4, 6, rngs=rngs())), (7, 4))
    by_name = {row.name: row.real_macs for row in rows}
    assert by_name == {"cell/dense_i": 7 * 4 * 18, "cell/dense_h": 7 * 6 * 18}


def test_loops_of_unknown_length_are_listed():
    class Settles(nnx.Module):
        def __init__(self):
            self.dense = nnx.Linear(4, 4, use_bias=False, rngs=rngs())

        def __call__(self, x):
            return jax.lax.while_loop(
                lambda x: x.max() > 1, lambda x: x @ self.dense.kernel[...], x
            )

    row = one_row(Settles, (4,))
    assert row.not_counted == "products in a loop of unknown length"


class _Plain(nnx.Module, pytree=False):
    """A module that is no pytree, with a compiled call and layers in a list."""

    def __init__(self):
        self.layers = [nnx.Linear(4, 4, rngs=rngs()) for _ in range(2)]
        self.drop = nnx.Dropout(0.5, rngs=rngs())

    @nnx.jit
    def __call__(self, x):
        return self.drop(self.layers[1](self.layers[0](x)))


def test_compiled_calls_and_modules_that_are_no_pytrees():
    model = _Plain()
    before = type(model), type(model.layers[0])
    rows = sj.summarize(model, (4,))
    assert [(row.name, row.real_macs) for row in rows] == [
        ("layers/0", 16),
        ("layers/1", 16),
    ]
    assert (type(model), type(model.layers[0])) == before


def test_stacked_layers_in_a_scan():
    class Stack(nnx.Module):
        def __init__(self):
            @nnx.split_rngs(splits=5)
            @nnx.vmap
            def make(rngs):
                return sj.BinaryLinear(4, 4, rngs=rngs)

            self.stack = make(nnx.Rngs(0))

        def __call__(self, x):
            @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            def run(x, layer):
                return layer(x)

            return run(x, self.stack)

    row = one_row(Stack, (4,))
    assert (row.name, row.binary_weights, row.binary_macs) == ("stack", 5 * 16, 5 * 16)


def test_the_costliest_branch_is_counted():
    class Chooses(nnx.Module):
        def __init__(self):
            self.small = nnx.Linear(4, 4, use_bias=False, rngs=rngs())
            self.large = nnx.Linear(4, 40, use_bias=False, rngs=rngs())

        def __call__(self, x):
            def large(x):
                return self.large(x)[:, :4]

            return jax.lax.cond(x.sum() > 0, large, self.small, x)

    rows = {row.name: row.real_macs for row in rows_of(Chooses, (4,))}
    assert rows == {"small": 0, "large": 160}


@pytest.mark.parametrize("dtype", ["bits", "int8", "float32"])
def test_products_by_counting_bits_are_those_of_floats(dtype):
    # Of a size at which a CPU counts bits.
    layer = sj.BinaryConv(
        64,
        32,
        (3, 3),
        kernel_init=lambda _, *shape: jax.numpy.ones(*shape),
        rngs=rngs(),
    )
    (expected,) = sj.summarize(layer, (8, 8, 64))
    assert expected.binary_macs == 8 * 8 * 9 * 64 * 32
    (row,) = sj.summarize(inference.fold(layer, dtype), (8, 8, 64))
    assert row._replace(kind=expected.kind) == expected


def test_summaries_leave_no_classes_behind():
    model = nnx.eval_shape(_Attends)
    sj.summarize(model, (5, 8))
    before = len(nnx.Module.__subclasses__()), len(nnx.Linear.__subclasses__())
    general = len(nnx.LinearGeneral.__subclasses__())
    for _ in range(3):
        sj.summarize(model, (5, 8))
    assert len(nnx.LinearGeneral.__subclasses__()) == general
    after = len(nnx.Module.__subclasses__()), len(nnx.Linear.__subclasses__())
    assert after == before
