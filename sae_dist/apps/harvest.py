r"""Harvest the activations of a language model to disk.

    accelerate launch launch/harvest.py lm=pythia_70m text=fineweb \
        sites=[resid_post.3] tokens=100M store=PATH

Any number of processes of any number of jobs fill one store; start the same command again, or
anew beside others, to go on where it stopped. What a dead process left is taken over: at once on
the same machine, else `harvest.lock_seconds` after its last sign of life.
With `--config_file launch/accelerate/zero3.yaml` the language model is spread over the processes,
with `lm.tensor=N` its matrices are sliced over each N of them.
"""

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator

from sae_dist.apps import cli
from sae_dist.common.disk import check_disk
from sae_dist.common.errors import UserError
from sae_dist.common.log import say
from sae_dist.config import HarvestConfig
from sae_dist.harvest import Processes, Team, harvest, join_launched_team, join_slices
from sae_dist.lm import (
    LM,
    Capture,
    foresee,
    load_lm,
    load_sliced_lm,
    load_spread_lm,
    resolve,
    site_widths,
    sliced_sites,
    spread_engine,
    truncate,
)
from sae_dist.parallel import local_device
from sae_dist.store import StoreWriter
from sae_dist.store.arrays import array_specs, bytes_on_disk
from sae_dist.store.layout import held_out_units
from sae_dist.store.schema import SETTINGS_FILE
from sae_dist.store.settings import choose_settings
from sae_dist.text import Fingerprint, documents, pack, pin


def main() -> None:
    """The command."""
    cli.run(harvest_command, "harvest", __doc__ or "")


def harvest_command(config: HarvestConfig) -> None:
    """Harvest as `config` says; called by every process that `accelerate launch` started."""
    if not config.sites or len(set(config.sites)) != len(config.sites):
        raise UserError(f"sites={list(config.sites)}; expected one or more different sites")
    is_zero3 = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    if is_zero3 and config.lm.tensor > 1:
        raise UserError(f"lm.tensor={config.lm.tensor} under ZeRO-3; expected 1; choose one")
    _check_start(config)
    local_device()  # before anything else looks for its GPU
    team = join_launched_team(config.lm.tensor) if config.lm.tensor > 1 else None
    device = Accelerator(cpu=not torch.cuda.is_available()).device
    if team is not None:
        lm = load_sliced_lm(config.lm)
    else:
        lm = load_spread_lm(config.lm) if is_zero3 else load_lm(config.lm, device)
    sites = [resolve(lm.model, name) for name in config.sites]
    join = dict.fromkeys(sliced_sites(lm.model, sites), join_slices) if team is not None else {}
    truncate(lm.model, sites)
    engine = spread_engine(lm.model.base_model, config.lm) if is_zero3 else None
    capture = Capture(lm.model, sites, stop=not is_zero3, forward=engine, join=join)
    processes = _processes(team, device, is_zero3)
    widths = site_widths(capture, device)
    _check_store(config, widths)
    writer = _writer(config, lm, widths)
    if processes.agree(writer.sealed):  # another job may seal it now
        say(f"{config.store} is sealed already: nothing to do")
    else:
        _fill(config, lm, writer, capture, processes)
        say(f"sealed {config.store}{_dropped(writer)}")
    if dist.is_initialized():
        dist.destroy_process_group()


def _check_start(config: HarvestConfig) -> None:
    """Refuse, alike on every process, what needs no weights to be known; nothing is written yet."""
    widths = foresee(config.lm, config.sites, config.text.sequence_length)
    if widths is not None:
        _check_store(config, widths)
    if not _is_begun(config):
        next(documents(config.text))


def _check_store(config: HarvestConfig, widths: dict[str, int]) -> None:
    """Refuse a store whose shards cannot be, and one that is not begun and has no room."""
    num_sequences = config.tokens // config.text.sequence_length
    settings = choose_settings(
        widths, config.text.sequence_length, config.writer, {}, num_sequences
    )
    layout = settings.layout(num_sequences)
    held_out_units(layout.num_shards, config.writer.held_out)
    specs = array_specs(widths, config.text.sequence_length, config.writer.dtype).values()
    if not _is_begun(config):
        check_disk(config.store, bytes_on_disk(specs, layout, range(layout.num_shards)))


def _is_begun(config: HarvestConfig) -> bool:
    return (Path(config.store) / SETTINGS_FILE).exists()


def _fill(
    config: HarvestConfig, lm: LM, writer: StoreWriter, capture: Capture, processes: Processes
) -> None:
    """Harvest; a text that is refused halfway leaves nothing that refuses the next command."""
    reads_text = False

    def tokens() -> Any:
        nonlocal reads_text
        reads_text = True
        return _tokens(config, lm)

    try:
        harvest(writer, capture, tokens, config.harvest, processes)
    except UserError:
        if reads_text and not writer.tokens_ready():
            shutil.rmtree(writer.path, ignore_errors=True)
        raise
    except FileNotFoundError as error:
        if writer.path.exists():
            raise
        raise UserError(
            f"{writer.path} was given up; the process that read the text says why"
        ) from error


def _processes(team: Team | None, device: torch.device, is_zero3: bool) -> Processes:
    if team is not None:
        return Processes(team.index, team.num_teams, device, in_team=True, leads=team.leads)
    # DeepSpeed may leave accelerate's own rank and world at 0 and 1: torch knows better.
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    return Processes(rank, world, device, in_step=is_zero3)


def _dropped(writer: StoreWriter) -> str:
    """How many tokens were left out, and because of which sites; nothing if none was."""
    manifest = writer.seal()
    num = sum(len(shard.dropped.positions) for shard in manifest.shards if shard.dropped)
    if not num:
        return ""
    sites = {site: record.dropped for site, record in manifest.sites.items() if record.dropped}
    told = ", ".join(f"{number} at {site}" for site, number in sites.items())
    return f"; {num} tokens dropped: {told}"


def _writer(config: HarvestConfig, lm: LM, widths: dict[str, int]) -> StoreWriter:
    num_sequences = config.tokens // config.text.sequence_length
    provenance = {
        "lm": {**asdict(config.lm), "commit": lm.revision},
        "text": asdict(pin(config.text)),
        "batch_sequences": config.harvest.batch_sequences,
    }
    return StoreWriter.create(
        config.store, widths, config.text.sequence_length, config.writer, provenance, num_sequences
    )


def _tokens(config: HarvestConfig, lm: LM) -> Any:
    fingerprint = Fingerprint()
    text = pin(config.text)
    blocks = pack(
        documents(text), lm.tokenizer, text, num_tokens=config.tokens, fingerprint=fingerprint
    )
    return blocks, lambda: fingerprint.to_dict(text)
