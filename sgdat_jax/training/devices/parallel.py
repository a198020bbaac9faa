"""Training over many devices and many hosts.

Each device takes an equal share of every batch. Gradients and the statistics of batch
normalization are of the whole batch, so a run means the same on any number of devices.
The state of a run is copied to every device, or *sharded*: each array of weights and
optimizers is split as evenly as its dimensions allow, and each device updates its part.
A step then gathers the weights, the binary ones as bits, and computes with them as if
they had been there all along. Of the gradients each device needs its part, and XLA may
reduce and scatter them: half of what is sent to add them up whole.

What differs from one device is the order of sums: of those over the batch, whose parts
are added in the dtype of the layer's products (bfloat16 with ``dtype=jnp.bfloat16``),
and, sharded, of those over a whole gradient, as for its norm. Sharded, a device that
sees a whole batch may also compute its part of a gradient alone, in another order; with
``scatter=False`` it does not, and has the bits of one device, as with a copied state.

There is one program, compiled by `jax.jit` for arrays that lie on a mesh of devices,
and the optimizers know nothing of it. One device is a mesh, too: there the functions
that pin values within a program return them as they are, and its program has no trace
of a mesh.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from sgdat_jax.optimizers import binary
from sgdat_jax.training.devices import gathering, splits

_AVERAGES = "stats"  # the field of `TrainState`


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the arrays of a run lie; hashable, as programs are compiled for it.

    Make one by `lay_out`. The devices need not be there: with those of a topology (see
    `jax.experimental.topologies`) programs can be compiled, though not run.
    """

    # An axis for each prime factor of their number; those of a process lie together.
    mesh: jax.sharding.Mesh
    sharded: bool = False  # whether each of many devices holds but its part of a state
    bits: bool = True  # whether the parts of binary weights are gathered as bits
    scatter: bool = True  # whether gradients may be summed up by parts

    @property
    def devices(self) -> int:
        """How many devices there are, on all hosts."""
        return self.mesh.size

    @property
    def first(self) -> jax.Device:
        """The first device; all are of its kind."""
        return self.mesh.devices.flat[0]

    @property
    def platform(self) -> str:
        """What all devices are: ``"cpu"``, ``"gpu"`` or ``"tpu"``."""
        return self.first.platform

    def check_batch_size(self, batch_size: int) -> None:
        """Raises ValueError if a batch does not divide evenly among the devices."""
        if batch_size % self.devices:
            raise ValueError(
                f"batch_size must be a multiple of the {self.devices} devices, got "
                f"{batch_size}."
            )

    def shapes(self, state: Any) -> Any:
        """Returns shapes that also say where the arrays of a state lie.

        Args:
          state: of a run; arrays or shapes.
        """
        return jax.tree.map(_shape, state, self._shardings(state))

    def row_shapes(self, tree: Any, axis: int = 0) -> Any:
        """Returns the shapes of what `put_rows` returns.

        Args:
          tree: arrays or shapes of all rows.
          axis: along which the rows lie.
        """
        sharding = self._split_rows(axis)
        return jax.tree.map(lambda leaf: _shape(leaf, sharding), tree)

    def whole_shapes(self, tree: Any) -> Any:
        """Returns the shapes of what `put_whole` returns, for arrays or shapes."""
        return jax.tree.map(lambda leaf: _shape(leaf, self._whole), tree)

    # Within a program XLA decides where a value lies and spreads what it is told
    # elsewhere: a sharded average would make it split activations by channel, or images
    # by row. So everything is pinned that the computation on the batch shares with the
    # state.

    def whole(self, tree: Any) -> Any:
        """Pins values of a program whole on each device."""
        return self._pin(tree, self._whole)

    def settle(self, state: Any) -> Any:
        """Pins the state of a run within a program, each array to its place."""
        return self._pin(state, self._shardings(state))

    def sums(self, gradients: Any) -> Any:
        """Pins gradients within a program: their parts to the devices that need them.

        Args:
          gradients: by all parameters; over the whole batch.
        """
        # Whole first: else XLA would split the work by channels, not by images.
        gradients = self.whole(gradients)
        return self.settle(gradients) if self.sharded and self.scatter else gradients

    def whole_params(self, params: Any, opt_state: Any) -> Any:
        """Returns the parameters whole on each device, within a program.

        Args:
          params: parameters of the run.
          opt_state: of its optimizers; the weights that one of them flips, and no
            others of binary layers, are -1 and +1 alone and travel as bits.
        """
        if not self.sharded:
            return self.whole(params)
        flipped = jax.tree.leaves_with_path(binary.trained_weights(opt_state))
        paths = {jax.tree_util.keystr(path) for path, _ in flipped}
        held, structure = jax.tree.flatten_with_path(params)
        as_bits = [
            self.bits and jax.tree_util.keystr(path) in paths for path, _ in held
        ]
        found = gathering.whole(self.mesh, [leaf for _, leaf in held], as_bits)
        return self.whole(jax.tree.unflatten(structure, found))

    def gather(self, tree: Any) -> Any:
        """Returns arrays whole on each device; all processes call this together."""
        return tree if self._is_alone else _gather(self, tree)

    def rows(self, size: int) -> slice:
        """Returns which rows of a batch the devices of this process take.

        Args:
          size: of the batch; a multiple of the devices.
        """
        share = size // self.devices
        mine = [
            place
            for place, device in enumerate(self.mesh.devices.flat)
            if device.process_index == jax.process_index()
        ]
        return slice(mine[0] * share, (mine[-1] + 1) * share)

    def put_rows(self, tree: Any, axis: int = 0) -> Any:
        """Returns arrays on the devices; each device takes its rows.

        Args:
          tree: arrays of the host: the `rows` of this process.
          axis: along which the rows lie.

        Returns:
          Arrays of all rows, those of other processes included.
        """
        if self._is_alone:
            return self._put(tree)
        sharding = self._split_rows(axis)
        return jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(
                sharding, np.asarray(leaf)
            ),
            tree,
        )

    def put_whole(self, tree: Any) -> Any:
        """Returns arrays whole on each device.

        Args:
          tree: arrays of the host, the same in each process.
        """
        if self._is_alone:
            return self._put(tree)
        return jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(
                self._whole, np.asarray(leaf), leaf.shape
            ),
            tree,
        )

    @property
    def _is_alone(self) -> bool:
        return self.devices == 1

    @property
    def _whole(self) -> jax.sharding.Sharding:
        return self._sharding(jax.P())

    def _split_rows(self, dimension: int) -> jax.sharding.Sharding:
        return self._sharding(jax.P(*[None] * dimension, self.mesh.axis_names))

    def _split(self, shape: Sequence[int]) -> jax.sharding.Sharding:
        names = self.mesh.axis_names
        found = splits.axes(shape, self.devices)
        spec = [tuple(names[axis] for axis in axes) for axes in found]
        return self._sharding(jax.P(*spec))

    def _sharding(self, spec: jax.P) -> jax.sharding.Sharding:
        # Of one device a mesh would still show in its programs.
        if self._is_alone:
            return jax.sharding.SingleDeviceSharding(self.first)
        return jax.NamedSharding(self.mesh, spec)

    def _shardings(self, state: Any) -> Any:
        """Returns the sharding of each array of a state."""

        def sharding(path: Any, leaf: Any) -> jax.sharding.Sharding:
            is_split = self.sharded and not _is_average(path)
            return self._split(leaf.shape) if is_split else self._whole

        return jax.tree.map_with_path(sharding, state)

    def _pin(self, tree: Any, shardings: Any) -> Any:
        if self._is_alone:
            return tree
        return jax.lax.with_sharding_constraint(tree, shardings)

    def _put(self, tree: Any) -> Any:
        # Arrays that are bound to the device that jax chooses anyway would have the
        # programs compiled twice: the first state of a run is bound to none.
        is_default = self.first == jax.local_devices()[0]
        return jax.device_put(tree, None if is_default else self.first)


