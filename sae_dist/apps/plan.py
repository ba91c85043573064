r"""Plan a harvest and a training before anything is spent: disk, memory, meshes, hours.

    sae-dist plan +experiment=gemma_scope_2b machine=h100_80gb machine.devices=64
    sae-dist plan +experiment=gpt2:ladder measure=true
    sae-dist plan harvest.lm=pythia_70m harvest.text=fineweb harvest.tokens=100M \
        harvest.sites=[resid_post.3] train.coder=topk

What begins with `harvest.` or `train.` is told to `sae-dist harvest` or `sae-dist train`, and
changes what the experiment says; with `train.store=live` nothing is stored. Where store and run
will be need not be said. Nothing is downloaded but an LM's config.json, and only if no preset has
its sizes. See docs/planning.md for what is counted.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sae_dist.apps.command import command, entry
from sae_dist.apps.rungs import lay_out
from sae_dist.apps.terminal import show
from sae_dist.common.disk import free_bytes
from sae_dist.common.errors import UserError
from sae_dist.common.files import write_json
from sae_dist.common.log import log_info
from sae_dist.config import HarvestConfig, PlanConfig, Source, TrainConfig
from sae_dist.live import check_live
from sae_dist.lm import expand_sites, lm_size
from sae_dist.parallel import MachineConfig
from sae_dist.plan import (
    Plan,
    Tokens,
    plan_harvest,
    plan_live,
    plan_training,
    table,
    to_dict,
)
from sae_dist.selftest import copy_rate, disk_rate, product_rate


@command
def plan(config: PlanConfig) -> Plan:
    """Print the plan of a harvest and a training."""
    harvest, train = config.harvest, config.train
    if harvest is None or train is None:
        raise UserError("found no harvest or no train; expected both of them; give their configs")
    measured = measured_rates(Path(config.folder)) if config.measure else {}
    machine = replace(config.machine, **measured)
    made = make_plan(harvest, train, machine, sorted(measured))
    plain = to_dict(made)
    show(json.dumps(plain, indent=1) if config.json else table(made))
    if config.to is not None:
        to = Path(config.to)
        to.parent.mkdir(parents=True, exist_ok=True)
        write_json(to, plain)
        log_info(f"as JSON in {to}")
    return made


def make_plan(
    harvest: HarvestConfig, train: TrainConfig, machine: MachineConfig, measured: list[str]
) -> Plan:
    """The plan of a harvest and a training; `measured` are the machine's rates that were."""
    if machine.disk_free_gb is None:
        written = train.runs if train.source is Source.live else harvest.store
        machine = replace(machine, disk_free_gb=free_bytes(written) / 1e9)
    size = lm_size(
        harvest.lm,
        harvest.architecture,
        expand_sites(harvest.lm, harvest.sites, harvest.architecture),
    )
    rungs, writer = lay_out(train, size.widths), harvest.writer
    tokens = Tokens(
        num_tokens=harvest.tokens,
        sequence_length=harvest.text.sequence_length,
        batch_sequences=harvest.harvest.batch_sequences,
    )
    if train.source is Source.live:
        check_live(list(size.widths), harvest.lm.tensor, writer)
        stored, trained = plan_live(train, rungs, size, tokens, writer, machine)
    else:
        largest, tensor = int(train.max_shard_gib * 2**30), harvest.lm.tensor
        stored = plan_harvest(size, tokens, writer, machine, tensor=tensor, max_shard_bytes=largest)
        known = replace(train, tokens=train.tokens or stored.training_tokens)
        trained = plan_training(known, rungs, size.widths, stored.layout, writer.dtype, machine)
    return Plan(
        lm=harvest.lm.name,
        size=size,
        machine=machine,
        measured=measured,
        harvest=stored,
        training=trained,
    )


def measured_rates(folder: Path) -> dict[str, Any]:
    """What this machine's first device, its memory and the disk of `folder` do, in a few seconds.

    Without a GPU the device is the whole processor. The network is not measured.
    """
    is_cuda = torch.cuda.is_available()
    device = torch.device("cuda" if is_cuda else "cpu")
    float32 = product_rate(device, torch.float32)
    found = {
        "flops": product_rate(device, torch.bfloat16) if is_cuda else float32,
        "flops_float32": float32,
        "memory_gbps": copy_rate(device) / 1e9,
        "disk_gbps": disk_rate(folder) / 1e9,
        "disk_free_gb": free_bytes(folder) / 1e9,
        "devices": torch.cuda.device_count() if is_cuda else 1,
        "efficiency": 1.0,
        "memory_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
    }
    if is_cuda:
        found["memory_gib"] = torch.cuda.get_device_properties(device).total_memory / 2**30
    return found


main = entry("plan")
