"""Whether training survives what happens to its processes: small made-up coders, real commands.

The jobs run on the host of rank 0, on two processes, as their signals can be sent from there.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sae_dist.checkpoint import CheckpointConfig
from sae_dist.coders import TopK
from sae_dist.common.files import read_json
from sae_dist.parallel import MeshConfig
from sae_dist.selftest.check import Found, Place
from sae_dist.selftest.jobs import Job
from sae_dist.store import open_store, write_store
from sae_dist.stream import Batch, StoredActivations, StreamConfig, StreamState
from sae_dist.train import AdamConfig, LoopConfig, RungConfig, TrainingRun
from sae_dist.train.config import LogConfig, WandbMode

_RANKS, _REQUEUE, _BOUND_SECONDS = 2, 75, 60.0
_STEPS, _SAVE_EVERY, _BATCH_TOKENS, _WIDTH = 400, 100, 64, 32
_POISONED_STEP = 3
_SETTINGS = [
    *("run=coder", "coder=topk", "coder.num_latents=128", "coder.k=8", "coder.aux_k=16"),
    *("coder.dead_after_tokens=6400", "optim.warmup_steps=50", "optim.lr=0.001"),
    *(f"tokens={_STEPS * _BATCH_TOKENS}", f"batch_tokens={_BATCH_TOKENS}"),
    *("stream.bucket_tokens=4096", f"checkpoint.every_steps={_SAVE_EVERY}", "checkpoint.keep=3"),
    *("log.every_steps=20", "log.wandb=disabled"),
]


def killed_in_a_save(place: Place) -> Found:
    """A rank killed in the middle of a save: the others end, and the checkpoint before is there."""
    place.first(_make_store, place.folder / "acts")
    before, seconds, statuses = place.first(_kill_in_a_save, place.folder)
    text = f"{before} is whole; all ranks ended {seconds:.1f} s later, statuses {statuses}"
    ended = all(status not in (0, None) for status in statuses)
    return Found(text, before is not None and ended and seconds <= _BOUND_SECONDS)


def terminated(place: Place) -> Found:
    """Going on from there, one rank is sent SIGTERM: all save and end with the requeue status."""
    step, statuses = place.first(_terminate, place.folder)
    text = f"saved {step}, statuses {statuses}"
    return Found(text, step is not None and statuses == [_REQUEUE] * _RANKS)


def resumed_bitwise(place: Place) -> Found:
    """Started once more it ends with the bits of a run that nothing happened to."""
    differing, num_files, statuses = place.first(_finish_both, place.folder)
    text = f"{num_files - len(differing)} of {num_files} files equal, statuses {statuses}"
    return Found(text, num_files > 0 and not differing and statuses == [0] * _RANKS)


def nan_on_one_rank(place: Place) -> Found:
    """NaN in one rank's rows of one batch: every rank skips that step alone, and learns on."""
    skipped = place.together(_train_poisoned, place)
    before, after = place.first(_first_and_last_fvu, place.folder / "poisoned")
    text = f"{min(skipped)} to {max(skipped)} steps skipped, FVU {before:.2f} → {after:.2f}"
    return Found(text, set(skipped) == {1} and after < before)


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
        job.wait_until(lambda: (saves / "latest").exists() and _is_saving(saves))
        job.ranks[1].kill()
        start = time.monotonic()
        statuses = job.wait(_BOUND_SECONDS)
        seconds = time.monotonic() - start
    return _latest(saves), seconds, statuses


def _terminate(folder: Path) -> tuple[str | None, list[int | None]]:
    """(the checkpoint saved last, statuses)."""
    saves = folder / "disturbed" / "coder" / "checkpoints"
    before = _latest(saves)
    with _train(folder, "disturbed") as job:
        job.wait_until(lambda: _latest(saves) != before)
        job.ranks[1].send_signal(signal.SIGTERM)
        statuses = job.wait(_BOUND_SECONDS)
    after = _latest(saves)
    return (after if after != before else None), statuses


def _finish_both(folder: Path) -> tuple[list[str], int, list[int | None]]:
    """(files of the disturbed run's coders that differ, how many there are, statuses)."""
    statuses: list[int | None] = []
    for runs in ("disturbed", "undisturbed"):
        with _train(folder, runs) as job:
            statuses = job.wait()
            if any(statuses):
                return [], 0, statuses
    found, expected = (_coders(folder / runs / "coder") for runs in ("disturbed", "undisturbed"))
    names = sorted(found.keys() | expected.keys())
    return [n for n in names if found.get(n) != expected.get(n)], len(names), statuses


def _coders(run: Path) -> dict[str, bytes]:
    files = (path for path in sorted((run / "coders").rglob("*")) if path.is_file())
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def _is_saving(saves: Path) -> bool:
    return any(".tmp-" in name for name in os.listdir(saves))


def _latest(saves: Path) -> str | None:
    """The name of the checkpoint that `latest` names, if its record is there and readable."""
    pointer = saves / "latest"
    if not pointer.is_file():
        return None
    name = pointer.read_text().strip()
    read_json(saves / name / "CHECKPOINT.json")
    return name


class _Poisoned(StoredActivations):
    """A store of which one rank gets a NaN in the first row of one batch."""

    def batches(self, *args: Any, **kwargs: Any) -> Any:
        return _PoisonedStream(super().batches(*args, **kwargs))


class _PoisonedStream:
    """What training asks of a stream, passed on."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> "_PoisonedStream":
        self._stream.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stream.__exit__(*error)

    def __iter__(self) -> Iterator[tuple[Batch, StreamState]]:
        for batch, state in self._stream:
            if state.step == _POISONED_STEP:
                for acts_BD in batch.acts.values():
                    acts_BD[0] = torch.nan
            yield batch, state


def _train_poisoned(place: Place) -> int:
    """Train a little on all ranks; the steps that this one skipped."""
    world = place.world
    store = open_store(place.folder / "acts")
    source = _Poisoned(store) if world.rank == world.size - 1 else StoredActivations(store)
    batch_tokens = _BATCH_TOKENS * world.size
    rung = RungConfig(
        name="made_up",
        site="made_up",
        target="made_up",
        coder=TopK(num_latents=128, k=8),
        optim=AdamConfig(lr=1e-3, beta1=0.9, warmup_steps=5),
        parallel=MeshConfig(latent=1),
    )
    config = LoopConfig(
        tokens=50 * batch_tokens,
        batch_tokens=batch_tokens,
        stream=StreamConfig(bucket_tokens=2048),
        checkpoint=CheckpointConfig(every_steps=1000),
        log=LogConfig(every_steps=1, wandb=WandbMode.disabled),
    )
    folder = place.folder / "poisoned"
    folder.mkdir(exist_ok=True)
    run = TrainingRun(config, [rung], source, world, folder)
    run.run()
    return run.rungs[0].num_skipped


def _first_and_last_fvu(run: Path) -> tuple[float, float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    fvus = [line["fvu"] for line in lines if line["rung"]]
    return fvus[0], fvus[-1]
