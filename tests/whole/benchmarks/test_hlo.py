import jax
import jax.numpy as jnp
import pytest
from jax import lax

from benchmarks import hlo, hlo_products

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TEXT = """\
HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%all-reduce-scatter (input: bf16[64,128]) -> bf16[16,128] {
  %input = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.1 = bf16[64,128]{1,0:T(8,128)(2,1)} all-reduce(%input), channel_id=1, \
replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %slice = bf16[16,128]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.1)
}

%take (table: u8[1000,128], rows: s32[]) -> u8[8,128] {
  %table = u8[1000,128]{1,0:T(8,128)(4,1)} parameter(0)
  %rows = s32[]{:T(128)} parameter(1)
  ROOT %taken = u8[8,128]{1,0:T(8,128)(4,1)} dynamic-slice(%table, %rows)
}

%body (state: (u8[1000,128], f32[10])) -> (u8[1000,128], f32[10]) {
  %state = (u8[1000,128]{1,0:T(8,128)(4,1)}, f32[10]{0:T(128)}) parameter(0)
  %images = u8[1000,128]{1,0:T(8,128)(4,1)} get-tuple-element(%state), index=0
  %sums = f32[10]{0:T(128)} get-tuple-element(%state), index=1
  %zero = s32[]{:T(128)S(6)} constant(0)
  %batch = u8[8,128]{1,0:T(8,128)(4,1)} fusion(%images, %zero), kind=kLoop, calls=%take
  %more = f32[10]{0:T(128)} add(%sums, %sums)
  ROOT %next = (u8[1000,128], f32[10]) tuple(%images, %more)
}

ENTRY %main (a: bf16[64,128]) -> bf16[16,128] {
  %a = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  %part = bf16[16,128]{1,0:T(8,128)(2,1)} fusion(%a), kind=kCustom, \
calls=%all-reduce-scatter
  %whole = (u32[2,4]{1,0:T(2,128)}, u32[8,4]{1,0:T(8,128)}) all-gather-start(%b), \
channel_id=2, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}
  %again = (u32[2,4], u32[8,4]) all-gather-start(%b), channel_id=2, \
replica_groups=[2,4]<=[8], dimensions={0}
  %every = f32[10]{0:T(128)} all-reduce(%c), channel_id=3, replica_groups=[1,8]<=[8]
  %fast = (f32[100]{0:T(128)S(1)}, f32[100]{0:T(128)}, u32[]{:S(2)}) copy-start(%d)
  %loop = (u8[1000,128], f32[10]) while(%start), condition=%less, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  ROOT %end = bf16[16,128]{1,0:T(8,128)(2,1)} bitcast(%part)
}
"""


@pytest.fixture(scope="module")
def program():
    return hlo.parse(TEXT)


@pytest.mark.parametrize(
    ("kind", "nbytes", "tiled", "in_hbm"),
    [
        ("f32[64,10]{1,0:T(8,128)}", 2560, 64 * 128 * 4, 64 * 128 * 4),
        ("f32[64,10]{0,1:T(8,128)}", 2560, 16 * 128 * 4, 16 * 128 * 4),
        ("bf16[3,3,1,64]{3,2,1,0:T(2,128)(2,1)S(1)}", 1152, 9 * 2 * 128 * 2, 0),
        ("pred[100]{0:T(1024)E(1)}", 100, 128, 128),
        ("f32[]", 4, 4, 4),
        ("s4[7]{0}", 3.5, 3.5, 3.5),
    ],
)
def test_bytes_of_an_array(kind, nbytes, tiled, in_hbm):
    (array,) = hlo.arrays_of(kind)
    assert (array.nbytes, array.tiled, array.in_hbm) == (nbytes, tiled, in_hbm)


def test_collectives(program):
    assert hlo.collectives(program) == [
        hlo.Collective("reduce-scatter", "bf16", 64 * 128 * 2, 4),
        hlo.Collective("all-gather", "u32", 8 * 4 * 4, 4),
        hlo.Collective("all-reduce", "f32", 40, 8),
    ]
    assert [one.sent for one in hlo.collectives(program)] == [
        64 * 128 * 2 * 3 / 4,
        8 * 4 * 4 * 3 / 4,
        40 * 2 * 7 / 8,
    ]


