"""What the operations of a jaxpr are in ONNX."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

Convert = Callable[[Any, Any, list[Any]], Any]  # of a graph, an equation and operands


def _result(equation: Any) -> jax.ShapeDtypeStruct:
    aval = equation.outvars[0].aval
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def _broadcast(equation: Any, operands: Sequence[Any]) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of what ONNX makes of operands that it broadcasts."""
    rank = max(len(one.shape) for one in operands)
    shapes = [(1,) * (rank - len(one.shape)) + tuple(one.shape) for one in operands]
    shape = tuple(
        next((size for size in sizes if not _is_one(size)), 1)
        for sizes in zip(*shapes, strict=True)
    )
    return jax.ShapeDtypeStruct(shape, equation.outvars[0].aval.dtype)


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


def _elementwise(kind: str) -> Convert:
    def convert(graph: Any, equation: Any, operands: list[Any]) -> Any:
        return graph.add(kind, *operands, like=_broadcast(equation, operands))

    return convert


def _comparison(kind: str, *, negated: bool = False) -> Convert:
    def convert(graph: Any, equation: Any, operands: list[Any]) -> Any:
        one, other = equation.invars
        if negated and one is other:  # asks for NaN, of which there is none
            return graph.known(np.False_)
        like = _broadcast(equation, operands)
        value = graph.add(kind, *operands, like=like)
        return graph.add("Not", value, like=like) if negated else value

    return convert


def _or(graph: Any, equation: Any, operands: list[Any]) -> Any:
    for one, other in (operands, operands[::-1]):
        if one.is_false:
            return other
    kind = "Or" if equation.outvars[0].aval.dtype == np.bool_ else "BitwiseOr"
    return graph.add(kind, *operands, like=_broadcast(equation, operands))


def _select(graph: Any, equation: Any, operands: list[Any]) -> Any:
    which, *cases = operands
    if which.is_false:
        return cases[0]
    if which.dtype != np.bool_:
        raise ValueError("it selects by an integer")
    like = _broadcast(equation, operands)
    return graph.add("Where", which, *cases[::-1], like=like)


def _cast(graph: Any, equation: Any, operands: list[Any]) -> Any:
    (value,) = operands
    dtype = np.dtype(equation.params["new_dtype"])
    if value.dtype == dtype:
        return value
    like = jax.ShapeDtypeStruct(value.shape, dtype)
    kind = graph.onnx.helper.np_dtype_to_tensor_dtype(dtype)
    return graph.add("Cast", value, like=like, to=kind)


def _rsqrt(graph: Any, equation: Any, operands: list[Any]) -> Any:
    like = _broadcast(equation, operands)
    root = graph.add("Sqrt", *operands, like=like)
    return graph.add("Reciprocal", root, like=like)


def _integer_power(graph: Any, equation: Any, operands: list[Any]) -> Any:
    exponent = graph.known(np.array(equation.params["y"], operands[0].dtype))
    like = _broadcast(equation, operands)
    return graph.add("Pow", operands[0], exponent, like=like)


def _clamp(graph: Any, equation: Any, operands: list[Any]) -> Any:
    low, value, high = operands
    like = _broadcast(equation, operands)
    return graph.add("Min", graph.add("Max", value, low, like=like), high, like=like)


def _broadcast_in_dim(graph: Any, equation: Any, operands: list[Any]) -> Any:
    """Gives a value the axes of the result, and leaves the rest to broadcasting."""
    value = operands[0]
    places = equation.params["broadcast_dimensions"]
    shape: list[Any] = [1] * len(_result(equation).shape)
    full = equation.invars[0].aval.shape
    lacking = value.shape if len(value.shape) == len(full) else full
    if not value.shape:
        lacking = (1,) * len(full)
    for place, size in zip(places, lacking, strict=True):
        shape[place] = size
    return graph.reshape(value, tuple(shape))


def _reshape(graph: Any, equation: Any, operands: list[Any]) -> Any:
    value = graph.full(operands[0], equation.invars[0].aval.shape)
    return graph.reshape(value, tuple(_result(equation).shape))


def _transpose(graph: Any, equation: Any, operands: list[Any]) -> Any:
    value = graph.full(operands[0], equation.invars[0].aval.shape)
    return graph.transpose(value, equation.params["permutation"])


def _reduction(kind: str) -> Convert:
    def convert(graph: Any, equation: Any, operands: list[Any]) -> Any:
        value = graph.full(operands[0], equation.invars[0].aval.shape)
        axes = graph.known(np.array(equation.params["axes"], np.int64))
        return graph.add(kind, value, axes, like=_result(equation), keepdims=0)

    return convert


