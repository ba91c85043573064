"""The training loop: stream → every rung takes a step → log, save, go on where it stopped."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sae_dist.checkpoint import Checkpoints
from sae_dist.common.errors import Preempted, UserError
from sae_dist.common.log import log_info, progress
from sae_dist.common.memory import collected_every
from sae_dist.common.settings import validate
from sae_dist.kernels import host
from sae_dist.kernels.host import start_reading
from sae_dist.parallel import World
from sae_dist.stream import ActivationSource, Batches, BatchPart
from sae_dist.train.config import LoopConfig, Precision, RungConfig
from sae_dist.train.fingerprint import check_unchanged, fingerprint_of
from sae_dist.train.graph import GraphedStep
from sae_dist.train.ladder import build_ladder, describe, initialise, sites_of
from sae_dist.train.measures import firing_frequency, postfix, rung_measures, start_to_host
from sae_dist.train.metrics_log import MetricsLog
from sae_dist.train.profiling import traced
from sae_dist.train.progress import check_skipped
from sae_dist.train.replicas import check_replicas
from sae_dist.train.resume import checkpoint_to_resume, steps_done
from sae_dist.train.rows import SharedRows
from sae_dist.train.rung import Rung
from sae_dist.train.schedules import never_in_time
from sae_dist.train.signals import AnyProcess, begun, ending_signals
from sae_dist.train.speed import Speed
from sae_dist.train.staging import on_device
from sae_dist.train.step import StepResult, repeat_step, training_step
from sae_dist.train.tensorboard_tracker import require_tensorboard
from sae_dist.train.validation import held_out_figures
from sae_dist.train.watch import Watch

if TYPE_CHECKING:
    from tqdm import tqdm

Figures = dict[str, Any]
Evaluate = Callable[[Sequence[Rung], int], dict[str, Figures]]
"""Measures rungs after so many steps, on all processes together: figures by rung and name.

