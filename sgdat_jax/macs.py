"""Multiply-accumulates of a traced program, by the module that asks for them.

Every module of a network is made to name its operations while it is traced, in the same
scopes that profiles show. The program then says all there is to know: the products,
their shapes, how often a scan repeats them, and whose they are, whatever the modules
are called and however they were written.
"""

import collections
import contextvars
import functools
import inspect
import math
import re
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.extend import core

_SCOPE = "module"
_OWNER = re.compile(rf"{_SCOPE}:(\d+)")

# Work that has no number of multiply-accumulates, or none that the program tells.
_UNKNOWN = {
    "while": "products in a loop of unknown length",
    "ragged_dot_general": "a ragged product",
    "pallas_call": "a kernel of Pallas",
    "ffi_call": "a foreign function",
    "pure_callback": "a callback",
    "io_callback": "a callback",
    "fft": "a Fourier transform",
    "cholesky": "a decomposition",
    "eigh": "a decomposition",
    "qr": "a decomposition",
    "svd": "a decomposition",
    "lu": "a decomposition",
    "triangular_solve": "a triangular solve",
}


class Work(NamedTuple):
    """What one module did while a network was traced."""

    output_shape: tuple[int, ...] | None  # of its last call; None if it was not called
    macs: int
    unknown: tuple[str, ...]  # work that is not among them
    has_lookups: bool


def trace(
    model: nnx.Module, names: list[tuple[Any, ...]], example: Any
) -> list[Work | None]:
    """Traces a network, and returns what each of its modules did; None if nothing.

    Args:
      model: a network that maps a batch to a batch; it is left as it is.
      names: of each module in question, the names that lead to it; see `children`.
      example: shape and dtype of a batch.
    """
    graph, state = nnx.split(model)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    copy = nnx.merge(graph, shapes)
    for index, module in enumerate([_follow(copy, path) for path in names]):
        setattr(module, _INDEX, index)
        is_pytree = not jax.tree_util.all_leaves([module])
        original: Any = type(module)
        module.__class__ = _naming_its_operations(original, is_pytree)
    graph, shapes = nnx.split(copy)

    def forward(state: Any, x: Any) -> Any:
        return nnx.merge(graph, state)(x)

    outputs: dict[int, tuple[int, ...] | None] = {}
    token = _outputs.set(outputs)
    try:
        program = jax.make_jaxpr(forward)(shapes, example).jaxpr
    finally:
        _outputs.reset(token)
    tally = Tally()
    tally.add(program, owner=0, times=1)
    ran = outputs.keys() | tally.macs.keys()
    return [
        Work(
            outputs.get(index),
            tally.macs[index],
            tuple(sorted(tally.unknown[index])),
            index in tally.lookups,
        )
        if index in ran
        else None
        for index in range(len(names))
    ]


def children(module: nnx.Module) -> Iterator[tuple[Any, Any]]:
    """Yields the modules and variables that a module holds, with a name for each.

    In containers such as tuples and dictionaries, too; as they were defined.
    """
    for attribute, value in vars(module).items():
        leaves = jax.tree_util.tree_flatten_with_path(value, is_leaf=_is_whole)[0]
        for path, leaf in leaves:
            if _is_whole(leaf):
                keys = (jax.tree_util.keystr((key,), simple=True) for key in path)
                yield "/".join((attribute, *keys)), leaf


def _is_whole(node: Any) -> bool:
    return isinstance(node, nnx.Module | nnx.Variable)


def _follow(module: Any, names: tuple[Any, ...]) -> Any:
    for name in names:
        module = dict(children(module))[name]
    return module


_INDEX = "_index_in_summary"
_OF_ALL = set(dir(nnx.Module)) - {"__call__"}
# Of each module that is called in the present trace, the shape of its last output.
_outputs: contextvars.ContextVar[dict[int, Any]] = contextvars.ContextVar("outputs")


@functools.cache  # for JAX and Flax register each class, and never forget one
def _naming_its_operations(original: Any, is_pytree: bool) -> Any:
    """Returns a subclass of modules whose operations stand in scopes of their own.

    As it is a class that says so, it lasts where Flax takes a module apart and makes it
    anew, as in a scan. Instances have their index as an attribute.
    """
    methods = {
        name: _in_scope(name, inspect.getattr_static(original, name))
        for name in set(dir(original)) - _OF_ALL
        if name == "__call__" or not name.startswith("_")
        if _is_method(inspect.getattr_static(original, name))
    }
    return types.new_class(
        original.__name__,
        (original,),
        {"pytree": is_pytree},
        lambda body: body.update(methods),
    )


