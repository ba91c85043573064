r"""Harvest the activations of a language model to disk.

    accelerate launch launch/harvest.py lm=pythia_70m text=fineweb \
        sites=[resid_post.3] tokens=100M store=PATH

Any number of processes of any number of jobs fill one store; start the same command again, or
anew beside others, to go on where it stopped. What a dead process left is taken over.
With `--config_file launch/accelerate/zero3.yaml` the language model is spread over the processes,
with `lm.tensor=N` its matrices are sliced over each N of them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, astuple, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator

from sae_dist.apps.command import command, entry
from sae_dist.apps.harvested import told_zero3
from sae_dist.apps.pinned import pinned_sources
from sae_dist.common.disk import check_disk
from sae_dist.common.errors import UserError
from sae_dist.common.log import log_info, warn
from sae_dist.config import HarvestConfig
from sae_dist.harvest import (
    Processes,
    Text,
    UnitTokens,
    fill_store,
    join_launched_team,
    join_slices,
)
from sae_dist.lm import (
    LM,
    Capture,
    compile_layers,
    expand_sites,
    foresee,
    load_lm,
    load_sliced_lm,
    load_zero3_lm,
    resolve,
    site_widths,
    sliced_sites,
    spread_engine,
    truncate,
)
from sae_dist.parallel import local_device
from sae_dist.store import StoreWriter
from sae_dist.store.files import files_at
from sae_dist.store.records import MANIFEST_FILE, SETTINGS_FILE, choose_settings
from sae_dist.text import Fingerprint, Position, TextConfig, documents, pack

_START = Position()


@command
def harvest(config: HarvestConfig) -> str:
    """Harvest; called by every process that `accelerate launch` started, or by one alone.

    Returns:
        The store's place, a folder or a URL.
    """
    config = replace(config, sites=expand_sites(config.lm, config.sites))
    is_zero3 = told_zero3()
    if is_zero3 and config.lm.tensor > 1:
        raise UserError(f"lm.tensor={config.lm.tensor} under ZeRO-3; expected 1; choose one")
    if widths := foresee(config.lm, config.sites, config.text.sequence_length):
        _check_store(config, widths)  # before weights are loaded
    own = local_device()  # before anything else looks for its GPU
    team = join_launched_team(config.lm.tensor, own) if config.lm.tensor > 1 else None
    device = Accelerator(cpu=not torch.cuda.is_available()).device
    lm_config, text = pinned_sources(config)
    if team is not None:
        lm = load_sliced_lm(lm_config)
    else:
        lm = load_zero3_lm(lm_config) if is_zero3 else load_lm(lm_config, device)
    sites = [resolve(lm.model, name) for name in config.sites]
    join = dict.fromkeys(sliced_sites(lm.model, sites), join_slices) if team is not None else {}
    truncate(lm.model, sites)
    if lm_config.compile:
        compile_layers(lm.model, sites)
    engine = spread_engine(lm.model.base_model, lm_config) if is_zero3 else None
    capture = Capture(lm.model, sites, stop=not is_zero3, forward=engine, join=join)
    processes = team or _processes(device, is_zero3)
    widths = site_widths(capture, device)
    _check_store(config, widths)
    writer = _writer(config, text, lm, widths)
    if processes.decide(lambda: writer.sealed):  # another job may seal it now
        log_info(f"{config.store} is sealed already: nothing to do")
    else:
        _fill(config, text, lm, writer, capture, processes)
        if processes.rank == 0:
            log_info(f"sealed {config.store}{_dropped(writer)}")
    if dist.is_initialized():
        dist.destroy_process_group()
    return config.store


def _check_store(config: HarvestConfig, widths: dict[str, int]) -> None:
    """Refuse a store whose shards cannot be, and one that is not begun and has no room."""
    num_sequences = config.tokens // config.text.sequence_length
    settings = choose_settings(
        widths, config.text.sequence_length, config.writer, {}, num_sequences
    )
    files = files_at(config.store)
    if not (files.exists(SETTINGS_FILE) or files.exists(MANIFEST_FILE)):
        check_disk(config.store, sum(settings.bytes_by_array(num_sequences).values()))


def _fill(
    config: HarvestConfig,
    text: TextConfig,
    lm: LM,
    writer: StoreWriter,
    capture: Capture,
    processes: Processes,
) -> None:
    """Harvest; a text that is refused halfway leaves nothing that refuses the next command."""
    reads_text = False

    def tokens(first: int, begin: Any) -> Text:
        nonlocal reads_text
        reads_text = True
        earlier = (writer.read_tokens(unit)[0] for unit in range(first))
        start = Position(*begin or ())
        return read_text(text, lm, writer.settings.shard_sequences, config.tokens, start, earlier)

    try:
        fill_store(writer, capture, tokens, config.harvest, processes)
    except UserError:
        if reads_text and not writer.sealed and not writer.has_tokens(0):
            writer.abandon()
        raise


def _processes(device: torch.device, is_zero3: bool) -> Processes:
    # DeepSpeed may leave accelerate's own rank and world at 0 and 1: torch knows better.
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    store = next(dist.rendezvous("env://"))[0] if world > 1 else dist.HashStore()
    return Processes(rank, world, device, in_step=is_zero3, store=store)


def _dropped(writer: StoreWriter) -> str:
    """How many tokens were left out, and because of which sites; nothing if none was."""
    manifest = writer.seal()
    if not manifest.num_dropped:
        return ""
    told = ", ".join(f"{number} at {site}" for site, number in manifest.dropped.items() if number)
    return f"; {manifest.num_dropped} tokens dropped: {told}"


def _writer(config: HarvestConfig, text: TextConfig, lm: LM, widths: dict[str, int]) -> StoreWriter:
    num_sequences = config.tokens // config.text.sequence_length
    provenance = {
        "lm": {**asdict(config.lm), "dtype": lm.config.dtype, "commit": lm.revision},
        "text": asdict(text),
        "batch_sequences": config.harvest.batch_sequences,
    }
    return StoreWriter.create(
        config.store, widths, config.text.sequence_length, config.writer, provenance, num_sequences
    )


def read_text(
    text: TextConfig,
    lm: LM,
    unit_sequences: int,
    num_tokens: int,
    start: Position = _START,
    earlier: Iterable[np.ndarray] = (),
) -> Text:
    """A text's tokens in units of so many sequences, `num_tokens` at most, or all from `start` on.

    What comes before `start` is read, but not tokenised: `earlier` are the ids that it became.
    """
    fingerprint = Fingerprint()
    for ids_NS in earlier:
        fingerprint.add_sequences(ids_NS)
    blocks = pack(
        documents(text),
        lm.tokenizer,
        text,
        start=start,
        num_tokens=num_tokens - fingerprint.num_tokens,
        num_ids=lm.model.config.get_text_config().vocab_size,
        block_sequences=unit_sequences,
        fingerprint=fingerprint,
    )

    def units() -> Iterator[UnitTokens]:
        begin = start
        for block in blocks:
            yield UnitTokens(block.ids_NS, block.trainable_NS, astuple(begin))
            begin = block.end

    def told() -> dict[str, Any]:
        fingerprint.num_tokens_asked = num_tokens
        if fingerprint.num_tokens <= num_tokens - text.sequence_length:
            warn(
                f"the text ended after {fingerprint.num_tokens:,} of {num_tokens:,} tokens; the "
                "store holds no more"
            )
        return fingerprint.to_dict(text)

    return Text(units(), told)


main = entry("harvest")
