"""A plan as lines to read, and as JSON."""

from dataclasses import asdict, dataclass
from typing import Any

from sae_dist.lm import LMSize
from sae_dist.parallel import MachineConfig
from sae_dist.plan.harvest import HarvestPlan
from sae_dist.plan.training import TrainingPlan

_ARRAYS_SHOWN = 5
_HEAD = (
    *("rung", "data×latent", "GiB a device", "TFLOPs", "MB sent", "ms for it"),
    *("ms a step", "hours"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What was planned, of what, for which machine; `measured` are the rates that were."""

    lm: str
    size: LMSize
    machine: MachineConfig
    measured: list[str]
    harvest: HarvestPlan
    training: TrainingPlan

    @property
    def warnings(self) -> list[str]:
        """What will not fit; one line each. The disk holds store and checkpoints together."""
        stored, free = self.harvest.store_bytes, self.machine.disk_free_bytes
        trained = self.training.checkpoint_bytes + self.training.coder_bytes
        warnings = [*self.harvest.warnings, *self.training.warnings]
        if stored + trained > free >= max(stored, trained):
            warnings.append(
                f"disk: store, checkpoints and coders take {(stored + trained) / 1e9:,.0f} GB "
                f"together, {free / 1e9:,.0f} GB are free: put runs=… on another disk"
            )
        return warnings


def to_dict(plan: Plan) -> dict[str, Any]:
    """The plan as plain values, in bytes, hours and operations."""
    harvest, training = plan.harvest, plan.training
    return {
        **asdict(plan),
        "harvest": {
            **asdict(harvest),
            "num_shards": harvest.layout.num_units if harvest.is_stored else 0,
            "store_bytes": harvest.store_bytes,
            "hours": harvest.hours,
        },
        "training": {
            **asdict(training),
            "compute_hours": training.compute_hours,
            "hours": training.hours,
            "rungs": [
                {**asdict(rung), "hours": training.num_steps * rung.step_seconds / 3600}
                for rung in training.rungs
            ],
        },
        "warnings": plan.warnings,
    }


def table(plan: Plan) -> str:
    """The plan as lines."""
    machine = plan.machine
    peak = f"{machine.flops / 1e12:.4g} TFLOP/s, {machine.memory_gbps:.4g} GB/s of memory"
    rates = f"{machine.efficiency:.0%} of {peak}"
    reached = f"{machine.in_node_gbps:.4g} GB/s in a node, {machine.between_nodes_gbps:.4g} between"
    free = "" if machine.disk_free_gb is None else f", {machine.disk_free_gb:,.0f} GB free"
    source = "measured: " + ", ".join(plan.measured) if plan.measured else "all rates as given"
    warnings = [f"warning: {warning}" for warning in plan.warnings]
    lines = [
        f"machine   {machine.devices} devices of {machine.memory_gib:.4g} GiB, {rates}",
        f"          messages {machine.latency_us:.4g} µs and {reached}",
        f"          disk {machine.disk_gbps:.3g} GB/s{free}; {source}",
        "",
        *_harvest_lines(plan),
        "",
        *_training_lines(plan.training),
        "",
        *(warnings or ["all of it fits"]),
    ]
    return "\n".join(lines)


def _harvest_lines(plan: Plan) -> list[str]:
    harvest, size, layout = plan.harvest, plan.size, plan.harvest.layout
    lm = f"{plan.lm} ({_number(size.parameters)} parameters, {size.num_layers} layers run)"
    num = _number(layout.num_sequences * layout.sequence_length)
    if not harvest.is_stored:
        length = layout.sequence_length
        return [f"live      {lm}, {num} tokens an epoch in sequences of {length}, none stored"]
    arrays = [f"{name} {_bytes(size)}" for name, size in harvest.bytes_by_array.items()]
    shown, rest = arrays[:_ARRAYS_SHOWN], len(arrays) - _ARRAYS_SHOWN
    files = f"{layout.num_units:,} shards, files of {_bytes(harvest.file_bytes)}"
    passes = f"forward passes {harvest.compute_hours:,.3g} h ({harvest.flops:.3g} FLOPs)"
    return [
        f"harvest   {lm}, {num} tokens in sequences of {layout.sequence_length}",
        f"  disk    {_bytes(harvest.store_bytes)}: {', '.join(shown)}"
        + (f", {rest} more" if rest > 0 else ""),
        f"          in {files}",
        *_memory_lines(harvest.device_bytes, harvest.host_bytes),
        f"  time    {harvest.hours:,.3g} h: {passes}, writing {harvest.disk_hours:,.3g} h",
    ]


def _training_lines(training: TrainingPlan) -> list[str]:
    tokens, num = _number(training.num_tokens), len(training.rungs)
    kept = f"{_bytes(training.checkpoint_bytes)} of checkpoints at once"
    disk = (
        f"{_bytes(training.read_bytes)} to read; {kept}, {_bytes(training.coder_bytes)} of coders"
    )
    beside = f"reading {training.disk_hours:,.3g} h"
    if training.lm_hours:
        beside = f"language model {training.lm_hours:,.3g} h on the same devices"
    steps = f"steps {training.compute_hours:,.3g} h"
    return [
        f"training  {training.num_steps:,} steps, {tokens} tokens, {num} rungs; one of them:",
        *_rung_lines(training),
        f"  disk    {disk}",
        *_memory_lines(training.device_bytes, training.host_bytes),
        f"  time    {training.hours:,.3g} h: {steps}, {beside}",
    ]


def _rung_lines(training: TrainingPlan) -> list[str]:
    """A head, and a line for rungs that differ in their names alone; TFLOPs and MB are a step's."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for rung in training.rungs:
        figures = (
            "×".join(map(str, rung.mesh)),
            f"{sum(rung.device_bytes.values()) / 2**30:.3g}",
            f"{rung.flops / 1e12:.3g}",
            f"{rung.sent_bytes / 1e6:.3g}",
            f"{1e3 * rung.message_seconds:.3g}",
            f"{1e3 * rung.step_seconds:.3g}",
            f"{training.num_steps * rung.step_seconds / 3600:,.3g}",
        )
        alike.setdefault(figures, []).append(rung.name)
    rows: list[tuple[str, ...]] = [_HEAD]
    for cells, (name, *others) in alike.items():
        rows.append((name + (f" and {len(others)} alike" if others else ""), *cells))
    first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [
        "  ".join(["", head.ljust(first), *map(str.rjust, cells, widths)]) for head, *cells in rows
    ]


def _memory_lines(device: dict[str, int], host: dict[str, int]) -> list[str]:
    return [
        f"  memory  of a device {_parts(device)}",
        f"          of the host, for each {_parts(host)}",
    ]


def _parts(parts: dict[str, int]) -> str:
    told = ", ".join(f"{name} {num / 2**30:.3g}" for name, num in parts.items())
    return f"{sum(parts.values()) / 2**30:,.3g} GiB: {told}"


def _bytes(num: float) -> str:
    units = (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6))
    unit, size = next((one for one in units if num >= one[1]), ("kB", 1e3))
    return f"{num / size:.3g} {unit}"


def _number(num: float) -> str:
    units = (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3))
    unit, size = next((one for one in units if num >= one[1]), ("", 1))
    return f"{num / size:.4g}{unit}"
