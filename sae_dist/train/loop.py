"""The training loop: stream → every rung takes a step → log, save, go on where it stopped."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from sae_dist.checkpoint import CheckpointConfig, Checkpoints
from sae_dist.common.errors import UserError
from sae_dist.common.log import progress, say
from sae_dist.parallel import Axis, World
from sae_dist.stream import ActivationSource, ActivationStream, StreamConfig
from sae_dist.train.journal import Journal, LogConfig
from sae_dist.train.ladder import begin, build_ladder, describe, sites_of
from sae_dist.train.measures import Throughput, firing_frequency, rung_measures
from sae_dist.train.rows import SharedRows
from sae_dist.train.rung import Precision, RungConfig
from sae_dist.train.step import StepResult, training_step


@dataclass(kw_only=True, slots=True)
class LoopConfig:
    """How long a ladder is trained on what stream. `tokens` counts those of all steps."""

    seed: int = 0
    tokens: int = 8_000_000_000
    batch_tokens: int = 4096
    precision: Precision = Precision.float32
    stream: StreamConfig = field(default_factory=StreamConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)


class Preempted(Exception):
    """The job was asked to end (SIGTERM), and a checkpoint has been saved."""


class TrainingRun:
    """A ladder in training: everything a step touches, and where it has got to.

    Attributes:
        step: the next step to take, from 0; with the source and the seed it says which batch.
        num_steps: how many there are in all.
    """

    def __init__(
        self,
        config: LoopConfig,
        rung_configs: list[RungConfig],
        source: ActivationSource,
        world: World,
        folder: Path,
    ) -> None:
        log = config.log
        if min(log.every_steps, log.histogram_every_steps) < 1:
            raise UserError(
                f"log.every_steps={log.every_steps}, log.histogram_every_steps="
                f"{log.histogram_every_steps}; expected at least 1 of each"
            )
        if not 0 < config.batch_tokens <= config.tokens or config.batch_tokens % world.size:
            raise UserError(
                f"tokens={config.tokens}, batch_tokens={config.batch_tokens} on {world.size} "
                "processes; expected at least one batch, and a batch that the processes divide"
            )
        self.config, self.source, self.world, self.folder = config, source, world, folder
        self.dtype = config.precision.weights
        is_exact = config.precision is not Precision.bfloat16
        torch.set_float32_matmul_precision("highest" if is_exact else "medium")
        self.num_steps = config.tokens // config.batch_tokens
        self.rungs = build_ladder(
            rung_configs, source, world, config.batch_tokens, config.precision
        )
        self.checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint)
        checkpoint = self.checkpoints.latest()
        self.step = self._begin() if checkpoint is None else self._resume(checkpoint)

    def run(self) -> None:
        """Take the steps that are left, and write the coders."""
        journal = None
        if self.world.rank == 0:
            configs = describe([rung.config for rung in self.rungs])
            journal = Journal(self.folder, self.folder.name, configs, self.config.log, self.step)
        try:
            if self.step < self.num_steps:
                with self.checkpoints:
                    self._take_steps(journal)
            coders = self.folder / "coders"
            for rung in self.rungs:
                rung.export(coders, {"run": self.folder.name, "source": self.source.about})
            say(f"coders in {coders}")
        finally:
            if journal is not None:
                journal.close(self.folder / "coders")

    def _take_steps(self, journal: Journal | None) -> None:
        """Step by step to the end: every rung on the batch, then log, save, end if asked to."""
        with (
            _sigterm_flag() as asked_to_end,
            self._batches() as batches,
            progress(total=self.num_steps, initial=self.step, desc="train", unit="step") as bar,
        ):
            speed = Throughput(self.step * self.config.batch_tokens)
            for batch, state in batches:
                acts = {site: x.to(self.world.device) for site, x in batch.acts.items()}
                rows = SharedRows(acts, self.dtype)
                results = [
                    training_step(rung, rows, self.step, self.num_steps) for rung in self.rungs
                ]
                self.step = state.step
                bar.update()
                if self._is_due(self.config.log.every_steps):
                    tokens = self.step * self.config.batch_tokens
                    figures = speed.read(tokens, batches.waited_seconds)
                    self._log(journal, results, figures)
                    bar.set_postfix_str(_postfix(results, figures), refresh=False)
                is_ending = self._any_process(asked_to_end[0] or self.checkpoints.has_failed)
                if is_ending or self._is_due(self.config.checkpoint.every_steps):
                    self._save()
                if self.step == self.num_steps:
                    break
                if is_ending:
                    self.checkpoints.finish()
                    raise Preempted(f"saved at step {self.step}; start the command again to go on")

    def _batches(self) -> ActivationStream:
        config = self.config
        return self.source.batches(
            sites_of([rung.config for rung in self.rungs]),
            config.batch_tokens,
            config.seed,
            config.stream,
            self.world.rank,
            self.world.size,
            self.step,
        )

    def _is_due(self, every_steps: int) -> bool:
        return self.step % every_steps == 0 or self.step == self.num_steps

    def _any_process(self, flag: bool) -> bool:
        everyone = Axis(torch.distributed.group.WORLD, self.world.rank, self.world.size)
        return bool(everyone.sum(torch.tensor(float(flag), device=self.world.device)) > 0)

    def _log(
        self, journal: Journal | None, results: list[StepResult], figures: dict[str, float]
    ) -> None:
        """Write the last step's figures; all processes take part in summing them."""
        last, tokens = self.step - 1, self.step * self.config.batch_tokens
        for rung, result in zip(self.rungs, results, strict=True):
            measures = rung_measures(rung, result, last, self.num_steps)
            if self._is_due(self.config.log.histogram_every_steps):
                measures["firing_frequency"] = firing_frequency(rung)
            if journal is not None:
                journal.write(last, tokens, rung.name, measures)
        if journal is not None:
            journal.write(last, tokens, None, dict(figures))

    def _identity(self) -> dict[str, Any]:
        """What must not change between a checkpoint and the run that goes on from it."""
        identity: dict[str, Any] = {
            "source": self.source.identity,
            "seed": self.config.seed,
            "batch_tokens": self.config.batch_tokens,
            "precision": self.config.precision.value,
            "stream.lanes": self.config.stream.lanes,
            "stream.bucket_tokens": self.config.stream.bucket_tokens,
        }
        for name, rung in describe([rung.config for rung in self.rungs]).items():
            for key in ("site", "target"):
                identity[f"{name}.{key}"] = rung[key]
            for part in ("coder", "optim"):
                for key, value in rung[part].items():
                    identity[f"{name}.{part}.{key}"] = value
        return identity

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {name: tensor for rung in self.rungs for name, tensor in rung.tensors().items()}

    def _save(self) -> None:
        about = {
            "step": self.step,
            "identity": self._identity(),
            "rungs": {rung.name: rung.numbers() for rung in self.rungs},
        }
        self.checkpoints.save(self.step, self._tensors(), about)

    def _begin(self) -> int:
        """Give all rungs their first weights; the first step."""
        begin(self.rungs, self.source, self.config.seed)
        return 0

    def _resume(self, path: Path) -> int:
        """Load a checkpoint; the step to go on with."""
        about = self.checkpoints.about(path)
        found, expected = about["identity"], self._identity()
        changed = [k for k in sorted(found.keys() | expected) if found.get(k) != expected.get(k)]
        if changed:
            diff = "; ".join(f"{k} was {found.get(k)}, is {expected.get(k)}" for k in changed)
            raise UserError(
                f"{path} is of another run: {diff}; choose another run=NAME or change it back"
            )
        self.checkpoints.load(path, self._tensors())
        for rung in self.rungs:
            rung.set_numbers(about["rungs"][rung.name])
        say(f"going on from {path}")
        return int(about["step"])


def _postfix(results: list[StepResult], figures: dict[str, float]) -> str:
    fvus = [float(result.forward.fvu) for result in results]
    spread = f"FVU {min(fvus):.3f}" + (f"–{max(fvus):.3f}" if len(fvus) > 1 else "")
    speed, stall = figures["tokens_per_second"], figures["stall_share"]
    return f"{spread}, {speed:,.0f} tokens/s, {stall:.0%} waiting"


@contextmanager
def _sigterm_flag() -> Iterator[list[bool]]:
    """A box that turns true when SIGTERM comes; the loop looks into it once a step."""
    box = [False]

    def raise_flag(number: int, frame: FrameType | None) -> None:
        box[0] = True

    previous = signal.signal(signal.SIGTERM, raise_flag)
    try:
        yield box
    finally:
        signal.signal(signal.SIGTERM, previous)