def _is_method(attribute: Any) -> bool:
    """Whether an attribute of a class is a function of its instances, maybe wrapped."""
    is_bound = callable(attribute) and hasattr(attribute, "__get__")
    return is_bound and not isinstance(attribute, staticmethod | classmethod | type)


def _in_scope(name: str, method: Any) -> Callable[..., Any]:
    @functools.wraps(method)
    def run(self: nnx.Module, *args: Any, **kwargs: Any) -> Any:
        index, outputs = getattr(self, _INDEX), _outputs.get()
        with jax.named_scope(f"{_SCOPE}:{index}"):
            result = method.__get__(self)(*args, **kwargs)
        outputs.setdefault(index, None)
        leaves = jax.tree.leaves(result)
        if name == "__call__" and leaves:
            outputs[index] = jax.numpy.shape(leaves[0])[1:]
        return result

    return run


class Tally:
    """Multiply-accumulates of programs, by the index of the module they belong to."""

    def __init__(self) -> None:
        self.macs: collections.Counter[int] = collections.Counter()
        self.unknown: dict[int, set[str]] = collections.defaultdict(set)
        self.lookups: set[int] = set()

    def add(self, program: core.Jaxpr, owner: int, times: int) -> None:
        """Adds a program, of whose owner nothing else is known, so many times."""
        for equation in program.eqns:
            name = equation.primitive.name
            scopes = _OWNER.findall(str(equation.source_info.name_stack))
            index = int(scopes[-1]) if scopes else owner
            inner = core.jaxprs_in_params(equation.params)
            if name in _MACS:
                self.macs[index] += times * _MACS[name](equation)
            elif name == "scan":
                for part in inner:
                    self.add(part, index, times * equation.params["length"])
            elif name == "cond":
                self._add_costliest(list(inner), index, times)
            elif name == "while":
                self._note_products(list(inner), index)
            elif name in _UNKNOWN:
                self.unknown[index].add(_UNKNOWN[name])
            else:
                if name == "gather":
                    self.lookups.add(index)
                for part in inner:
                    self.add(part, index, times)

    def _add_costliest(
        self, branches: list[core.Jaxpr], owner: int, times: int
    ) -> None:
        """Adds the branch with most work: of a product in floats or by counting bits.

        Bits have no multiply-accumulates, while the same product in floats has.
        """
        tallies = []
        for branch in branches:
            tallies.append(Tally())
            tallies[-1].add(branch, owner, times)
        costliest = max(tallies, key=lambda tally: tally.macs.total())
        self.macs.update(costliest.macs)
        for tally in tallies:
            self.lookups |= tally.lookups
            for index, words in tally.unknown.items():
                self.unknown[index] |= words

    def _note_products(self, parts: list[core.Jaxpr], owner: int) -> None:
        inner = Tally()
        for part in parts:
            inner.add(part, owner, 1)
        for index in inner.macs.keys() | inner.unknown.keys():
            self.unknown[index] |= {_UNKNOWN["while"], *inner.unknown[index]}


def _of_contraction(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, output = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return math.prod(output) * math.prod(left[axis] for axis in contracted)


def _of_convolution(equation: Any) -> int:
    """Each output of a channel sees the kernel's weights of that channel once.

    Between the entries of dilated inputs, as transposed convolutions have them, are
    zeros; there each input meets each of its weights once.
    """
    left, kernel = (operand.aval.shape for operand in equation.invars)
    numbers = equation.params["dimension_numbers"]
    if max(equation.params["lhs_dilation"], default=1) > 1:
        return math.prod(left) // left[numbers.lhs_spec[1]] * math.prod(kernel)
    output = equation.outvars[0].aval.shape
    return math.prod(output) * math.prod(kernel) // kernel[numbers.rhs_spec[0]]


_MACS = {
    "dot_general": _of_contraction,
    "conv_general_dilated": _of_convolution,
}
