"""An ONNX graph made of a jaxpr."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core, source_info_util

from sgdat_jax.inference.export.jaxprs import operations

_PACKED = 1024  # entries; smaller arrays of signs stay as they are
# Equations that stand for another jaxpr, by the name of the parameter that holds it.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


class Value(NamedTuple):
    """A value of the graph; its shape may lack what ONNX broadcasts."""

    shape: tuple[Any, ...]  # entries are integers, or symbols for the batch
    dtype: np.dtype
    name: str = ""
    known: np.ndarray | None = None  # if it depends on no input

    @property
    def is_false(self) -> bool:
        """Whether all entries are known to be false."""
        return self.known is not None and not self.known.any()


class Graph:
    """Nodes and stored arrays, as they are added.

    Args:
      onnx: the package.
    """

    def __init__(self, onnx: Any):
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.stored: list[Any] = []
        self.inputs: list[Any] = []
        self.count = 0
        self.place = "an unknown place"  # in the user's code

    def input(self, name: str, like: jax.ShapeDtypeStruct) -> Value:
        """Adds an input."""
        self.inputs.append(self._info(name, like))
        return Value(tuple(like.shape), np.dtype(like.dtype), name)

    def known(self, array: Any) -> Value:
        """Returns the value of an array, which is stored when it is used."""
        array = np.asarray(array)
        return Value(array.shape, array.dtype, known=array)

    def add(
        self, kind: str, *operands: Value | str, like: Any, **attributes: Any
    ) -> Value:
        """Adds an operation.

        Args:
          kind: of the operation, as ONNX names it.
          *operands: values; an empty string for one that is left out.
          like: what has the result's shape and dtype.
          **attributes: of the operation.
        """
        name = self._new_name()
        names = [one if isinstance(one, str) else self.name(one) for one in operands]
        self.nodes.append(self.onnx.helper.make_node(kind, names, [name], **attributes))
        return Value(tuple(like.shape), np.dtype(like.dtype), name)

    def name(self, value: Value) -> str:
        """Returns the name of a value, after storing it if it is an array."""
        if value.known is None:
            return value.name
        array = value.known
        if array.size >= _PACKED and (np.abs(array) == 1).all():
            return self._packed(array)
        return self._store(array)

    def full(self, value: Value, shape: tuple[Any, ...]) -> Value:
        """Returns a value with all entries that its shape may lack."""
        if value.shape == tuple(shape):
            return value
        if value.known is not None and _is_static(shape):
            return self.known(np.broadcast_to(value.known, shape))
        if not _is_static(shape):
            raise ValueError("onnx cannot repeat a value over a batch of any size.")
        sizes = self.known(np.array(shape, np.int64))
        like = jax.ShapeDtypeStruct(shape, value.dtype)
        return self.add("Expand", value, sizes, like=like)

    def reshape(self, value: Value, shape: tuple[Any, ...]) -> Value:
        """Returns a value in another shape with as many entries."""
        if value.known is not None:
            return self.known(value.known.reshape(shape))
        sizes = self.known(_sizes(shape))
        like = jax.ShapeDtypeStruct(shape, value.dtype)
        return self.add("Reshape", value, sizes, like=like)

    def transpose(self, value: Value, axes: Sequence[int]) -> Value:
        """Returns a value with its axes in another order."""
        if value.known is not None:
            return self.known(np.ascontiguousarray(value.known.transpose(axes)))
        shape = tuple(value.shape[axis] for axis in axes)
        like = jax.ShapeDtypeStruct(shape, value.dtype)
        return self.add("Transpose", value, like=like, perm=list(axes))

    def add_jaxpr(
        self, jaxpr: core.Jaxpr, consts: Sequence[Any], arguments: Sequence[Value]
    ) -> list[Value]:
        """Adds all of a jaxpr; returns its results.

        Raises:
          ValueError: if an operation has no form here; the message says where it is.
        """
        values: dict[Any, Value] = dict(zip(jaxpr.invars, arguments, strict=True))
        values |= {
            variable: self.known(const)
            for variable, const in zip(jaxpr.constvars, consts, strict=True)
        }

        def read(atom: Any) -> Value:
            if isinstance(atom, core.Literal):
                aval: Any = atom.aval
                return self.known(np.asarray(atom.val, aval.dtype))
            return values[atom]

        for equation in jaxpr.eqns:
            results = self._add_equation(equation, list(map(read, equation.invars)))
            values |= dict(zip(equation.outvars, results, strict=True))
        return list(map(read, jaxpr.outvars))

    def _add_equation(self, equation: Any, operands: list[Value]) -> list[Value]:
        kind = equation.primitive.name
        self.place = source_info_util.summarize(equation.source_info) or self.place
        special = None
        if kind in _CALLS:
            inner = equation.params[_CALLS[kind]]
            special = operations.FUNCTIONS.get(inner.jaxpr.debug_info.func_name)
            if special is None:
                return self.add_jaxpr(inner.jaxpr, inner.consts, operands)
        if kind == "platform_index":  # ONNX is for none by name
            return [self.known(np.int32(equation.params["platforms"].index(None)))]
        if kind == "cond" and operands[0].known is not None:
            branch = equation.params["branches"][int(operands[0].known)]
            return self.add_jaxpr(branch.jaxpr, branch.consts, operands[1:])
        outputs = [variable.aval for variable in equation.outvars]
        known = [one.known for one in operands if one.known is not None]
        are_static = all(_is_static(aval.shape) for aval in outputs)
        if len(known) == len(operands) and are_static:
            inputs = [
                np.broadcast_to(array, variable.aval.shape)
                for array, variable in zip(known, equation.invars, strict=True)
            ]
            results = equation.primitive.bind(*inputs, **equation.params)
            many = equation.primitive.multiple_results
            return list(map(self.known, results if many else [results]))
        convert = special or operations.PRIMITIVES.get(kind)
        try:
            if convert is None:
                raise ValueError("it has no form in ONNX here")
            return [convert(self, equation, operands)]
        except ValueError as error:
            raise ValueError(
                f"onnx cannot hold the operation {kind} at {self.place}: {error}."
            ) from None

    def finish(self, name: str, output: Value, like: Any) -> Any:
        """Returns the graph as ONNX has it, with one output of floats."""
        self.nodes.append(
            self.onnx.helper.make_node("Identity", [self.name(output)], ["logits"])
        )
        return self.onnx.helper.make_graph(
            self.nodes, name, self.inputs, [self._info("logits", like)], self.stored
        )

    def _new_name(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def _info(self, name: str, like: Any) -> Any:
        helper = self.onnx.helper
        sizes = [n if isinstance(n, int) else str(n) for n in like.shape]
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(like.dtype))
        return helper.make_tensor_value_info(name, kind, sizes)

    def _store(self, array: np.ndarray) -> str:
        name = self._new_name()
        self.stored.append(
            self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        )
        return name

    def _packed(self, array: np.ndarray) -> str:
        """Stores an array of signs as bits, and adds what makes signs of them."""
        positive = np.packbits(array.ravel() > 0, bitorder="little")[:, np.newaxis]
        like = jax.ShapeDtypeStruct((len(positive), 8), np.uint8)
        signs = jax.ShapeDtypeStruct(like.shape, array.dtype)
        places = self.known(np.arange(8, dtype=np.uint8))
        one = self.known(np.uint8(1))
        value = self.known(positive)
        value = self.add("BitShift", value, places, like=like, direction="RIGHT")
        value = self.add("BitwiseAnd", value, one, like=like)
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        value = self.add("Cast", value, like=signs, to=kind)
        value = self.add("Mul", value, self.known(array.dtype.type(2)), like=signs)
        value = self.add("Sub", value, self.known(array.dtype.type(1)), like=signs)
        if array.size % 8:
            value = self.reshape(value, (8 * len(positive),))
            ends = [self.known(np.array([end], np.int64)) for end in (0, array.size)]
            like = jax.ShapeDtypeStruct((array.size,), array.dtype)
            value = self.add("Slice", value, *ends, like=like)
        return self.reshape(value, array.shape).name


def _is_static(shape: Sequence[Any]) -> bool:
    return all(isinstance(size, int) for size in shape)


def _sizes(shape: Sequence[Any]) -> np.ndarray:
    """Returns a shape for ONNX, which finds out one size by itself."""
    if sum(not isinstance(size, int) for size in shape) > 1:
        raise ValueError(f"more than one size of {shape} is open")
    sizes = [size if isinstance(size, int) else -1 for size in shape]
    return np.array(sizes, np.int64)
