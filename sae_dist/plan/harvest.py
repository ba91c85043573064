"""What a harvest takes: bytes on disk, operations, hours and memory."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from sae_dist.common.dtypes import FloatDtype
from sae_dist.lm import LMSize
from sae_dist.parallel import MachineConfig
from sae_dist.store import StoreConfig
from sae_dist.store.layout import Layout
from sae_dist.store.records import choose_settings

_SHARDS_HELD = 2  # by a process, in host memory: one is filled while the other is written
_RESIDUALS, _INNER = 4, 3  # tensors of d_model and d_mlp that live at once in a layer, about
_SCORES_BYTES = 4  # beside the scores in the model's dtype, eager attention's softmax in float32


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """How many tokens are harvested, in sequences of what length, how many to a forward pass."""

    num_tokens: int
    sequence_length: int
    batch_sequences: int


@dataclass(frozen=True, kw_only=True, slots=True)
class HarvestPlan:
    """A harvest's cost.

    Attributes:
        layout: the store's grid.
        bytes_by_array: on disk, of each site and of the tokens; exact but for the JSON files. Empty
            where nothing is stored.
        file_bytes: of the largest file.
        training_tokens: that are not held out.
        flops: of all forward passes, up to the deepest site.
        compute_hours, disk_hours: on all devices together; the longer one counts.
        device_bytes, host_bytes: that one process holds, by what for; `working` is estimated.
    """

    layout: Layout
    bytes_by_array: dict[str, int]
    file_bytes: int
    training_tokens: int
    flops: float
    compute_hours: float
    disk_hours: float
    device_bytes: dict[str, int]
    host_bytes: dict[str, int]
    warnings: list[str]

    @property
    def is_stored(self) -> bool:
        """Whether there is a store: not with `store=live`."""
        return bool(self.bytes_by_array)

    @property
    def store_bytes(self) -> int:
        """Of all arrays together."""
        return sum(self.bytes_by_array.values())

    @property
    def hours(self) -> float:
        """Forward passes and writing go on at once."""
        return max(self.compute_hours, self.disk_hours)


def plan_harvest(
    size: LMSize,
    tokens: Tokens,
    store: StoreConfig,
    machine: MachineConfig,
    *,
    tensor: int = 1,
    max_shard_bytes: int = 2**30,
) -> HarvestPlan:
    """The cost of harvesting `tokens` at the sites of `size`.

    Args:
        tensor: processes that share one LM.
        max_shard_bytes: the largest file that training will read.

    Raises:
        UserError: a store of such settings cannot be.
    """
    num_sequences = tokens.num_tokens // tokens.sequence_length
    settings = choose_settings(size.widths, tokens.sequence_length, store, {}, num_sequences)
    layout = settings.layout(num_sequences)
    by_array: Counter[str] = Counter()
    for path, num_bytes in settings.bytes_by_array(num_sequences).items():
        by_array[path.partition("/")[2].removeprefix("activations/")] += num_bytes
    flops, seconds = lm_cost(num_sequences * tokens.sequence_length, size, tokens, machine)
    plan = HarvestPlan(
        layout=layout,
        bytes_by_array=dict(by_array),
        file_bytes=max(spec.shard_bytes for spec in settings.specs().values()),
        training_tokens=round(num_sequences * (1 - store.held_out)) * tokens.sequence_length,
        flops=flops,
        compute_hours=seconds / machine.devices / 3600,
        disk_hours=machine.seconds_of_disk(sum(by_array.values())) / 3600,
        device_bytes=_device_bytes(size, tokens, tensor),
        host_bytes={"shards": _host_bytes(layout, size, store)},
        warnings=[],
    )
    plan.warnings.extend(_warnings(plan, store, machine, max_shard_bytes))
    return plan


def lm_cost(
    num_tokens: int, size: LMSize, tokens: Tokens, machine: MachineConfig
) -> tuple[float, float]:
    """Operations of forward passes over `num_tokens`, and seconds that one device takes."""
    flops = float(num_tokens * size.flops_per_token(tokens.sequence_length))
    return flops, machine.seconds_of_products(flops, is_float32=size.bytes_per_value == 4)


def _host_bytes(layout: Layout, size: LMSize, store: StoreConfig) -> int:
    """Of the harvest's shards; in eight bits one is quantised, and restored for its statistics."""
    num = min(layout.shard_sequences, layout.num_sequences) * layout.sequence_length
    shards = _SHARDS_HELD + (1.5 if store.dtype is FloatDtype.int8 else 0)
    return round(shards * num * sum(size.widths.values()) * store.dtype.storage.itemsize)


def _device_bytes(size: LMSize, tokens: Tokens, tensor: int) -> dict[str, int]:
    """The LM, which is loaded whole before its last layers go; what is kept; what a layer needs."""
    num = tokens.batch_sequences * tokens.sequence_length
    working = num * (_RESIDUALS * size.d_model + _INNER * size.d_mlp) * size.bytes_per_value
    if size.is_eager:
        scores = num * tokens.sequence_length * size.num_heads
        working += scores * (size.bytes_per_value + _SCORES_BYTES)
    return {
        "weights": size.parameters * size.bytes_per_value // tensor,
        "sites": num * sum(size.widths.values()) * size.bytes_per_value,
        "working": working,
    }


def _warnings(
    plan: HarvestPlan, store: StoreConfig, machine: MachineConfig, max_shard_bytes: int
) -> Iterator[str]:
    held, num_units = sum(plan.device_bytes.values()), plan.layout.num_units
    if plan.store_bytes > machine.disk_free_bytes:
        yield (
            f"disk: the store takes {plan.store_bytes / 1e9:,.0f} GB, {machine.disk_free_gb:,.0f} "
            "GB are free: take fewer tokens or sites"
        )
    if held > machine.memory_bytes:
        yield (
            f"memory: harvesting takes about {held / 2**30:.0f} GiB a device of "
            f"{machine.memory_gib:g}: lower harvest.batch_sequences, or raise lm.tensor"
        )
    if plan.file_bytes > max_shard_bytes:
        yield (
            f"shards: files of {plan.file_bytes / 2**30:.2g} GiB, and training reads up to "
            f"{max_shard_bytes / 2**30:.2g}: lower writer.shard_mib or raise train.max_shard_gib"
        )
    if num_units == 1 and store.held_out:
        yield "shards: 1 shard, so that nothing is held out: lower writer.shard_mib"
    if num_units < machine.devices:
        yield (
            f"shards: {num_units} for {machine.devices} devices, so that some have nothing to "
            "harvest: lower writer.shard_mib"
        )
