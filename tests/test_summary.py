import functools

import jax
import numpy as np
import pytest
from flax import nnx

import sgdat_jax as sj
from sgdat_jax import inference, summary
from summaries import one_row, rngs, rows_of

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_rows_of_digits_net():
    rows = rows_of(lambda: sj.models.DigitsNet(rngs=rngs()), (8, 8, 1))

    # name, kind, output, binary weights, real weights, binary MACs, real MACs
    c1, c2, c3, d4, d5 = 9 * 1 * 64, 9 * 64 * 64, 9 * 64 * 128, 2 * 2 * 128 * 256, 2560
    expected = [
        ("conv1", "Conv", (8, 8, 64), 0, c1 + 64, 0, 64 * c1),
        ("norm1", "BatchNorm", (8, 8, 64), 0, 2 * 64, 0, 0),
        ("conv2", "BinaryConv", (8, 8, 64), c2, 0, 64 * c2, 0),
        ("norm2", "BatchNorm", (4, 4, 64), 0, 2 * 64, 0, 0),
        ("conv3", "BinaryConv", (4, 4, 128), c3, 0, 16 * c3, 0),
        ("norm3", "BatchNorm", (2, 2, 128), 0, 2 * 128, 0, 0),
        ("dense4", "BinaryLinear", (256,), d4, 0, d4, 0),
        ("norm4", "BatchNorm", (256,), 0, 2 * 256, 0, 0),
        ("dense5", "Linear", (10,), 0, d5 + 10, 0, d5),
        ("norm5", "BatchNorm", (10,), 0, 0, 0, 0),
    ]
    assert [tuple(row)[:7] for row in rows] == expected
    # Nothing is of 2 to 31 bits, and only the last averages are in no scale or bias.
    assert {tuple(row)[7:] for row in rows[:-1]} == {(0, 0, 0, 0, "")}
    assert tuple(rows[-1])[7:] == (0, 0, 0, 20, "")

    total = summary.total(rows)
    assert (total.name, total.output_shape) == ("total", (10,))
    assert total.binary_weights == 241_664 == c2 + c3 + d4
    assert total.real_weights == c1 + 64 + 2 * (64 + 64 + 128 + 256) + d5 + 10
    assert total.binary_macs == 64 * c2 + 16 * c3 + d4
    assert total.real_macs == 64 * c1 + d5


@pytest.mark.parametrize(
    ("binary", "real", "expected"),
    [(0, 0, 0), (0, 3, 12), (8, 0, 1), (9, 0, 2), (1, 1, 5)],
)
def test_memory_packs_eight_binary_weights_to_a_byte(binary, real, expected):
    row = summary.LayerSummary("", "", (), binary, real, 0, 0)
    assert row.memory_bytes == expected
    row = row._replace(narrow_weights=4, narrow_bits=8, statistics=2)
    assert row.memory_bytes == expected + 1 + 8


def test_nothing_is_computed_or_changed():
    model = nnx.BatchNorm(3, rngs=rngs())
    before = jax.tree.map(np.array, nnx.state(model))
    sj.summarize(model, (8, 8, 3))
    after = nnx.state(model)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    jax.tree.map(np.testing.assert_array_equal, before, after)


