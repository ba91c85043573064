"""Training whose language model runs beside it (`store=live`): no store, an LM on each device."""

from collections.abc import Sequence
from dataclasses import replace

from sae_dist.common.errors import UserError
from sae_dist.live import choose_lanes, round_bytes
from sae_dist.lm import LMSize
from sae_dist.plan.harvest import HarvestPlan, Tokens, plan_harvest
from sae_dist.plan.machine import MachineConfig
from sae_dist.plan.training import TrainingPlan, plan_steps, shortages
from sae_dist.store import StoreConfig
from sae_dist.train import LoopConfig, RungConfig


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
    steps, widths = plan_steps(config, rungs, size.widths, writer.dtype, machine)
    row_bytes = sum(widths.values()) * writer.dtype.storage.itemsize
    seconds = machine.seconds_of_products(
        float(steps.num_tokens * size.flops_per_token(tokens.sequence_length)),
        is_float32=size.bytes_per_value == 4,
    )
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
    training.warnings.extend(shortages(training, config, machine))
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
