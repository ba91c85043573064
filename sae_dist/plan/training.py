"""What training a ladder takes: memory, disk and hours of all its rungs on one stream.

The stream is of a store, or with `store=live` of a language model on each device.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sae_dist.common.dtypes import FloatDtype
from sae_dist.common.errors import UserError
from sae_dist.common.joint import width_of
from sae_dist.live import choose_lanes, round_bytes
from sae_dist.lm import LMSize
from sae_dist.parallel import MachineConfig
from sae_dist.plan.harvest import HarvestPlan, Tokens, lm_cost, plan_harvest
from sae_dist.plan.memory import checkpoint_bytes
from sae_dist.plan.rung import RungPlan, plan_rung
from sae_dist.store import StoreConfig
from sae_dist.store.layout import Layout
from sae_dist.stream import BatchPart, memory_bound
from sae_dist.train import LoopConfig, RungConfig
from sae_dist.train.ladder import sites_of

_PASSING = ("gradients", "working")  # rungs take their steps one after the other


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """A ladder's cost; rungs take their steps one after the other on one stream.

    Attributes:
        read_bytes: of the store, in all.
        disk_hours: of reading them.
        lm_hours: of the language model that runs on the same devices, with `store=live`.
        device_bytes, host_bytes: that one process holds, by what for.
        checkpoint_bytes: of all checkpoints that there are at once.
        coder_bytes: of all coders at the end.
    """

    num_steps: int
    num_tokens: int
    rungs: list[RungPlan]
    read_bytes: int
    disk_hours: float
    device_bytes: dict[str, int]
    host_bytes: dict[str, int]
    checkpoint_bytes: int
    coder_bytes: int
    warnings: list[str]
    lm_hours: float = 0.0

    @property
    def compute_hours(self) -> float:
        """Of all steps of all rungs."""
        return self.num_steps * sum(rung.step_seconds for rung in self.rungs) / 3600

    @property
    def hours(self) -> float:
        """Steps and reading go on at once; a language model takes turns with the steps."""
        return max(self.compute_hours + self.lm_hours, self.disk_hours)


def plan_training(
    config: LoopConfig,
    rungs: Sequence[RungConfig],
    widths: dict[str, int],
    layout: Layout,
    dtype: FloatDtype,
    machine: MachineConfig,
) -> TrainingPlan:
    """The cost of training `rungs` on a store of `layout` with sites of `widths` in `dtype`.

    Raises:
        UserError: a rung reads a site that the store would not have.
    """
    plan, widths = _plan_steps(config, rungs, widths, dtype, machine)
    part = BatchPart(config.batch_tokens, config.seed, config.stream, 0, machine.devices)
    num_rows = layout.num_sequences * layout.sequence_length
    stream = memory_bound(num_rows, layout.chunk_rows, widths, dtype, part)
    scale = np.dtype("float32").itemsize if dtype is FloatDtype.int8 else 0
    read = plan.num_tokens * sum(w * dtype.disk.itemsize + scale for w in widths.values())
    plan = replace(
        plan,
        read_bytes=read,
        disk_hours=machine.seconds_of_disk(read) / 3600,
        host_bytes={"stream": stream, **plan.host_bytes},
    )
    plan.warnings.extend(_shortages(plan, config, machine))
    if config.batch_tokens > num_rows:
        batch = f"batch_tokens={config.batch_tokens}"
        plan.warnings.append(f"batch: {batch} of {num_rows:,} harvested tokens")
    if plan.num_tokens > 1.2 * num_rows:
        plan.warnings.append(
            f"tokens: training takes {plan.num_tokens:,}, {plan.num_tokens / num_rows:.1f} times "
            "those that are harvested"
        )
    return plan


def plan_live(
    config: LoopConfig,
    rungs: Sequence[RungConfig],
    size: LMSize,
    tokens: Tokens,
    writer: StoreConfig,
    machine: MachineConfig,
) -> tuple[HarvestPlan, TrainingPlan]:
    """What one pass over `tokens` takes of the language model, and the cost of training on it.

    Every token that is trained on passes the language model, and what is held out beside it is
    skipped; a second epoch passes it again. Steps and passes share the devices, so that their
    hours add up.

    Raises:
        UserError: a rung reads a site that is not harvested, or the text makes no forward pass.
    """
    unit_tokens = tokens.batch_sequences * tokens.sequence_length
    if tokens.num_tokens < unit_tokens:
        raise UserError(
            f"found harvest.tokens={tokens.num_tokens}; expected at least {unit_tokens}, one pass "
            "of the language model; raise it"
        )
    stored = plan_harvest(size, tokens, writer, machine)
    harvest = replace(
        stored, bytes_by_array={}, file_bytes=0, disk_hours=0.0, host_bytes={}, warnings=[]
    )
    if config.tokens is None:
        config = replace(config, tokens=stored.training_tokens)
    steps, widths = _plan_steps(config, rungs, size.widths, writer.dtype, machine)
    row_bytes = sum(widths.values()) * writer.dtype.storage.itemsize
    _, seconds = lm_cost(steps.num_tokens, size, tokens, machine)
    num_units = int(tokens.num_tokens // unit_tokens * (1 - writer.held_out))
    lanes = choose_lanes(config.stream, num_units, unit_tokens, config.batch_tokens)
    held = max(1, lanes // machine.devices)
    training = replace(
        steps,
        device_bytes={"lm": sum(harvest.device_bytes.values()), **steps.device_bytes},
        host_bytes={
            "stream": round_bytes(config.stream, unit_tokens, row_bytes, lanes, held),
            **steps.host_bytes,
        },
        lm_hours=seconds / machine.devices / 3600,
    )
    training.warnings.extend(_shortages(training, config, machine))
    if lanes % machine.devices:
        training.warnings.append(f"lanes: {machine.devices} devices do not divide {lanes} lanes")
    available = stored.training_tokens
    if training.num_tokens > 1.2 * available:
        training.warnings.append(
            f"tokens: training takes {training.num_tokens:,}, "
            f"{training.num_tokens / available:.3g} times those of harvest.tokens that are not "
            "held out: each epoch runs the language model anew"
        )
    return harvest, training


def _plan_steps(
    config: LoopConfig,
    rungs: Sequence[RungConfig],
    widths: dict[str, int],
    dtype: FloatDtype,
    machine: MachineConfig,
) -> tuple[TrainingPlan, dict[str, int]]:
    """All but the stream that the steps read from, and the widths of the sites read.

    Raises:
        UserError: a rung reads a site that is not there.
    """
    sites = sites_of(list(rungs))
    if absent := [site for site in sites if site not in widths]:
        raise UserError(
            f"found rungs that read {', '.join(absent)}; expected sites of the harvest, "
            f"{', '.join(widths)}; change train.site, train.target or harvest.sites"
        )
    plans, warnings = [], []
    for rung in rungs:
        d_in, d_out = (width_of(widths, site) or 0 for site in (rung.site, rung.target))
        sizes = d_in, d_out, config.batch_tokens
        try:
            plans.append(plan_rung(rung, *sizes, config.precision.weights.itemsize, machine))
        except UserError as error:  # it fits no mesh
            warnings.append(f"mesh: {rung.name}: {error}")
    assert config.tokens is not None, "a plan is of so many tokens"
    num_steps = config.tokens // config.batch_tokens
    read_widths = {site: widths[site] for site in sites}
    row_bytes = sum(read_widths.values()) * dtype.storage.itemsize
    plan = TrainingPlan(
        num_steps=num_steps,
        num_tokens=num_steps * config.batch_tokens,
        rungs=plans,
        read_bytes=0,
        disk_hours=0.0,
        device_bytes=_device_bytes(plans, config.batch_tokens // machine.devices * row_bytes),
        host_bytes={"checkpoint": sum(checkpoint_bytes(one.device_bytes) for one in plans)},
        checkpoint_bytes=_num_kept(config, num_steps) * sum(one.checkpoint_bytes for one in plans),
        coder_bytes=sum(one.coder_bytes for one in plans),
        warnings=warnings,
    )
    return plan, read_widths


def _device_bytes(plans: list[RungPlan], rows: int) -> dict[str, int]:
    """All rungs' tensors together, and of what passes the most of one; `rows` of one batch."""
    total: Counter[str] = Counter({"rows": rows})
    for plan in plans:
        for name, num_bytes in plan.device_bytes.items():
            total[name] = (
                max(total[name], num_bytes) if name in _PASSING else total[name] + num_bytes
            )
    return dict(total)