def test_traffic(program):
    times = {
        name: count
        for found, count in hlo.executed(program)
        for name in program.computations
        if program.computations[name] is found
    }
    assert times == {"main": 1, "body": 3}
    main, body = program.computations["main"], program.computations["body"]
    assert hlo.traffic(program, main, main["part"]) == (64 + 16) * 128 * 2
    assert hlo.traffic(program, main, main["fast"]) == 128 * 4  # read, and kept fast
    assert hlo.traffic(program, main, main["end"]) == 0
    # Of the images it reads its rows alone, and writes them.
    assert hlo.traffic(program, body, body["batch"]) == 2 * 8 * 128
    assert hlo.traffic(program, body, body["more"]) == 2 * 128 * 4
    counted = sum(hlo.traffic(program, main, one) for one in main.values())
    in_loop = sum(hlo.traffic(program, body, one) for one in body.values())
    assert hlo.hbm_bytes(program) == counted + 3 * in_loop


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["SAME", "VALID", [(3, 0), (0, 2)]])
@pytest.mark.parametrize("dilation", [1, 2])
def test_operations_of_convolutions_are_those_that_xla_counts(
    stride, padding, dilation
):
    def convolve(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            padding,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ).sum()

    x, kernel = jnp.ones((2, 9, 8, 16)), jnp.ones((3, 2, 16, 24))
    for function in (convolve, jax.grad(convolve), jax.grad(convolve, 1)):
        lowered = jax.jit(function).lower(x, kernel)
        counted = hlo_products.products(hlo.parse(lowered.compile().as_text()))
        flops = lowered.cost_analysis()["flops"]
        operations = sum(product.operations for product in counted)
        assert operations == pytest.approx(flops, rel=0.02)  # which adds up the result


def test_operations_of_matrix_products():
    lowered = jax.jit(lambda a, b: jnp.einsum("nij,njk->nik", a, b)).lower(
        jnp.ones((3, 4, 5), jnp.int8), jnp.ones((3, 5, 6), jnp.int8)
    )
    ((operands, result, operations, scope),) = hlo_products.products(
        hlo.parse(lowered.compile().as_text())
    )
    assert (operands, result, operations) == (("s8", "s8"), "s8", 2 * 3 * 4 * 5 * 6)
    assert "dot_general" in scope


# Inputs of 8 images of 6x5 with 4 channels, kernels of 3x2 to 7: operands and result.
SHAPES = {"x": "f16[8,6,5,4]", "k": "f16[3,2,4,7]", "y": "f16[8,6,4,7]"}
ON_A_GPU = {"Forward": "xky", "BackwardInput": "ykx", "BackwardFilter": "xyk"}


@pytest.mark.parametrize("kind", ON_A_GPU)
def test_products_of_a_gpus_library_count_as_the_convolution(kind):
    left, right, result = ON_A_GPU[kind]
    text = f"""\
ENTRY %main ({left}: {SHAPES[left]}, {right}: {SHAPES[right]}) -> {SHAPES[result]} {{
  %{left} = {SHAPES[left]}{{3,2,1,0}} parameter(0)
  %{right} = {SHAPES[right]}{{3,2,1,0}} parameter(1)
  %conv = ({SHAPES[result]}{{3,2,1,0}}, u8[64]{{0}}) custom-call(%{left}, %{right}), \
window={{size=3x2 pad=1_1x0_0}}, dim_labels=b01f_01io->b01f, \
custom_call_target="__cudnn$conv{kind}"
  ROOT %r = {SHAPES[result]}{{3,2,1,0}} get-tuple-element(%conv), index=0
}}
"""
    ((operands, to, operations, _),) = hlo_products.products(hlo.parse(text))
    assert (operands, to) == (("f16", "f16"), "f16")
    # 16 of 18 rows of windows lie inside.
    assert operations == 2 * 8 * (16 * 4 * 2) * 4 * 7
