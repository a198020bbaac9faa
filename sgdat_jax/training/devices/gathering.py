"""Split parameters made whole on every device: the binary ones travel as bits.

Left to XLA, each array is gathered by itself, and among many devices by adding up
arrays that are zero but for one device's part, which sends several times as much. Here
the parts of all arrays that are split alike become one vector, gathered at once.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sgdat_jax import bits
from sgdat_jax.training.devices import splits

_BITS = 32  # in a word
# TPUs lay vectors out in tiles of so many words. What does not fill them, or is small
# beside the number of devices, XLA adds up instead of gathering: that sends it twice.
_TILE = 1024
_AT_ONCE = 16  # devices: among more it needs more than a megabyte


class _Part(NamedTuple):
    """How one array is split."""

    place: int  # among all arrays
    shape: tuple[int, ...]  # of a device's part
    axes: list[list[int]]  # of the mesh, that split each dimension
    dtype: jnp.dtype
    as_bits: bool

    @property
    def length(self) -> int:
        """Of the part in the vector that is sent."""
        size = math.prod(self.shape)
        return -(-size // _BITS) if self.as_bits else size

    @property
    def group(self) -> tuple[tuple[int, ...], str]:
        """The same for all parts that one vector holds."""
        kind = "bits" if self.as_bits else str(self.dtype)
        return tuple(sorted(itertools.chain(*self.axes))), kind


def whole(
    mesh: jax.sharding.Mesh, arrays: Sequence[jax.Array], as_bits: Sequence[bool]
) -> list[jax.Array]:
    """Returns arrays whole on each device, within a program.

    Args:
      mesh: of the devices, an axis for each prime factor of their number.
      arrays: each split as `splits.axes` says.
      as_bits: which of them are of -1 and +1 alone, and travel as bits.
    """
    if not all(array.size for array in arrays):  # jaxlib 0.11.2 crashes on empty ones
        filled = [place for place, array in enumerate(arrays) if array.size]
        some, packed = [arrays[i] for i in filled], [as_bits[i] for i in filled]
        found = dict(zip(filled, whole(mesh, some, packed), strict=True))
        return [found.get(place, array) for place, array in enumerate(arrays)]
    sizes = splits.prime_factors(mesh.size)
    parts, specs = [], []
    for place, (array, packs) in enumerate(zip(arrays, as_bits, strict=True)):
        axes = splits.axes(array.shape, mesh.size)
        pieces = splits.parts(array.shape, mesh.size)
        shape = tuple(n // k for n, k in zip(array.shape, pieces, strict=True))
        parts.append(_Part(place, shape, axes, array.dtype, packs))
        names = [tuple(mesh.axis_names[axis] for axis in found) for found in axes]
        specs.append(jax.P(*names))
    groups: dict[tuple[tuple[int, ...], str], list[_Part]] = {}
    for part in parts:
        groups.setdefault(part.group, []).append(part)

    def gather(*held: jax.Array) -> list[jax.Array]:
        found = list(held)
        for (axes, _), members in groups.items():
            if not axes:
                continue  # whole already
            vector = jnp.concatenate([_to_send(part, held) for part in members])
            rows = _rows(vector, mesh, axes)
            ends = list(itertools.accumulate(part.length for part in members))
            for part, end in zip(members, ends, strict=True):
                mine = rows[:, end - part.length : end]
                found[part.place] = _join(part, mine, axes, sizes)
        return found

    # All devices hold the same in the end, which jax does not see by itself.
    return jax.shard_map(
        gather,
        mesh=mesh,
        in_specs=tuple(specs),
        out_specs=[jax.P()] * len(specs),
        check_vma=False,
    )(*arrays)


def _to_send(part: _Part, held: Sequence[jax.Array]) -> jax.Array:
    flat = held[part.place].reshape(-1)
    if not part.as_bits:
        return flat
    filled = jnp.pad(flat, (0, _BITS * part.length - flat.size))
    # A word's signs lie far from each other, so that neighbours stay neighbours.
    return bits.pack(filled.reshape(_BITS, -1), axis=0)[0]


def _rows(vector: jax.Array, mesh: jax.sharding.Mesh, axes: Sequence[int]) -> jax.Array:
    """Returns the vectors of all devices along some axes of the mesh, one per row.

    Near devices exchange theirs first; these then send them on as one.
    """
    length, rows = vector.size, 1
    for stage in _stages(mesh.devices.shape, axes):
        names = tuple(mesh.axis_names[axis] for axis in stage)
        sent = vector.reshape(-1)
        if (filled := -sent.size % _TILE) * 10 <= sent.size:
            sent = jnp.pad(sent, (0, filled))
        found = jax.lax.all_gather(sent, names, tiled=True)
        devices = found.size // sent.size
        vector = found.reshape(devices, -1)[:, : rows * length]
        rows *= devices
    return vector.reshape(rows, length)


def _stages(sizes: Sequence[int], axes: Sequence[int]) -> list[list[int]]:
    """Divides axes of a mesh of some sizes, the last first, into groups."""
    stages: list[list[int]] = []
    devices = _AT_ONCE
    for axis in reversed(axes):
        if devices * sizes[axis] > _AT_ONCE:
            stages.append([])
            devices = 1
        stages[-1].insert(0, axis)
        devices *= sizes[axis]
    return stages


def _join(
    part: _Part, rows: jax.Array, axes: Sequence[int], sizes: Sequence[int]
) -> jax.Array:
    """Returns the whole array.

    Args:
      part: how it is split.
      rows: what each device has sent.
      axes: of the mesh, by which the rows are numbered.
      sizes: of all axes of the mesh.
    """
    if part.as_bits:
        signs = bits.unpack(rows[:, jnp.newaxis], _BITS, axis=1, dtype=jnp.int8)
        rows = signs.reshape(len(rows), -1)[:, : math.prod(part.shape)]
    splitting = {axis: d for d, found in enumerate(part.axes) for axis in found}
    # Neighbours that split the same dimension are one: few dimensions are fast ones.
    runs = [(d, list(run)) for d, run in itertools.groupby(axes, splitting.get)]
    numbers = [math.prod(sizes[axis] for axis in run) for _, run in runs]
    order = []
    for dimension in range(len(part.shape)):
        order += [place for place, (d, _) in enumerate(runs) if d == dimension]
        order.append(len(runs) + dimension)
    shape = [
        size * math.prod(sizes[axis] for axis in found)
        for size, found in zip(part.shape, part.axes, strict=True)
    ]
    joined = rows.reshape(*numbers, *part.shape).transpose(order).reshape(shape)
    if part.as_bits:
        # They wait in memory until the backward pass: a quarter of float32's.
        joined = jax.lax.optimization_barrier(joined)
    return joined.astype(part.dtype)