def _matmul(graph: Any, equation: Any, operands: list[Any]) -> Any:
    (one, other), batch = equation.params["dimension_numbers"]
    x, kernel = (
        graph.full(value, variable.aval.shape)
        for value, variable in zip(operands, equation.invars, strict=True)
    )
    is_plain = tuple(one) == (len(x.shape) - 1,) and tuple(other) == (0,)
    if not is_plain or any(batch) or len(kernel.shape) != 2:
        raise ValueError("it is no product of the last axis with a matrix")
    return graph.add("MatMul", x, kernel, like=_result(equation))


def _convolution(graph: Any, equation: Any, operands: list[Any]) -> Any:
    params = equation.params
    lhs, rhs, out = params["dimension_numbers"]
    if any(n != 1 for n in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        raise ValueError("it is transposed, or in groups of the batch")
    x = graph.transpose(graph.full(operands[0], equation.invars[0].aval.shape), lhs)
    kernel = graph.transpose(operands[1], rhs)
    result = _result(equation)
    like = jax.ShapeDtypeStruct([result.shape[axis] for axis in out], result.dtype)
    value = graph.add(
        "Conv",
        x,
        kernel,
        like=like,
        kernel_shape=list(kernel.shape[2:]),
        strides=list(params["window_strides"]),
        pads=[low for low, _ in params["padding"]]
        + [high for _, high in params["padding"]],
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
    )
    return graph.transpose(value, np.argsort(out).tolist())


def _pool(
    graph: Any,
    kind: str,
    value: Any,
    result: Any,
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **attributes: Any,
) -> Any:
    """Adds a pooling of the axes between batch and channels."""
    rank = len(value.shape)
    if {window[0], window[-1], strides[0], strides[-1]} != {1} or rank < 3:
        raise ValueError("its window is not of the axes between batch and channels")
    to_onnx = (0, rank - 1, *range(1, rank - 1))
    like = jax.ShapeDtypeStruct([result.shape[a] for a in to_onnx], result.dtype)
    pooled = graph.add(
        kind,
        graph.transpose(value, to_onnx),
        like=like,
        kernel_shape=list(window[1:-1]),
        strides=list(strides[1:-1]),
        pads=[low for low, _ in padding[1:-1]] + [high for _, high in padding[1:-1]],
        **attributes,
    )
    return graph.transpose(pooled, (0, *range(2, rank), 1))


def _window(kind: str) -> Convert:
    def convert(graph: Any, equation: Any, operands: list[Any]) -> Any:
        params, result = equation.params, _result(equation)
        if {*params["base_dilation"], *params["window_dilation"]} != {1}:
            raise ValueError("it is dilated")
        value = graph.full(operands[0], equation.invars[0].aval.shape)
        window = params["window_dimensions"]
        geometry = window, params["window_strides"], params["padding"]
        if kind == "MaxPool":
            return _pool(graph, kind, value, result, *geometry)
        mean = _pool(graph, kind, value, result, *geometry, count_include_pad=1)
        count = graph.known(np.array(math.prod(window), mean.dtype))
        return graph.add("Mul", mean, count, like=result)

    return convert


def _pool_squares(graph: Any, equation: Any, operands: list[Any]) -> Any:
    value = graph.full(operands[0], equation.invars[0].aval.shape)
    squares, no_pads = (1, 2, 2, 1), ((0, 0),) * 4
    return _pool(graph, "MaxPool", value, _result(equation), squares, squares, no_pads)


def _slice(graph: Any, equation: Any, operands: list[Any]) -> Any:
    params = equation.params
    value = graph.full(operands[0], equation.invars[0].aval.shape)
    strides = params["strides"] or (1,) * len(value.shape)
    starts, limits = params["start_indices"], params["limit_indices"]
    return _cut(graph, equation, value, starts, limits, strides)


def _cut(
    graph: Any,
    equation: Any,
    value: Any,
    starts: Sequence[Any],
    limits: Sequence[Any],
    strides: Sequence[int],
) -> Any:
    whole = value.shape
    axes = [
        axis
        for axis, bounds in enumerate(zip(starts, limits, strides, strict=True))
        if bounds != (0, whole[axis], 1)
    ]
    if not axes:
        return value
    if not all(isinstance(limits[axis], int) for axis in axes):
        raise ValueError("it cuts a batch of any size")
    lists = [starts, limits, range(len(whole)), strides]
    ends = [graph.known(np.array([one[a] for a in axes], np.int64)) for one in lists]
    return graph.add("Slice", value, *ends, like=_result(equation))


def _gather(graph: Any, equation: Any, operands: list[Any]) -> Any:
    """Cuts, or takes slices along one axis, as indexing does."""
    numbers, sizes = (
        equation.params[name] for name in ("dimension_numbers", "slice_sizes")
    )
    value, indices = operands
    value = graph.full(value, equation.invars[0].aval.shape)
    axes, places = numbers.start_index_map, indices.known
    if places is None or numbers.operand_batching_dims:
        raise ValueError("its indices depend on the inputs")
    if places.ndim == 1 and not numbers.collapsed_slice_dims:
        start: list[int] = [0] * len(sizes)
        for axis, place in zip(axes, places.tolist(), strict=True):
            start[axis] = place
        limits = [
            first + size if first else size
            for first, size in zip(start, sizes, strict=True)
        ]
        return _cut(graph, equation, value, start, limits, (1,) * len(sizes))
    whole = [size for axis, size in enumerate(value.shape) if axis != axes[0]]
    taken = [size for axis, size in enumerate(sizes) if axis != axes[0]]
    if (
        places.ndim != 2
        or numbers.collapsed_slice_dims != axes
        or len(axes) != 1
        or whole != taken
        or axes[0] in numbers.offset_dims
    ):
        raise ValueError("it takes more than whole slices along one axis")
    where = graph.known(places[:, 0].astype(np.int64))
    return graph.add("Gather", value, where, like=_result(equation), axis=axes[0])


def _pad(graph: Any, equation: Any, operands: list[Any]) -> Any:
    widths = equation.params["padding_config"]
    if any(low < 0 or high < 0 or inner for low, high, inner in widths):
        raise ValueError("it cuts, or spreads entries")
    value = graph.full(operands[0], equation.invars[0].aval.shape)
    pads = [low for low, _, _ in widths] + [high for _, high, _ in widths]
    return graph.add(
        "Pad",
        value,
        graph.known(np.array(pads, np.int64)),
        operands[1],
        like=_result(equation),
    )


def _concatenate(graph: Any, equation: Any, operands: list[Any]) -> Any:
    values = [
        graph.full(value, variable.aval.shape)
        for value, variable in zip(operands, equation.invars, strict=True)
    ]
    axis = equation.params["dimension"]
    return graph.add("Concat", *values, like=_result(equation), axis=axis)


def _same(graph: Any, equation: Any, operands: list[Any]) -> Any:
    del graph, equation
    return operands[0]


PRIMITIVES: dict[str, Convert] = {
    **{
        name: _elementwise(kind)
        for name, kind in {
            "add": "Add",
            "sub": "Sub",
            "mul": "Mul",
            "div": "Div",
            "max": "Max",
            "min": "Min",
            "pow": "Pow",
            "neg": "Neg",
            "exp": "Exp",
            "log": "Log",
            "tanh": "Tanh",
            "logistic": "Sigmoid",
            "sqrt": "Sqrt",
            "abs": "Abs",
            "sign": "Sign",
            "erf": "Erf",
            "floor": "Floor",
            "ceil": "Ceil",
            "and": "And",
            "not": "Not",
        }.items()
    },
    "ge": _comparison("GreaterOrEqual"),
    "gt": _comparison("Greater"),
    "le": _comparison("LessOrEqual"),
    "lt": _comparison("Less"),
    "eq": _comparison("Equal"),
    "ne": _comparison("Equal", negated=True),
    "or": _or,
    "select_n": _select,
    "convert_element_type": _cast,
    "rsqrt": _rsqrt,
    "integer_pow": _integer_power,
    "square": lambda graph, equation, operands: graph.add(
        "Mul", *operands, *operands, like=_broadcast(equation, operands)
    ),
    "clamp": _clamp,
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "transpose": _transpose,
    "reduce_sum": _reduction("ReduceSum"),
    "reduce_max": _reduction("ReduceMax"),
    "reduce_min": _reduction("ReduceMin"),
    "dot_general": _matmul,
    "conv_general_dilated": _convolution,
    "reduce_window_sum": _window("AveragePool"),
    "reduce_window_max": _window("MaxPool"),
    "slice": _slice,
    "gather": _gather,
    "pad": _pad,
    "concatenate": _concatenate,
    "stop_gradient": _same,
    "copy": _same,
    "optimization_barrier": _same,
}
# Functions of ours that ONNX has as one operation, by their name.
FUNCTIONS: dict[str | None, Convert] = {"_pool_squares": _pool_squares}