def lay_out(
    devices: Sequence[jax.Device],
    *,
    sharded: bool = False,
    bits: bool = True,
    scatter: bool = True,
) -> Layout:
    """Returns how a run lies on devices.

    Args:
      devices: of all hosts, in any order; one, or many of a kind.
      sharded: whether the state is split, rather than copied to each of many devices.
      bits: whether split binary weights travel as bits, a 32nd of float32, or as they
        are stored.
      scatter: whether gradients of a split state may be summed up by parts, half of the
        bytes, or are made whole first.

    Example:
      >>> import jax
      >>> from sgdat_jax.training.devices import parallel
      >>> layout = parallel.lay_out(jax.devices()[:1])
      >>> layout.devices, layout.sharded
      (1, False)
    """
    # Then the share of a process is one slice of a batch, whatever the numbering.
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    shape = splits.prime_factors(len(devices)) or [1]
    mesh = jax.sharding.Mesh(
        np.array(ordered).reshape(shape),
        tuple(f"axis{number}" for number in range(len(shape))),
        axis_types=(jax.sharding.AxisType.Auto,) * len(shape),
    )
    return Layout(mesh, sharded and len(devices) > 1, bits, scatter)


def bytes_per_device(state: Any, devices: int, *, sharded: bool) -> int:
    """Returns the bytes that each device holds of a state, or of its shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> from sgdat_jax.training.devices import parallel
      >>> state = {"kernel": jnp.ones((16, 10)), "bias": jnp.ones(10)}
      >>> parallel.bytes_per_device(state, 8, sharded=True)  # 2 rows, half the bias
      100
    """
    total = 0
    for path, leaf in jax.tree.leaves_with_path(state):
        is_split = sharded and not _is_average(path)
        pieces = math.prod(splits.parts(leaf.shape, devices)) if is_split else 1
        total += leaf.size * leaf.dtype.itemsize // pieces
    return total


def _shape(leaf: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _is_average(path: Any) -> bool:
    """Returns whether a path in a state is of an average of normalization.

    Each device computes those anyway, and needs them whole.
    """
    return bool(path) and getattr(path[0], "name", None) == _AVERAGES


@functools.partial(jax.jit, static_argnums=0)
def _gather(layout: Layout, tree: Any) -> Any:
    return layout.whole(tree)
