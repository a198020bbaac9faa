"""The convolutions and matrix products of compiled programs, and what they multiply."""

import math
import re
from typing import NamedTuple

import numpy as np

from benchmarks import hlo


class Product(NamedTuple):
    """A convolution or matrix product."""

    operands: tuple[str, str]  # dtypes
    result: str
    operations: float  # multiplications and additions
    scope: str  # of the model's code that it comes from


def products(program: hlo.Program) -> list[Product]:
    """Returns all convolutions and matrix products, each once, a GPU's included."""
    found = []
    for computation in program.computations.values():
        for one in computation.values():
            target = re.search(r'custom_call_target="([^"]*)"', one.attributes)
            count = _COUNTS.get(target[1] if target else one.opcode)
            if count is None:
                continue
            left, right = (computation[name].arrays[0] for name in one.operands[:2])
            operations = 2 * count(one, left, right)
            dtypes = left.dtype, right.dtype
            scope = re.search(r'op_name="([^"]*)"', one.attributes)
            found.append(
                Product(
                    dtypes, one.arrays[0].dtype, operations, scope[1] if scope else ""
                )
            )
    return found


def _dot(one: hlo.Instruction, left: hlo.Array, right: hlo.Array) -> float:
    summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.attributes)
    over = math.prod(
        left.shape[axis] for axis in hlo.numbers(summed[1] if summed else "")
    )
    return math.prod(one.arrays[0].shape) * over


def _matrix_product(one: hlo.Instruction, left: hlo.Array, right: hlo.Array) -> float:
    """Returns the multiplications of cuBLAS: of m x k and k x n, to m x n."""
    sizes = (math.prod(array.shape) for array in (left, right, one.arrays[0]))
    return math.sqrt(math.prod(sizes))


def _convolution(one: hlo.Instruction, left: hlo.Array, right: hlo.Array) -> float:
    return _forward(one, left, right, one.arrays[0])


def _to_inputs(one: hlo.Instruction, left: hlo.Array, right: hlo.Array) -> float:
    return _forward(one, one.arrays[0], right, left)


def _to_kernel(one: hlo.Instruction, left: hlo.Array, right: hlo.Array) -> float:
    return _forward(one, left, one.arrays[0], right)


def _forward(
    one: hlo.Instruction, inputs: hlo.Array, kernel: hlo.Array, outputs: hlo.Array
) -> float:
    """Returns the multiplications by what is not padding; gradients have as many."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    assert labels, one
    of_inputs, of_kernel, of_outputs = labels.groups()
    window = _window(one.attributes)
    total = kernel.shape[of_kernel.index("i")]
    total *= outputs.shape[of_outputs.index("b")]
    total *= outputs.shape[of_outputs.index("f")]
    for axis in range(len(window.get("size", ()))):
        label = str(axis)
        total *= _pairs(
            inputs.shape[of_inputs.index(label)],
            kernel.shape[of_kernel.index(label)],
            outputs.shape[of_outputs.index(label)],
            {name: values[axis] for name, values in window.items()},
        )
    return total


# How multiplications are counted: by opcode, or by what a GPU's library computes, which
# names dimensions and window as in the convolution whose gradient it is.
_COUNTS = {
    "dot": _dot,
    "convolution": _convolution,
    "__cublas$gemm": _matrix_product,
    "__cublas$lt$matmul": _matrix_product,
    "__cudnn$convForward": _convolution,
    "__cudnn$convBackwardInput": _to_inputs,
    "__cudnn$convBackwardFilter": _to_kernel,
}


def _window(attributes: str) -> dict[str, list[str]]:
    text = re.search(r"window=\{([^}]*)\}", attributes)
    pairs = (field.split("=") for field in (text[1].split() if text else ()))
    return {name: values.split("x") for name, values in pairs}


def _pairs(inputs: int, kernel: int, outputs: int, window: dict[str, str]) -> int:
    """Returns how many pairs of kernel and output meet an input along one dimension."""
    stride, by = int(window.get("stride", 1)), int(window.get("lhs_dilate", 1))
    before = int(window.get("pad", "0_0").split("_")[0])
    spread = int(window.get("rhs_dilate", 1))
    places = np.arange(outputs)[:, np.newaxis] * stride - before
    places = places + np.arange(kernel) * spread
    meets = (places >= 0) & (places <= (inputs - 1) * by) & (places % by == 0)
    return int(meets.sum())