class _Block(nnx.Module):
    def __init__(self, rngs):
        self.second = nnx.Linear(4, 4, use_bias=False, rngs=rngs)
        self.first = sj.BinaryLinear(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.second(self.first(x))


class _Nested(nnx.Module):
    def __init__(self, rngs):
        self.blocks = nnx.List([_Block(rngs) for _ in range(2)])
        self.head = nnx.Sequential(nnx.Linear(4, 3, rngs=rngs), nnx.relu)
        self.unused = nnx.Linear(4, 100, rngs=rngs)

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_nested_modules_in_order_of_definition():
    rows = rows_of(lambda: _Nested(rngs()), (4,))
    assert [(row.name, row.binary_macs, row.real_macs) for row in rows] == [
        ("blocks/0/second", 0, 16),
        ("blocks/0/first", 16, 0),
        ("blocks/1/second", 0, 16),
        ("blocks/1/first", 16, 0),
        ("head/layers/0", 0, 12),
    ]


class _Shared(nnx.Module):
    def __init__(self, rngs):
        self.layer = sj.BinaryLinear(5, 5, rngs=rngs)

    def __call__(self, x):
        return self.layer(self.layer(self.layer(x))), x


def test_layer_called_thrice_has_its_weights_once_and_its_work_thrice():
    (row,) = rows_of(lambda: _Shared(rngs()), (5,))
    assert (row.binary_weights, row.binary_macs) == (25, 75)


@pytest.mark.parametrize("quantizers", ["both", "kernel only", "input only"])
def test_macs_are_binary_if_both_operands_are(quantizers):
    arguments = {
        "both": {},
        "kernel only": {"input_quantizer": None},
        "input only": {},
    }[quantizers]
    if quantizers == "input only":

        class Layer(nnx.Module):
            def __init__(self):
                self.dense = nnx.Linear(6, 7, use_bias=False, rngs=rngs())

            def __call__(self, x):
                return self.dense(sj.ste_sign(x))

        (row,) = rows_of(Layer, (6,))
    else:
        row = one_row(lambda: sj.BinaryLinear(6, 7, rngs=rngs(), **arguments), (6,))
    expected = (42, 0) if quantizers == "both" else (0, 42)
    assert (row.binary_macs, row.real_macs) == expected
    assert row.binary_weights == (0 if quantizers == "input only" else 42)


def test_grouped_strided_convolution():
    options = {"strides": (2, 1), "padding": "VALID", "feature_group_count": 2}
    row = one_row(
        lambda: sj.BinaryConv(4, 8, (3, 5), use_bias=True, rngs=rngs(), **options),
        (9, 9, 4),
    )
    # Each of 4 x 5 positions and 8 channels sees 3 x 5 pixels of 4 / 2 channels.
    assert row.output_shape == (4, 5, 8)
    assert (row.binary_weights, row.real_weights) == (3 * 5 * 2 * 8, 8)
    assert (row.binary_macs, row.real_macs) == (4 * 5 * 8 * 3 * 5 * 2, 0)


class _Held(nnx.Module):
    """Its layers stand in a container of each kind."""

    def __init__(self, container):
        first, second = (sj.BinaryLinear(4, 4, rngs=rngs()) for _ in range(2))
        self.held = {
            "tuple": lambda: nnx.data((first, second)),
            "list": lambda: nnx.data([first, second]),
            "dict": lambda: nnx.data({"a": first, "b": second}),
            "nested": lambda: nnx.data({"a": (first, {"c": [second]})}),
            "List": lambda: nnx.List([first, second]),
            "Dict": lambda: nnx.Dict(a=first, b=second),
            "Sequential in dict": lambda: nnx.data(
                {"a": nnx.Sequential(first, nnx.Sequential(second, nnx.relu))}
            ),
        }[container]()

    def __call__(self, x):
        def is_layer(node):
            return isinstance(node, nnx.Module)

        held = self.held
        if isinstance(held, nnx.Dict):
            held = [held["a"], held["b"]]
        elif isinstance(held, nnx.List):
            held = list(held)
        for layer in jax.tree.leaves(held, is_leaf=is_layer):
            x = layer(x)
        return x


HELD = {
    "tuple": ["held/0", "held/1"],
    "list": ["held/0", "held/1"],
    "dict": ["held/a", "held/b"],
    "nested": ["held/a/0", "held/a/1/c/0"],
    "List": ["held/0", "held/1"],
    "Dict": ["held/a", "held/b"],
    "Sequential in dict": ["held/a/layers/0", "held/a/layers/1/layers/0"],
}


@pytest.mark.parametrize("container", HELD)
def test_modules_in_containers_are_counted_and_folded(container):
    model = _Held(container)
    rows = sj.summarize(model, (4,))
    assert [row.name for row in rows] == HELD[container]
    assert [(row.binary_weights, row.binary_macs) for row in rows] == [(16, 16)] * 2
    folded = inference.fold(model)
    rows = sj.summarize(folded, (4,))
    assert [(row.name, row.kind) for row in rows] == [
        (name, "FoldedLayer") for name in HELD[container]
    ]
    assert [(row.binary_weights, row.binary_macs) for row in rows] == [(16, 16)] * 2
    x = jax.random.normal(jax.random.key(0), (3, 4))
    np.testing.assert_array_equal(folded(x), model(x))


@pytest.mark.parametrize(
    ("use_scale", "use_bias", "numbers"),
    [(True, True, 2), (True, False, 2), (False, True, 2), (False, False, 2)],
)
def test_averages_that_nothing_absorbs_are_in_the_memory(use_scale, use_bias, numbers):
    # At inference each channel has one factor and one summand, however it came to it.
    options = {"use_scale": use_scale, "use_bias": use_bias}
    row = one_row(lambda: nnx.BatchNorm(9, rngs=rngs(), **options), (4, 9))
    assert row.real_weights == 9 * (use_scale + use_bias)
    assert row.real_weights + row.statistics == 9 * numbers
    assert row.memory_bytes == 4 * 9 * numbers


def test_normalizations_without_averages():
    row = one_row(lambda: nnx.GroupNorm(8, num_groups=2, rngs=rngs()), (4, 8))
    assert (row.real_weights, row.statistics, row.real_macs) == (16, 0, 0)
    assert one_row(lambda: nnx.LayerNorm(8, rngs=rngs()), (8,)).real_weights == 16


def test_thresholds_are_in_the_memory():
    ones = np.ones(64, np.float32)
    row = one_row(lambda: inference.Threshold(ones, ones), (64,))
    assert (row.kind, row.real_weights, row.statistics) == ("Threshold", 0, 2 * 64)


TERNARY = functools.partial(sj.ste_ternary, threshold=0.1)
WEIGHTS = functools.partial(sj.dorefa, bits=3, mode="weights")


@pytest.mark.parametrize(
    ("inputs", "kernel", "weights", "macs"),
    [
        (sj.dorefa, sj.kernel_sign, "binary", "narrow"),
        (functools.partial(sj.dorefa, bits=1), sj.kernel_sign, "binary", "binary"),
        (sj.ste_heaviside, sj.ste_sign, "binary", "binary"),
        (sj.ste_sign, TERNARY, "narrow", "narrow"),
        (sj.ste_sign, WEIGHTS, "narrow", "narrow"),
        (sj.ste_sign, sj.magnitude_aware_sign, "binary", "binary"),
        (sj.ste_sign, None, "binary", "binary"),
        (None, TERNARY, "narrow", "real"),
        (lambda x: x, sj.kernel_sign, "binary", "real"),
        (sj.ste_sign, lambda x: x, "real", "real"),
    ],
)
def test_bits_are_those_of_the_quantizers(inputs, kernel, weights, macs):
    options = {"input_quantizer": inputs, "kernel_quantizer": kernel}
    row = one_row(lambda: sj.BinaryLinear(8, 6, rngs=rngs(), **options), (8,))
    kinds = ("binary", "narrow", "real")
    assert {k: getattr(row, f"{k}_weights") for k in kinds} == {
        k: 48 * (k == weights) for k in kinds
    }
    assert {k: getattr(row, f"{k}_macs") for k in kinds} == {
        k: 48 * (k == macs) for k in kinds
    }
    bits = {"binary": 1, "real": 32}.get(weights, sj.signs.precision(kernel))
    assert row.memory_bytes == 48 * bits // 8


def test_shared_layers_and_weights_are_there_once():
    class Tied(nnx.Module):
        def __init__(self):
            self.first = nnx.Linear(4, 4, rngs=rngs())
            self.again = self.first
            self.other = nnx.Linear(4, 4, rngs=rngs())
            self.other.kernel = self.first.kernel

        def __call__(self, x):
            return self.other(self.again(self.first(x)))

    rows = rows_of(Tied, (4,))
    assert [(r.name, r.real_weights, r.real_macs) for r in rows] == [
        ("first", 20, 32),
        ("other", 4, 16),
    ]


def test_total_of_nothing():
    assert rows_of(lambda: nnx.Dropout(0.5, rngs=rngs()), (3,)) == []
    with pytest.raises(ValueError, match="`summaries` must hold at least one layer"):
        summary.total([])
