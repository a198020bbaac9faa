"""Training over many devices and many hosts.

Each device takes an equal share of every batch. Gradients and the statistics of batch
normalization are of the whole batch, so a run means the same on any number of devices;
only sums are taken in another order. The state of a run is copied to every device, or
*sharded*: each array of weights and optimizers is split as evenly as its dimensions
allow, and each device updates its part. A step then gathers the weights, the binary
ones as bits, and computes with them as if they had been there all along.

There is one program, compiled by `jax.jit` for arrays that lie on a mesh of devices,
and the optimizers know nothing of it. The functions that pin values within it do
nothing where there is no layout, so that a run on one device compiles to what it always
was.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sgdat_jax import optimizers

_BITS = 8  # in a byte
_AVERAGES = "stats"  # the field of `TrainState`


class Layout(NamedTuple):
    """How a run lies on several devices; hashable, as programs are compiled for it."""

    # An axis for each prime factor of their number; those of a process lie together.
    mesh: jax.sharding.Mesh
    sharded: bool = False  # whether each device holds but its part of the state
    bits: bool = True  # whether the parts of binary weights are gathered as bits

    @property
    def devices(self) -> int:
        """How many devices there are, on all hosts."""
        return self.mesh.size


def lay_out(
    devices: Sequence[jax.Device], *, sharded: bool = False, bits: bool = True
) -> Layout | None:
    """Returns how a run lies on devices; None: on one device, as if this were not here.

    Args:
      devices: of all hosts, in any order.
      sharded: whether the state is split, rather than copied to each of them.
      bits: whether split binary weights travel as bits, a 32nd of float32, or as they
        are stored.

    Example:
      >>> import jax
      >>> from sgdat_jax.training import parallel
      >>> parallel.lay_out(jax.devices()[:1]) is None
      True
    """
    if len(devices) == 1:
        return None
    # Then the share of a process is one slice of a batch, whatever the numbering.
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    shape = _prime_factors(len(devices))
    mesh = jax.sharding.Mesh(
        np.array(ordered).reshape(shape),
        tuple(f"axis{number}" for number in range(len(shape))),
        axis_types=(jax.sharding.AxisType.Auto,) * len(shape),
    )
    return Layout(mesh, sharded, bits)


def check_batch_size(layout: Layout | None, batch_size: int) -> None:
    """Raises ValueError if a batch does not divide evenly among the devices."""
    if layout is not None and batch_size % layout.devices:
        raise ValueError(
            f"batch_size must be a multiple of the {layout.devices} devices, got "
            f"{batch_size}."
        )


def parts(shape: Sequence[int], devices: int) -> tuple[int, ...]:
    """Returns into how many equal parts each dimension of an array is split.

    The largest dimension takes as many of the devices' prime factors as divide it, then
    the next. If some are left, each part lies on several devices.

    Example:
      >>> from sgdat_jax.training import parallel
      >>> parallel.parts((3, 3, 64, 128), devices=8)
      (1, 1, 1, 8)
      >>> parallel.parts((3, 3, 64, 128), devices=1024)
      (1, 1, 8, 128)
      >>> parallel.parts((10,), devices=8)
      (2,)
    """
    factors = _prime_factors(devices)
    return tuple(
        math.prod(factors[axis] for axis in axes) for axes in _axes(shape, devices)
    )


def _axes(shape: Sequence[int], devices: int) -> list[list[int]]:
    """Returns which axes of the mesh split each dimension of an array."""
    factors = _prime_factors(devices)
    found: list[list[int]] = [[] for _ in shape]
    left = list(reversed(range(len(factors))))  # so that parts are of near devices
    for dimension in sorted(range(len(shape)), key=lambda i: -shape[i]):
        rest = shape[dimension]
        for axis in tuple(left):
            if rest and rest % factors[axis] == 0:
                rest //= factors[axis]
                left.remove(axis)
                found[dimension].insert(0, axis)
    return found


def _prime_factors(number: int) -> list[int]:
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors


def packed_dimension(shape: Sequence[int], devices: int) -> int | None:
    """Returns along which dimension the parts of split binary weights become bits.

    It is the largest of a part that whole bytes divide; None if there is none, or if
    the array is not split.

    Example:
      >>> from sgdat_jax.training import parallel
      >>> parallel.packed_dimension((3, 3, 64, 128), devices=8)
      2
    """
    pieces = parts(shape, devices)
    sizes = [size // piece for size, piece in zip(shape, pieces, strict=True)]
    fit = [i for i, size in enumerate(sizes) if size and size % _BITS == 0]
    if math.prod(pieces) == 1 or not fit:
        return None
    return max(fit, key=lambda i: sizes[i])


def bytes_per_device(state: Any, devices: int, *, sharded: bool) -> int:
    """Returns the bytes that each device holds of a state, or of its shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> from sgdat_jax.training import parallel
      >>> state = {"kernel": jnp.ones((16, 10)), "bias": jnp.ones(10)}
      >>> parallel.bytes_per_device(state, 8, sharded=True)  # 2 rows, half the bias
      100
    """
    total = 0
    for path, leaf in jax.tree.leaves_with_path(state):
        is_split = sharded and not _is_average(path)
        pieces = math.prod(parts(leaf.shape, devices)) if is_split else 1
        total += leaf.size * leaf.dtype.itemsize // pieces
    return total


def shapes(layout: Layout | None, state: Any) -> Any:
    """Returns shapes that also say where the arrays of a state lie.

    Args:
      layout: of the run.
      state: arrays or shapes.
    """
    if layout is None:
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.tree.map(lambda leaf: _shape(leaf, here), state)
    return jax.tree.map(_shape, state, _shardings(layout, state))


def _shape(leaf: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _shardings(layout: Layout, state: Any) -> Any:
    """Returns the sharding of each array of a state."""

    def sharding(path: Any, leaf: Any) -> jax.NamedSharding:
        is_split = layout.sharded and not _is_average(path)
        return _split(layout, leaf.shape) if is_split else _whole(layout)

    return jax.tree.map_with_path(sharding, state)


def _is_average(path: Any) -> bool:
    """Returns whether a path in a state is of an average of normalization.

    Each device computes those anyway, and needs them whole.
    """
    return bool(path) and getattr(path[0], "name", None) == _AVERAGES


def _split(layout: Layout, shape: Sequence[int]) -> jax.NamedSharding:
    names = layout.mesh.axis_names
    spec = [
        tuple(names[axis] for axis in axes) for axes in _axes(shape, layout.devices)
    ]
    return jax.NamedSharding(layout.mesh, jax.P(*spec))


def _split_rows(layout: Layout, dimension: int) -> jax.NamedSharding:
    return jax.NamedSharding(
        layout.mesh, jax.P(*[None] * dimension, layout.mesh.axis_names)
    )


def _whole(layout: Layout) -> jax.NamedSharding:
    return jax.NamedSharding(layout.mesh, jax.P())


# Within a program XLA decides where a value lies and spreads what it is told elsewhere:
# a sharded average would make it split activations by channel, or images by row. So
# everything is pinned that the computation on the batch shares with the state.


def whole(layout: Layout | None, tree: Any) -> Any:
    """Pins values of a program whole on each device."""
    if layout is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, _whole(layout))


def gather(layout: Layout | None, tree: Any) -> Any:
    """Returns arrays whole on each device; all processes call this together."""
    return tree if layout is None else _gather(layout, tree)


@functools.partial(jax.jit, static_argnums=0)
def _gather(layout: Layout, tree: Any) -> Any:
    return whole(layout, tree)


def settle(layout: Layout | None, state: Any) -> Any:
    """Pins the state of a run within a program, each array to its place."""
    if layout is None:
        return state
    return jax.lax.with_sharding_constraint(state, _shardings(layout, state))


def whole_params(layout: Layout | None, params: Any) -> Any:
    """Returns the parameters whole on each device, within a program.

    Args:
      layout: of the run.
      params: its parameters; all binary weights are -1 or +1.
    """
    if layout is None:
        return params

    def send(binary: Any, leaf: jax.Array) -> jax.Array:
        if isinstance(binary, optax.MaskedNode):
            return leaf
        return _through_bits(layout, leaf)

    if layout.sharded and layout.bits:
        params = jax.tree.map(
            send,
            optimizers.select_binary(params, params),
            params,
            is_leaf=lambda node: isinstance(node, optax.MaskedNode),
        )
    return whole(layout, params)


def _through_bits(layout: Layout, weights: jax.Array) -> jax.Array:
    """Returns the same weights, gathered as bits if they can be packed."""
    packed = packed_dimension(weights.shape, layout.devices)
    if packed is None:
        return weights
    bits = jnp.packbits(weights > 0, axis=packed)
    # Each part is packed where it lies.
    lying = _split(layout, weights.shape)
    bits = jax.lax.with_sharding_constraint(bits, lying)
    bits = jnp.unpackbits(whole(layout, bits), axis=packed)
    return jnp.where(bits > 0, 1, -1).astype(weights.dtype)


def rows(layout: Layout | None, size: int) -> slice:
    """Returns which rows of a batch the devices of this process take.

    Args:
      layout: of the run.
      size: of the batch; a multiple of the devices.
    """
    if layout is None:
        return slice(0, size)
    share = size // layout.devices
    mine = [
        place
        for place, device in enumerate(layout.mesh.devices.flat)
        if device.process_index == jax.process_index()
    ]
    return slice(mine[0] * share, (mine[-1] + 1) * share)


def put_rows(layout: Layout | None, tree: Any, axis: int = 0) -> Any:
    """Returns arrays on the devices, each of which takes its rows.

    Args:
      layout: of the run.
      tree: arrays of the host: the `rows` of this process.
      axis: along which the rows lie.

    Returns:
      Arrays of all rows, those of other processes included.
    """
    if layout is None:
        return jax.device_put(tree)
    sharding = _split_rows(layout, axis)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)),
        tree,
    )


def put_whole(layout: Layout | None, tree: Any) -> Any:
    """Returns arrays whole on each device.

    Args:
      layout: of the run.
      tree: arrays of the host, the same in each process.
    """
    if layout is None:
        return jax.device_put(tree)
    sharding = _whole(layout)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(
            sharding, np.asarray(leaf), leaf.shape
        ),
        tree,
    )
