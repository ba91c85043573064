"""Whether a run that is killed goes on to the same bits: a small made-up coder, the real command.

The jobs run on the host of rank 0, on two processes, as their signals can be sent from there.
"""

import time
from pathlib import Path

import torch

from sae_dist.common.files import read_json
from sae_dist.selftest.check import Found, Place
from sae_dist.selftest.jobs import Job
from sae_dist.store import write_store

_RANKS, _BOUND_SECONDS = 2, 60.0
_STEPS, _SAVE_EVERY, _BATCH_TOKENS, _WIDTH = 400, 100, 64, 32
_SETTINGS = [
    *("run=coder", "coder=topk", "coder.num_latents=128", "coder.k=8", "coder.aux_k=16"),
    *("coder.dead_after_tokens=6400", "optim.warmup_steps=50", "optim.lr=0.001"),
    *(f"tokens={_STEPS * _BATCH_TOKENS}", f"batch_tokens={_BATCH_TOKENS}"),
    *("stream.bucket_tokens=4096", f"checkpoint.every_steps={_SAVE_EVERY}", "checkpoint.keep=3"),
    *("log.every_steps=20", "log.wandb=disabled"),
]


def kill_and_resume(place: Place) -> Found:
    """A rank is killed in the middle of a save: the others end, and the same command goes on from
    the save before to the bits of a run that nothing happened to.
    """
    return place.first(_kill_and_resume, place.folder)


def _kill_and_resume(folder: Path) -> Found:
    _make_store(folder / "acts")
    before, seconds, statuses = _kill_in_a_save(folder)
    text = f"all ended {seconds:.1f} s after the kill, {before or 'no checkpoint'} was whole"
    if before is None or seconds > _BOUND_SECONDS or not all(statuses):
        return Found(f"{text}; statuses {statuses}", False)
    for runs in ("disturbed", "undisturbed"):
        with _train(folder, runs) as job:
            statuses = job.wait()
        if any(statuses):
            return Found(f"{text}; {runs}: statuses {statuses}", False)
    resumed, expected = (_coders(folder / runs / "coder") for runs in ("disturbed", "undisturbed"))
    names = resumed.keys() | expected.keys()
    num_equal = sum(resumed.get(name) == expected.get(name) for name in names)
    return Found(f"{text}, {num_equal} of {len(names)} files equal", 0 < num_equal == len(names))


def _make_store(path: Path) -> None:
    """Sparse combinations of 64 directions."""
    generator = torch.Generator().manual_seed(0)
    directions_LD = torch.randn(64, _WIDTH, generator=generator) / _WIDTH**0.5
    active_NL = torch.rand(16384, 64, generator=generator) < 0.05
    x_ND = (active_NL * torch.rand(active_NL.shape, generator=generator)) @ directions_LD
    write_store(path, {"made_up": x_ND}, chunk_mib=0.01, shard_mib=0.1)


def _train(folder: Path, runs: str) -> Job:
    settings = [f"store={folder / 'acts'}", f"runs={folder / runs}", *_SETTINGS]
    return Job("sae_dist.apps.train", settings, _RANKS, folder / f"{runs}.log")


def _kill_in_a_save(folder: Path) -> tuple[str | None, float, list[int | None]]:
    """(the checkpoint that `latest` names, seconds until all ranks ended, their statuses)."""
    saves = folder / "disturbed" / "coder" / "checkpoints"
    with _train(folder, "disturbed") as job:
        job.wait_until(lambda: (saves / "latest").exists() and any(saves.glob("*.tmp-*")))
        job.ranks[1].kill()
        start = time.monotonic()
        statuses = job.wait(_BOUND_SECONDS)
        seconds = time.monotonic() - start
    return _latest(saves), seconds, statuses


def _latest(saves: Path) -> str | None:
    """The name of the checkpoint that `latest` names, if its record is there and readable."""
    pointer = saves / "latest"
    if not pointer.is_file():
        return None
    name = pointer.read_text().strip()
    read_json(saves / name / "CHECKPOINT.json")
    return name


def _coders(run: Path) -> dict[str, bytes]:
    files = (path for path in sorted((run / "coders").rglob("*")) if path.is_file())
    return {str(path.relative_to(run)): path.read_bytes() for path in files}
