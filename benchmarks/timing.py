"""Times of programs that take turns, and ratios of times of the same turn.

On a machine that others use as well, times follow the load. Two programs that run right
after one another see nearly the same load, so the median of their paired ratios says
more than the ratio of their medians. Nothing here knows of optimizers or networks.
"""

import contextlib
import datetime
import importlib.metadata
import os
import pathlib
import platform
import shlex
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sgdat_jax import files

_PACKAGES = ("sgdat-jax", "jax", "jaxlib", "optax", "flax", "numpy", "torch")
_MEMINFO = pathlib.Path("/proc/meminfo")
_CPUINFO = pathlib.Path("/proc/cpuinfo")
_VECTORS = {"sse2": 128, "avx2": 256, "avx512f": 512}  # by their flags in Linux


class Samples(NamedTuple):
    """Seconds of each program in each round, of shape (rounds, programs)."""

    wall: np.ndarray
    cpu: np.ndarray  # of all threads of this process, which other processes spare


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float


def take_turns(
    programs: Sequence[Callable[[], Any]],
    *,
    rounds: int,
    seconds: float = float("inf"),
    warmup: int = 2,
) -> Samples:
    """Times programs that run one after another, round after round.

    Each round has another order, by chance, so that no program follows itself, and
    finds its arrays in the caches, more often than the others do.

    Args:
      programs: each does its work once and returns what must be ready by then.
      rounds: how many are timed.
      seconds: of rounds, after which no other is begun; five are made at least.
      warmup: rounds before those that are timed.

    Example:
      >>> import numpy as np
      >>> from benchmarks import timing
      >>> small, large = np.ones(1000), np.ones(1_000_000)
      >>> samples = timing.take_turns([small.sum, large.sum], rounds=9)
      >>> timing.paired_ratio(samples.wall, 1, 0).median > 1
      True
    """
    wall, cpu = [], []
    chance = np.random.default_rng(0)
    for turn in range(-warmup, rounds):
        if turn <= 0:
            begun = time.perf_counter()  # not before warm-up, which compiles
        if turn >= 5 and time.perf_counter() - begun > seconds:
            break
        times = {i: _times(programs[i]) for i in chance.permutation(len(programs))}
        if turn >= 0:
            wall.append([times[i][0] for i in range(len(programs))])
            cpu.append([times[i][1] for i in range(len(programs))])
    return Samples(np.array(wall), np.array(cpu))


def spread(values: np.ndarray) -> Spread:
    """Returns the median and the quartiles of measured values."""
    return Spread(*(float(np.percentile(values, share)) for share in (50, 25, 75)))


def paired_ratio(seconds: np.ndarray, program: int, rival: int) -> Spread:
    """Returns the spread of one program's times over another's in the same round."""
    return spread(seconds[:, program] / seconds[:, rival])


def copier(weights: int) -> Callable[[], jax.Array]:
    """Returns a program that adds 1 to an array in place: memory's own speed.

    Args:
      weights: size of the array, of float32; each takes 8 bytes, read and written.
    """
    add_one = jax.jit(lambda x: x + 1, donate_argnums=0)
    held = [jnp.zeros(weights, jnp.float32)]

    def run():
        held[0] = add_one(held[0])
        return held[0]

    return run


def free_memory() -> float:
    """Returns the free bytes of the first device; infinity where it does not tell."""
    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    if device.platform == "cpu" and _MEMINFO.exists():
        return 1024 * int(_field(_MEMINFO, "MemAvailable").split()[0])
    return float("inf")


def circumstances() -> dict[str, Any]:
    """Returns what a result needs beside it: machine, versions, date and command."""
    return {
        "command": " ".join(["python", "-m", _module(), *map(shlex.quote, _options())]),
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "processor": _field(_CPUINFO, "model name") or platform.processor(),
        "vector_bits": vector_bits(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": versions(_PACKAGES),
    }


def vector_bits() -> int | None:
    """Returns the width of the processor's vectors; None where it does not tell."""
    flags = _field(_CPUINFO, "flags").split()
    found = [bits for flag, bits in _VECTORS.items() if flag in flags]
    return max(found, default=None)


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Returns the versions of those packages that are installed."""
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def write(file: pathlib.Path, result: Mapping[str, Any]) -> None:
    """Writes a result as JSON, with what it needs beside it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(file, circumstances() | result)


def show(rows: Sequence[Mapping[str, str]], names: Collection[str]) -> None:
    """Prints rows as a table.

    Args:
      rows: cells by the name of their column, the same names in each.
      names: the columns that hold no numbers.
    """
    from rich import box, console, table

    shown = table.Table(box=box.SIMPLE)
    for name in rows[0]:
        shown.add_column(name, justify="left" if name in names else "right")
    for row in rows:
        shown.add_row(*row.values())
    console.Console(width=100).print(shown)


def ratio_text(ratio: Mapping[str, float]) -> str:
    """Returns a spread of ratios, as a row of results holds it, as text."""
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _times(program: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(program())
    return time.perf_counter() - wall, time.process_time() - cpu


def _field(path: pathlib.Path, name: str) -> str:
    lines = path.read_text().splitlines() if path.exists() else []
    values = [line.partition(":")[2].strip() for line in lines if line.startswith(name)]
    return values[0] if values else ""


def _module() -> str:
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else pathlib.Path(sys.argv[0]).name


def _options() -> list[str]:
    return sys.argv[1:]
