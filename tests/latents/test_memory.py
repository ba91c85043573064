"""A million latents are watched in the memory that docs/latents.md states."""

import resource
from pathlib import Path

import pytest
import torch

from sae_dist.coders import Coder, TopK, save_coder
from sae_dist.common.memory import keep_freed_memory
from sae_dist.evaluate import finished
from sae_dist.latents import Latents, WatchConfig, watch
from sae_dist.latents.decoders import nearest
from sae_dist.parallel import Axis
from sae_dist.store import open_store, write_store
from sae_dist.stream import StoredActivations
from tests.processes import alone, run_on

NUM_LATENTS, WIDTH, SEQUENCE = 1 << 20, 64, 128
SETTINGS = {"memory_gib": 0.25, "neighbours": 0, "part_tokens": 4096, "batch_tokens": 1024}


def write_run(folder: Path) -> None:
    """A coder of random weights, and 64 held-out sequences."""
    generator = torch.Generator().manual_seed(0)
    x_NSD = torch.randn(128, SEQUENCE, WIDTH, generator=generator)
    write_store(folder / "store", {"x": x_NSD}, held_out=0.5)
    coder = Coder(TopK(num_latents=NUM_LATENTS, k=32), WIDTH, WIDTH)
    with torch.no_grad():
        for weight in coder.parameters():
            weight.normal_(0.0, 0.1, generator=generator)
    save_coder(folder / "r" / "coders" / "wide", coder, dict(coder.state_dict()), SITE)


SITE = {"site": "x", "target": "x"}


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def grown(world: object, folder: Path) -> tuple[int, int]:
    """By how much a process grew while it watched, and while it looked for neighbours."""
    keep_freed_memory()
    source = StoredActivations(open_store(folder / "store"))
    before = peak_bytes()
    watch(
        finished(folder / "r", torch.device("cpu")), source, None, WatchConfig(**SETTINGS), alone()
    )
    watching = peak_bytes() - before
    return watching, before


def grown_by_neighbours(world: object, folder: Path) -> int:
    W_dec = torch.randn(NUM_LATENTS, WIDTH)
    nearest(W_dec[:64], W_dec, 10, Axis())  # what is imported at a first call
    before = peak_bytes()
    nearest(W_dec[:2048], W_dec, 10, Axis(), first=0)
    return peak_bytes() - before


@pytest.mark.slow
def test_a_million_latents_fit(tmp_path: Path) -> None:
    write_run(tmp_path)
    weights = NUM_LATENTS * 2 * WIDTH * 4
    ((watching, _),) = run_on(1, grown, tmp_path)
    print(f"grew by {watching / 2**30:.2f} GiB; weights {weights / 2**30:.2f} GiB")
    stated = 2.25 * weights + (SETTINGS["memory_gib"] + 0.5) * 2**30
    assert watching < stated
    (near,) = run_on(1, grown_by_neighbours, tmp_path)
    print(f"neighbours {near / 2**30:.2f} GiB")
    assert near < 0.5 * 2**30
    found = Latents(tmp_path / "r", "wide")
    assert found.rung.l0 == 32 and len(found.rung.edges) > NUM_LATENTS // 4096
    assert found.column("fired").sum() == 32 * 64 * SEQUENCE
