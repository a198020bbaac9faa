"""TPUs: their published rates, and devices to compile for that need not be there.

Sources, read in November 2026: https://docs.cloud.google.com/tpu/docs/v5e, .../v5p and
.../v6e. Rates are peaks. Links are given there in both directions together (v5e: 400
gigabytes a second, v6e: 800) or, of v5p, as 4,800 gigabits; here as what a chip sends.
"""

import os
from typing import Any, NamedTuple

from jax.experimental import topologies

# Read when libtpu is loaded. It would ask a cloud's metadata server, lock a file that
# other processes need as well, and look for other hosts.
_WITHOUT_A_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
_FLAT = {
    4: "2x2",
    8: "2x4",
    16: "4x4",
    64: "8x8",
    256: "16x16",
}
_CUBES = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 64: "4x4x4", 256: "4x8x8"}


class Chip(NamedTuple):
    """What a chip can do, in a second."""

    operations: float  # in bfloat16; its matrix units make float32 of it, too
    int8_operations: float
    hbm_bytes: float
    sent_bytes: float
    memory: float  # bytes
    topologies: dict[int, str]  # by their number of chips


CHIPS = {
    "v5e": Chip(197e12, 393e12, 819e9, 200e9, 16e9, _FLAT),
    # Its page names no rate of int8; its matrix units are counted as for bfloat16.
    "v5p": Chip(459e12, 459e12, 2765e9, 600e9, 95e9, _CUBES),
    "v6e": Chip(918e12, 1836e12, 1600e9, 400e9, 32e9, _FLAT),
}


def devices(chip: str, count: int) -> list[Any]:
    """Returns chips that programs can be compiled for; needs libtpu and no TPU."""
    for name, value in _WITHOUT_A_TPU.items():
        os.environ.setdefault(name, value)
    shape = CHIPS[chip].topologies[max(count, 4)]
    described = topologies.get_topology_desc(
        platform="tpu", topology_name=f"{chip}:{shape}"
    )
    return list(described.devices)[:count]
