import jax
import numpy as np
import pytest
from flax import nnx

import sgdat_jax as sj
from sgdat_jax import summary


def test_rows_of_digits_net():
    model = sj.models.DigitsNet(rngs=nnx.Rngs(0))
    rows = sj.summarize(model, (8, 8, 1))

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
    ]
    assert [tuple(row) for row in rows] == expected

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


def test_nothing_is_computed_or_changed():
    model = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
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
    rows = sj.summarize(_Nested(nnx.Rngs(0)), (4,))
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
    (row,) = sj.summarize(_Shared(nnx.Rngs(0)), (5,))
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
                self.dense = nnx.Linear(6, 7, use_bias=False, rngs=nnx.Rngs(0))

            def __call__(self, x):
                return self.dense(sj.ste_sign(x))

        (row,) = sj.summarize(Layer(), (6,))
    else:
        (row,) = sj.summarize(
            sj.BinaryLinear(6, 7, rngs=nnx.Rngs(0), **arguments), (6,)
        )
    expected = (42, 0) if quantizers == "both" else (0, 42)
    assert (row.binary_macs, row.real_macs) == expected
    assert row.binary_weights == (0 if quantizers == "input only" else 42)


def test_grouped_strided_convolution():
    conv = sj.BinaryConv(
        4,
        8,
        (3, 5),
        strides=(2, 1),
        padding="VALID",
        feature_group_count=2,
        use_bias=True,
        rngs=nnx.Rngs(0),
    )
    (row,) = sj.summarize(conv, (9, 9, 4))
    # Each of 4 x 5 positions and 8 channels sees 3 x 5 pixels of 4 / 2 channels.
    assert row.output_shape == (4, 5, 8)
    assert (row.binary_weights, row.real_weights) == (3 * 5 * 2 * 8, 8)
    assert (row.binary_macs, row.real_macs) == (4 * 5 * 8 * 3 * 5 * 2, 0)


def test_total_of_nothing():
    assert sj.summarize(nnx.Dropout(0.5, rngs=nnx.Rngs(0)), (3,)) == []
    with pytest.raises(ValueError, match="`summaries` must hold at least one layer"):
        summary.total([])
