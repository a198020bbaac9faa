"""How arrays are split over the devices of a mesh, by their shapes alone."""

import math
from collections.abc import Sequence


def parts(shape: Sequence[int], devices: int) -> tuple[int, ...]:
    """Returns into how many equal parts each dimension of an array is split.

    The largest dimension takes as many of the devices' prime factors as divide it, then
    the next. If some are left, each part lies on several devices.

    Example:
      >>> from sgdat_jax.training.devices import splits
      >>> splits.parts((3, 3, 64, 128), devices=8)
      (1, 1, 1, 8)
      >>> splits.parts((3, 3, 64, 128), devices=1024)
      (1, 1, 8, 128)
      >>> splits.parts((10,), devices=8)
      (2,)
    """
    factors = prime_factors(devices)
    return tuple(
        math.prod(factors[axis] for axis in found) for found in axes(shape, devices)
    )


def axes(shape: Sequence[int], devices: int) -> list[list[int]]:
    """Returns which axes of the mesh split each dimension of an array.

    The mesh has an axis for each of the `prime_factors` of its devices.

    Example:
      >>> from sgdat_jax.training.devices import splits
      >>> splits.axes((10, 64), devices=8)
      [[], [0, 1, 2]]
    """
    factors = prime_factors(devices)
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


def prime_factors(number: int) -> list[int]:
    """Returns the prime factors of a number, in order; none for 1.

    Example:
      >>> from sgdat_jax.training.devices import splits
      >>> splits.prime_factors(12)
      [2, 2, 3]
    """
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors
