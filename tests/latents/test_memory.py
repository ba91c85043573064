"""A million latents are watched in the memory that docs/latents.md states."""

import json
from pathlib import Path

import pytest
import torch

from sae_dist.coders import Coder, TopK, save_coder
from sae_dist.common.memory import keep_freed_memory, peak_bytes
from sae_dist.evaluate import finished
from sae_dist.latents import Latents, WatchConfig, watch
from sae_dist.latents.decoders import nearest
from sae_dist.parallel import Axis
from sae_dist.store import open_store, write_store
from sae_dist.stream import StoredActivations
from tests.apps.commands import command
from tests.processes import alone

NUM_LATENTS, WIDTH, SEQUENCE, NUM_SEQUENCES = 1 << 20, 64, 128, 4
WEIGHTS = NUM_LATENTS * 2 * WIDTH * 4
CONFIG = WatchConfig(
    memory_gib=0.125,
    neighbours=0,  # all of them would take hours here
    part_tokens=256,
    batch_tokens=256,
    strongest=4,
    per_quantile=0,
)


def write_run(folder: Path) -> None:
    """A coder of random weights, and held-out sequences."""
    generator = torch.Generator().manual_seed(0)
    x_NSD = torch.randn(2 * NUM_SEQUENCES, SEQUENCE, WIDTH, generator=generator)
    write_store(folder / "store", {"x": x_NSD}, held_out=0.5, shard_mib=0.0625, chunk_mib=0.0625)
    coder = Coder(TopK(num_latents=NUM_LATENTS, k=32), WIDTH, WIDTH)
    tensors = {
        name: torch.randn(weight.shape, generator=generator) * 0.1
        for name, weight in coder.state_dict().items()
    }
    about = {"site": "x", "target": "x"}
    save_coder(folder / "r" / "coders" / "wide", coder, tensors, about)


def forget_peak() -> int:
    """Count anew, from what is held now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def measure(folder: str) -> None:
    """Print by how much a process grows while it watches, and while it looks for neighbours."""
    keep_freed_memory()
    world, source = alone(), StoredActivations(open_store(Path(folder) / "store"))
    start = forget_peak()
    W_dec = torch.randn(NUM_LATENTS, WIDTH)
    nearest(W_dec[:1024], W_dec, 10, Axis(), first=0)
    neighbours = peak_bytes() - start - W_dec.nbytes
    del W_dec
    forget_peak()
    watch(finished(Path(folder) / "r", world.device), source, None, CONFIG, world)
    print(json.dumps([peak_bytes() - start, neighbours]))


@pytest.mark.slow
def test_a_million_latents_fit(tmp_path: Path) -> None:
    write_run(tmp_path)
    script = f"from tests.latents.test_memory import measure; measure({str(tmp_path)!r})"
    done = command("-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    watching, neighbours = json.loads(done.stdout.splitlines()[-1])
    assert watching < 2.25 * WEIGHTS + (CONFIG.memory_gib + 0.5) * 2**30
    assert neighbours < 0.75 * 2**30
    found = Latents(tmp_path / "r", "wide")
    tokens = found.about.num_tokens
    assert found.rung.l0 == 32 and len(found.rung.edges) > NUM_LATENTS // 4096
    assert found.column("fired").sum() == 32 * tokens and tokens >= NUM_SEQUENCES * SEQUENCE
