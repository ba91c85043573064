"""The training loop: stream → every rung takes a step → log, save, go on where it stopped."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sae_dist.checkpoint import Checkpoints
from sae_dist.common.errors import Preempted, UserError
from sae_dist.common.figures import shown
from sae_dist.common.log import log_info, progress
from sae_dist.common.settings import validate
from sae_dist.parallel import Axis, World
from sae_dist.stream import ActivationSource, Batches, BatchPart
from sae_dist.train.config import LoopConfig, Precision, Resume, RungConfig
from sae_dist.train.fingerprint import check_unchanged, fingerprint_of
from sae_dist.train.ladder import build_ladder, describe, initialise, sites_of
from sae_dist.train.measures import Throughput, firing_frequency, rung_measures
from sae_dist.train.metrics_log import MetricsLog
from sae_dist.train.metrics_log import check as check_log
from sae_dist.train.replicas import check_replicas
from sae_dist.train.rows import SharedRows
from sae_dist.train.schedules import never_in_time
from sae_dist.train.signals import begun, ending_signals
from sae_dist.train.step import StepResult, training_step
from sae_dist.train.watch import Watch


class TrainingRun:
    """A ladder in training: everything a step touches, and where it has got to.

    Attributes:
        config: as given, with the number of tokens.
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
        watch: Watch | None = None,
    ) -> None:
        """`watch` is told of every step; without one nobody watches."""
        num_tokens = source.num_tokens if config.tokens is None else config.tokens
        _check(config, num_tokens, world)
        if config.tokens is None:
            log_info(
                f"tokens={num_tokens}: all that {source.about['store']} has for training, once"
            )
        config = replace(config, tokens=num_tokens)
        self.config, self.source, self.world, self.folder = config, source, world, folder
        self.watch = watch or Watch(world, config.watch)
        self.dtype = config.precision.weights
        is_exact = config.precision is not Precision.bfloat16
        torch.set_float32_matmul_precision("highest" if is_exact else "medium")
        self.num_steps = num_tokens // config.batch_tokens
        self.rungs = build_ladder(
            rung_configs, source, world, config.batch_tokens, config.precision
        )
        self.checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint)
        checkpoint = self._checkpoint()
        self.step = self._begin() if checkpoint is None else self._resume(checkpoint)

    def run(self) -> None:
        """Take the steps that are left, and write the coders."""
        journal = None
        if self.world.rank == 0:
            rungs = describe(self._configs)
            journal = MetricsLog(self.folder, self.folder.name, rungs, self.config.log, self.step)
        try:
            if self.step < self.num_steps:
                for line in never_in_time(self.config, self._configs, self.num_steps):
                    log_info(f"warning: {line}")
                with self.checkpoints:
                    self._take_steps(journal)
                    self.watch.pause("waiting for the last checkpoint")
            begun()
            self.watch.pause("writing the coders")
            coders = self.folder / "coders"
            for rung in self.rungs:
                rung.export(coders, {"run": self.folder.name, "source": self.source.about})
            log_info(f"coders in {coders}")
        finally:
            if journal is not None:
                journal.close(self.folder / "coders")

    @property
    def _configs(self) -> list[RungConfig]:
        return [rung.config for rung in self.rungs]

    def _take_steps(self, journal: MetricsLog | None) -> None:
        """Step by step to the end: every rung on the batch, then log, save, end if asked to."""
        with (
            ending_signals() as asked_to_end,
            self._batches() as batches,
            progress(total=self.num_steps, initial=self.step, desc="train", unit="step") as bar,
        ):
            speed = Throughput(self.step * self.config.batch_tokens)
            self.watch.step(self.step)
            for batch, state in batches:
                begun()
                acts = {site: x.to(self.world.device) for site, x in batch.acts.items()}
                rows = SharedRows(acts, self.dtype)
                for rung in self.rungs:
                    rung.start_gather(rows)
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
                is_ending = self._any_process(asked_to_end() or self.checkpoints.has_failed)
                is_saving = is_ending or self._is_due(self.config.checkpoint.every_steps)
                if is_saving or self._is_due(self.config.watch.replicas_every_steps):
                    check_replicas(self.rungs, self.step)
                if is_saving:
                    self.watch.pause(f"saving step {self.step}")
                    self._save()
                if self.step == self.num_steps:
                    break
                if is_ending:
                    self.checkpoints.finish()
                    raise Preempted(f"saved at step {self.step}; start the command again to go on")
                self.watch.step(self.step)

    def _batches(self) -> Batches:
        config, world = self.config, self.world
        part = BatchPart(
            config.batch_tokens,
            config.seed,
            config.stream,
            world.rank,
            world.size,
            self.step,
            self.num_steps,
        )
        return self.source.batches(sites_of(self._configs), part)

    def _is_due(self, every_steps: int) -> bool:
        return self.step % every_steps == 0 or self.step == self.num_steps

    def _any_process(self, flag: bool) -> bool:
        everyone = Axis(torch.distributed.group.WORLD, self.world.rank, self.world.size)
        return bool(everyone.all_reduce(torch.tensor(float(flag), device=self.world.device)) > 0)

    def _log(
        self, journal: MetricsLog | None, results: list[StepResult], figures: dict[str, float]
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
            journal.keep()

    def _identity(self) -> dict[str, Any]:
        """What must not change between a checkpoint and the run that goes on from it."""
        config = self.config
        about_loop = {
            "seed": config.seed,
            "batch_tokens": config.batch_tokens,
            "precision": config.precision.value,
            "stream": {"lanes": config.stream.lanes, "bucket_tokens": config.stream.bucket_tokens},
        }
        return fingerprint_of(about_loop, self._configs, self.source, self.num_steps)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {name: tensor for rung in self.rungs for name, tensor in rung.tensors().items()}

    def _save(self) -> None:
        about = {
            "step": self.step,
            "identity": self._identity(),
            "rungs": {rung.name: rung.numbers() for rung in self.rungs},
        }
        self.checkpoints.save(self.step, self._tensors(), about)

    def _checkpoint(self) -> Path | None:
        """The checkpoint to go on from, if `resume` lets it."""
        path, resume = self.checkpoints.latest(), self.config.resume
        if path is not None and resume is Resume.never:
            raise UserError(
                f"resume=never, but {path} is there; choose another run=NAME, remove {self.folder}"
                ", or go on from it with resume=auto"
            )
        if path is None and resume is Resume.must:
            raise UserError(
                f"resume=must, but there is no complete checkpoint in {self.checkpoints.folder}; "
                "look after run=NAME and runs=PATH, or begin with resume=auto"
            )
        return path

    def _begin(self) -> int:
        """Give all rungs their first weights; the first step."""
        initialise(self.rungs, self.source, self.config.seed)
        return 0

    def _resume(self, path: Path) -> int:
        """Load a checkpoint; the step to go on with."""
        about = self.checkpoints.about(path)
        check_unchanged(about["identity"], self._identity(), path)
        if (done := int(about["step"])) > self.num_steps:
            size = self.config.batch_tokens
            raise UserError(
                f"found tokens={self.config.tokens}, {self.num_steps} steps, but {path} is at step "
                f"{done}; expected at least tokens={done * size}, which are trained on already; "
                "raise it, or choose another run=NAME"
            )
        self.checkpoints.load(path, self._tensors())
        for rung in self.rungs:
            rung.set_numbers(about["rungs"][rung.name])
        log_info(f"going on from {path}")
        return done


def _postfix(results: list[StepResult], figures: dict[str, float]) -> str:
    fvus = [fvu for result in results if math.isfinite(fvu := float(result.forward.fvu))]
    spread = f"FVU {shown(min(fvus, default=None), '.3f')}"
    spread += f"–{max(fvus):.3f}" if len(fvus) > 1 else ""
    speed, stall = figures["tokens_per_second"], figures["stall_share"]
    return f"{spread}, {speed:,.0f} tokens/s, {stall:.0%} waiting"


def _check(config: LoopConfig, num_tokens: int, world: World) -> None:
    check_log(config.log)
    validate(config)
    if not config.batch_tokens <= num_tokens or config.batch_tokens % world.size:
        raise UserError(
            f"tokens={num_tokens}, batch_tokens={config.batch_tokens} on {world.size} "
            "processes; expected at least one batch, and a batch that the processes divide"
        )
