"""The machine that a mesh is chosen and a plan is made for."""

import math
from dataclasses import dataclass

from sae_dist.common.settings import setting

_GIGA = 1e9


@dataclass(kw_only=True, slots=True)
class MachineConfig:
    """Devices, and what each of them does a second; ready ones stand in `conf/machine/`.

    A message takes `latency_us` however small it is, and its bytes leave a device at `in_node_gbps`
    where all who talk are in one node, at `between_nodes_gbps` where they are in several: GB/s that
    are reached, as `sae-dist selftest` measures them. These three, `devices_per_node` (where the
    launcher does not say it) and `memory_gib` are what training reads, to choose its meshes; all
    else is for plans.

    `flops` are those of bfloat16 products with float32 sums, `flops_float32` those of float32 ones,
    `memory_gbps` what a device reads of its memory, in GB/s: peaks, of which a program reaches the
    share `efficiency`. `disk_gbps` is what all devices together read or write, as it is measured;
    `disk_free_gb` None stands for what is free here.
    """

    devices: int = setting(8, min=1)
    devices_per_node: int = setting(8, min=1)
    memory_gib: float = setting(74.5, above=0)
    flops: float = setting(989.4e12, above=0)
    flops_float32: float = setting(66.9e12, above=0)
    memory_gbps: float = setting(3350.0, above=0)
    latency_us: float = setting(20.0, min=0)
    in_node_gbps: float = setting(225.0, above=0)
    between_nodes_gbps: float = setting(25.0, above=0)
    disk_gbps: float = setting(1.0, above=0)
    disk_free_gb: float | None = setting(None, min=0)
    efficiency: float = setting(0.5, above=0, max=1)

    @property
    def disk_free_bytes(self) -> float:
        """Endless where nobody says."""
        return math.inf if self.disk_free_gb is None else self.disk_free_gb * _GIGA

    @property
    def memory_bytes(self) -> float:
        """Of one device."""
        return self.memory_gib * 2**30

    def seconds_of_products(self, flops: float, *, is_float32: bool = False) -> float:
        """What one device takes for a number of floating-point operations in dense products."""
        return flops / (self.efficiency * (self.flops_float32 if is_float32 else self.flops))

    def seconds_of_memory(self, num_bytes: float) -> float:
        """What one device takes to read or write as much of its memory."""
        return num_bytes / (self.efficiency * self.memory_gbps * _GIGA)

    def seconds_of_message(self, num_bytes: float, *, is_in_node: bool) -> float:
        """What one device takes to send as much in one message."""
        rate = self.in_node_gbps if is_in_node else self.between_nodes_gbps
        return 1e-6 * self.latency_us + num_bytes / (rate * _GIGA)

    def seconds_of_disk(self, num_bytes: float) -> float:
        """What all devices together take to read or write as much."""
        return num_bytes / (self.disk_gbps * _GIGA)
