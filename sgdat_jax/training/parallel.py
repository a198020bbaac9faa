"""Training over many devices and many hosts.

Each device takes an equal share of every batch. Gradients and the statistics of batch
normalization are of the whole batch, so a run means the same on any number of devices;
only sums are taken in another order. The state of a run is copied to every device, or
*sharded*: each array of weights and optimizers is split along one dimension, and each
device updates its part. A step then gathers the weights, the binary ones as bits, and
computes with them as if they had been there all along.

There is one program, compiled by `jax.jit` for arrays that lie on one axis of devices,
and the optimizers know nothing of it. The functions that pin values within it do
nothing where there is no layout, so that a run on one device compiles to what it always
was.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sgdat_jax import optimizers

_AXIS = "devices"
_BITS = 8  # in a byte
_AVERAGES = "stats"  # the field of `TrainState`


class Layout(NamedTuple):
    """How a run lies on several devices; hashable, as programs are compiled for it."""

    mesh: jax.sharding.Mesh  # of one axis, the devices of a process side by side
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
    axis_types = (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.Mesh(np.array(ordered), (_AXIS,), axis_types=axis_types)
    return Layout(mesh, sharded, bits)


def check_batch_size(layout: Layout | None, batch_size: int) -> None:
    """Raises ValueError if a batch does not divide evenly among the devices."""
    if layout is not None and batch_size % layout.devices:
        raise ValueError(
            f"batch_size must be a multiple of the {layout.devices} devices, got "
            f"{batch_size}."
        )


def split_dimension(shape: Sequence[int], parts: int) -> int | None:
    """Returns along which dimension an array is split into equal parts.

    It is the largest of those that so many parts divide, the first of equal ones; None
    if there is none: then every device holds the whole array.

    Example:
      >>> from sgdat_jax.training import parallel
      >>> parallel.split_dimension((3, 3, 64, 128), parts=8)
      3
      >>> parallel.split_dimension((10,), parts=8) is None
      True
    """
    fit = [axis for axis, size in enumerate(shape) if size and size % parts == 0]
    return max(fit, key=lambda axis: shape[axis], default=None)


def bytes_per_device(state: Any, devices: int, *, sharded: bool) -> int:
    """Returns the bytes that each device holds of a state, or of its shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> from sgdat_jax.training import parallel
      >>> state = {"kernel": jnp.ones((16, 10)), "bias": jnp.ones(10)}
      >>> parallel.bytes_per_device(state, 8, sharded=True)  # 2 rows and the bias
      120
    """
    total = 0
    for path, leaf in jax.tree.leaves_with_path(state):
        is_split = sharded and _state_dimension(path, leaf, devices) is not None
        total += leaf.size * leaf.dtype.itemsize // (devices if is_split else 1)
    return total


def shapes(layout: Layout | None, state: Any) -> Any:
    """Returns shapes that also say where the arrays of a state lie.

    Args:
      layout: of the run.
      state: arrays or shapes.
    """
    if layout is None:
        return jax.tree.map(_shape, state)
    return jax.tree.map(_shape, state, _shardings(layout, state))


def _shape(leaf: Any, sharding: Any = None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _shardings(layout: Layout, state: Any) -> Any:
    """Returns the sharding of each array of a state."""

    def sharding(path: Any, leaf: Any) -> jax.NamedSharding:
        if not layout.sharded:
            return _split(layout, None)
        return _split(layout, _state_dimension(path, leaf, layout.devices))

    return jax.tree.map_with_path(sharding, state)


def _state_dimension(path: Any, leaf: Any, parts: int) -> int | None:
    """Returns along which dimension an array of a state is split."""
    # Each device computes the averages of normalization anyway, and needs them whole.
    if path and getattr(path[0], "name", None) == _AVERAGES:
        return None
    return split_dimension(leaf.shape, parts)


def _split(layout: Layout, axis: int | None) -> jax.NamedSharding:
    """Returns the sharding that splits a dimension; None: whole on each device."""
    spec = jax.P() if axis is None else jax.P(*[None] * axis, _AXIS)
    return jax.NamedSharding(layout.mesh, spec)


# Within a program XLA decides where a value lies and spreads what it is told elsewhere:
# a sharded average would make it split activations by channel, or images by row. So
# everything is pinned that the computation on the batch shares with the state.


def whole(layout: Layout | None, tree: Any) -> Any:
    """Pins values of a program whole on each device."""
    if layout is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, _split(layout, None))


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
    """Returns the same weights, gathered as bits where whole bytes can be split."""
    axis = split_dimension(weights.shape, layout.devices)
    if axis is None or weights.shape[axis] % (_BITS * layout.devices):
        return weights
    bits = jnp.packbits(weights > 0, axis=axis)
    bits = jax.lax.with_sharding_constraint(bits, _split(layout, axis))
    bits = jnp.unpackbits(whole(layout, bits), axis=axis)
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
        for place, device in enumerate(layout.mesh.devices)
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
    return _put(layout, tree, axis)


def put_whole(layout: Layout | None, tree: Any) -> Any:
    """Returns arrays whole on each device.

    Args:
      layout: of the run.
      tree: arrays of the host, the same in each process.
    """
    return _put(layout, tree, None)


def _put(layout: Layout | None, tree: Any, axis: int | None) -> Any:
    if layout is None:
        return jax.device_put(tree)
    sharding = _split(layout, axis)

    def put(leaf: Any) -> jax.Array:
        shape = leaf.shape if axis is None else None  # None: of all processes together
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf), shape)

    return jax.tree.map(put, tree)
