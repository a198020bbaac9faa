"""TPUs and GPUs: their published rates, and devices to compile for that are not there.

Sources, read in November 2026: https://docs.cloud.google.com/tpu/docs/v5e, .../v5p and
.../v6e; https://www.nvidia.com/en-us/data-center/h100 and .../h200 (SXM, without
sparsity). Rates are peaks. Links are given there in both directions together (v5e: 400
gigabytes a second, v6e: 800, GPUs: 900) or, of v5p, as 4,800 gigabits; here as what a
chip sends.
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
    topologies: dict[int, str]  # by their number of chips; a GPU has none


CHIPS = {
    "v5e": Chip(197e12, 393e12, 819e9, 200e9, 16e9, _FLAT),
    # Its page names no rate of int8; its matrix units are counted as for bfloat16.
    "v5p": Chip(459e12, 459e12, 2765e9, 600e9, 95e9, _CUBES),
    "v6e": Chip(918e12, 1836e12, 1600e9, 400e9, 32e9, _FLAT),
    "H100": Chip(989e12, 1979e12, 3350e9, 450e9, 80e9, {}),
    "H200": Chip(989e12, 1979e12, 4800e9, 450e9, 141e9, {}),
}
TPUS = [name for name, chip in CHIPS.items() if chip.topologies]
_HOPPER = """\
gpu_device_info {{
  name: "NVIDIA {name}"
  device_vendor: "NVIDIA Corporation"
  platform_version: "Compute Capability 9.0a"
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.10.0"
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: {memory:.0f}
  memory_bandwidth: {bandwidth:.0f}
  l2_cache_size: 52428800
  pcie_bandwidth: 64000000000
  device_address_bits: 64
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "NVIDIA {name}"
"""


def devices(chip: str, count: int) -> list[Any]:
    """Returns chips that programs can be compiled for.

    It needs libtpu and no TPU, or JAX's CUDA plug-in and neither GPU nor driver.

    Args:
      chip: one of `CHIPS`.
      count: how many; GPUs are one.
    """
    if chip not in TPUS:
        assert count == 1, "Programs for several GPUs were never tried."
        return [_gpu(chip)]
    for name, value in _WITHOUT_A_TPU.items():
        os.environ.setdefault(name, value)
    shape = CHIPS[chip].topologies[max(count, 4)]
    described = topologies.get_topology_desc(
        platform="tpu", topology_name=f"{chip}:{shape}"
    )
    return list(described.devices)[:count]


def _gpu(chip: str) -> Any:
    """Returns a GPU as XLA knows it by a description, in the text of its protobuf."""
    rates = CHIPS[chip]
    text = _HOPPER.format(name=chip, memory=rates.memory, bandwidth=rates.hbm_bytes)
    described = topologies.get_topology_desc(
        platform="cuda", target_config=text, topology="1x1x1"
    )
    return described.devices[0]