The coders are in evaluation mode, and take activations divided by `rung.scale`. Tensors of one
number are read later, together with all others.
"""

_GARBAGE_EVERY_STEPS = 100


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
        evaluate: Evaluate | None = None,
    ) -> None:
        """`watch` is told of every step; without one nobody watches.

        `evaluate` adds its figures to those that `log.evaluate_every_steps` asks for.
        """
        num_tokens = source.num_tokens if config.tokens is None else config.tokens
        _check(config, num_tokens, source, world)
        if config.tokens is None:
            log_info(
                f"tokens={num_tokens}: all that {source.about['store']} has for training, once"
            )
        config = replace(config, tokens=num_tokens)
        self.config, self.source, self.world, self.folder = config, source, world, folder
        self.watch, self.evaluate = watch or Watch(world, config.watch), evaluate
        self.dtype = config.precision.weights
        is_exact = config.precision is not Precision.bfloat16
        torch.set_float32_matmul_precision("highest" if is_exact else "medium")
        self.num_steps = num_tokens // config.batch_tokens
        self.rungs = build_ladder(
            rung_configs, source, world, config.batch_tokens, config.precision, config.machine
        )
        self._graphed = [GraphedStep(rung) for rung in self.rungs if config.cuda_graph]
        self.checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint)
        self.step, self._gammas = 0, dict[str, float]()
        if checkpoint := checkpoint_to_resume(self.checkpoints, config.resume):
            self._resume(checkpoint)
        else:
            self._gammas = initialise(self.rungs, source, config.seed)

    def run(self) -> None:
        """Take the steps that are left, and write the coders."""
        log = None
        if self.world.rank == 0:
            rungs = describe(self._configs)
            log = MetricsLog(self.folder, self.folder.name, rungs, self.config.log, self.step)
        try:
            if self.step < self.num_steps:
                for line in never_in_time(self.config, self._configs, self.num_steps):
                    log_info(f"warning: {line}")
                with self.checkpoints:
                    self._take_steps(log)
                    self.watch.pause("waiting for the last checkpoint")
            begun()
            self.watch.pause("writing the coders")
            coders = self.folder / "coders"
            for rung in self.rungs:
                rung.export(coders, {"run": self.folder.name, "source": self.source.about})
            log_info(f"coders in {coders}")
        finally:
            if log is not None:
                log.close(self.folder / "coders")

    @property
    def _configs(self) -> list[RungConfig]:
        return [rung.config for rung in self.rungs]

    def _take_steps(self, log: MetricsLog | None) -> None:
        """Step by step to the end: every rung on the batch, then log, save, end if asked to."""
        trace = self.folder / "profile" if self.config.profile else None
        steps_left, size = self.num_steps - self.step, self.config.batch_tokens
        every = self.config.log
        log_every = every.every_steps, every.evaluate_every_steps
        looked_at_every = every.histogram_every_steps, every.evaluate_every_steps
        with (
            ending_signals() as asked_to_end,
            self._batches() as batches,
            progress(total=self.num_steps, initial=self.step, desc="train", unit="step") as bar,
            collected_every(_GARBAGE_EVERY_STEPS) as collect_garbage,
            traced(trace, self.world.rank, steps_left) as trace_step,
        ):
            speed = Speed(self.rungs, size, self.world, self.step)
            coming: deque[Callable[[], bool]] = deque()
            most_coming = 0 if host.is_at_hand(self.rungs[0].progress.counts_3) else 1
            anyone = AnyProcess(self.world, self.step)
            self.watch.step(self.step)
            for acts, state in on_device(islice(batches, steps_left), self.world.device):
                begun()
                rows = SharedRows(acts, self.dtype)
                results = self._step(rows)
                self.step = state.step
                bar.update()
                trace_step()
                collect_garbage()
                is_logged = self._is_due(*log_every)
                waited = batches.waited_seconds if is_logged else None
                check = cache(self._start_checking(rows, results))
                if self._is_due(*looked_at_every):  # only what all steps have changed
                    while coming:
                        coming.popleft()()
                    check()
                coming.append(self._start_telling(results, check, speed, waited, bar, log))
                own_wish = asked_to_end() or self.checkpoints.has_failed
                is_ending = anyone.wishes(self.step, own_wish)
                is_saving = is_ending or self._is_due(self.config.checkpoint.every_steps)
                is_last = is_saving or self.step == self.num_steps
                is_behind = False
                while len(coming) > (0 if is_last or is_behind else most_coming):
                    is_behind = coming.popleft()()
                if is_saving or self._is_due(self.config.watch.replicas_every_steps):
                    check_replicas(self.rungs, self.step)
                if is_saving:
                    self._save()
                if is_ending and self.step < self.num_steps:
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

    def _step(self, rows: SharedRows) -> list[StepResult]:
        if self._graphed:
            return [take(rows.acts, self.step, self.num_steps) for take in self._graphed]
        for rung in self.rungs:
            rung.start_gather(rows)
        return [training_step(rung, rows, self.step, self.num_steps) for rung in self.rungs]

    def _is_due(self, *every_steps: int | None) -> bool:
        is_last = self.step == self.num_steps
        return any(every and (is_last or self.step % every == 0) for every in every_steps)

    def _start_checking(self, rows: SharedRows, results: list[StepResult]) -> Callable[[], bool]:
        """Begin to read how a step went; what is returned says so, and repeats it where it is held.

        There, once for all, the host waits for the device. It raises NonFiniteError, and gives
        whether the step was repeated: then so are all after it, before there is another.
        """
        step, progress = self.step - 1, [rung.progress for rung in self.rungs]
        in_a_row = start_reading(torch.stack([counts.counts_3[2] for counts in progress]))
        num_held = start_reading(torch.stack([counts.num_held for counts in progress]))

        def check() -> bool:
            skipped, held = in_a_row().tolist(), num_held().tolist()
            for i, rung in enumerate(self.rungs):
                if held[i]:
                    results[i] = repeat_step(rung, rows, step, self.num_steps)
                    skipped[i] = int(rung.progress.counts_3[2])
                check_skipped(rung.name, step, skipped[i])
            return any(held)

        return check

    def _start_telling(
        self,
        results: list[StepResult],
        check: Callable[[], bool],
        speed: Speed,
        waited: float | None,
        bar: "tqdm",
        log: MetricsLog | None,
    ) -> Callable[[], bool]:
        """Begin to read a step's figures, if there are seconds `waited`, for the log.

        Called by all processes together. What is returned checks the step, tells them, and gives
        what `check` gives.
        """
        step, tokens = self.step - 1, self.step * self.config.batch_tokens
        first = list(results)
        measured = None if waited is None else self._measure(results, speed, waited)

        def tell() -> bool:
            is_repeated = check()
            if measured is not None:
                figures = measured()
                for rung, before, result in zip(self.rungs, first, results, strict=True):
                    if result is not before:
                        again = rung_measures(rung, result, step, self.num_steps)
                        figures[rung.name] |= start_to_host(again)()
                bar.set_postfix_str(postfix(figures), refresh=False)
                if log is not None:
                    log.write(step, tokens, figures)
            return is_repeated

        return tell

    def _measure(
        self, results: list[StepResult], speed: Speed, waited: float
    ) -> Callable[[], dict[str | None, Figures]]:
        """Gives the figures after a step, of each rung by name and of the ladder by None."""
        figures: dict[str | None, Figures] = {}
        for rung, result in zip(self.rungs, results, strict=True):
            figures[rung.name] = rung_measures(rung, result, self.step - 1, self.num_steps)
            if rung.name in self._gammas:  # once, at first
                figures[rung.name]["input/gamma"] = self._gammas.pop(rung.name)
            if self._is_due(self.config.log.histogram_every_steps):
                figures[rung.name]["firing_frequency"] = firing_frequency(rung)
        if self._is_due(self.config.log.evaluate_every_steps):
            self.watch.pause(f"evaluating step {self.step}")
            tokens, size = self.config.log.evaluate_tokens, self.config.batch_tokens
            _add(figures, held_out_figures(self.rungs, self.source, tokens, size))
            if self.evaluate is not None:
                _add(figures, self.evaluate(self.rungs, self.step))
        read, of_ladder = start_to_host(figures), speed.read(self.step, waited)
        return lambda: read() | {None: of_ladder}

    def _fingerprint(self) -> dict[str, Any]:
        return fingerprint_of(self.config, self._configs, self.source, self.num_steps)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {name: tensor for rung in self.rungs for name, tensor in rung.tensors().items()}

    def _save(self) -> None:
        self.watch.pause(f"saving step {self.step}")
        about = {
            "step": self.step,
            "identity": self._fingerprint(),
            "rungs": {rung.name: rung.numbers() for rung in self.rungs},
        }
        self.checkpoints.save(self.step, self._tensors(), about)

    def _resume(self, path: Path) -> None:
        checkpoint = self.checkpoints.open(path)
        about = checkpoint.about
        check_unchanged(about["identity"], self._fingerprint(), path)
        self.step = steps_done(about, self.num_steps, self.config, path)
        checkpoint.load(self._tensors())
        for rung in self.rungs:
            rung.set_numbers(about["rungs"][rung.name])
        log_info(f"going on from {path}")


def _add(figures: dict[str | None, Figures], more: dict[str, Figures]) -> None:
    for rung, measured in more.items():
        figures[rung] |= measured


def _check(config: LoopConfig, num_tokens: int, source: ActivationSource, world: World) -> None:
    if config.log.tensorboard:
        require_tensorboard()
    validate(config)
    if config.cuda_graph and world.device.type != "cuda":
        raise UserError("cuda_graph=true, but found no GPU; leave it out")
    if config.log.evaluate_every_steps is not None and not source.num_held_out:
        raise UserError(
            f"log.evaluate_every_steps={config.log.evaluate_every_steps}, but found no held-out "
            "sequences; harvest with held_out > 0, or leave it out"
        )
    if not config.batch_tokens <= num_tokens or config.batch_tokens % world.size:
        raise UserError(
            f"tokens={num_tokens}, batch_tokens={config.batch_tokens} on {world.size} "
            "processes; expected at least one batch, and a batch that the processes divide"
        )