def _num_kept(config: LoopConfig, num_steps: int) -> int:
    """Checkpoints that there are at once: the oldest goes when the newest is whole."""
    for_ever = num_steps // config.checkpoint.keep_every if config.checkpoint.keep_every else 0
    num_saved = -(-num_steps // config.checkpoint.every_steps)
    return min(config.checkpoint.keep + 1 + for_ever, num_saved)


def _shortages(plan: TrainingPlan, config: LoopConfig, machine: MachineConfig) -> Iterator[str]:
    """What will not fit wherever the activations come from."""
    needed, held = plan.checkpoint_bytes + plan.coder_bytes, sum(plan.device_bytes.values())
    if needed > machine.disk_free_bytes:
        yield (
            f"disk: checkpoints and coders take {needed / 1e9:,.0f} GB, "
            f"{machine.disk_free_gb:,.0f} GB are free: train fewer rungs at once (train.rungs=…)"
        )
    if held > machine.memory_bytes:
        yield (
            f"memory: training takes about {held / 2**30:,.0f} GiB a device of "
            f"{machine.memory_gib:g}: train fewer rungs at once (train.rungs=…) or on more devices"
        )
    if config.batch_tokens % machine.devices:
        batch = f"batch_tokens={config.batch_tokens}"
        yield f"batch: {machine.devices} devices do not divide {batch}"
