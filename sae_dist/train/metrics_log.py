"""Where a run's figures go: `metrics.jsonl` always, W&B and TensorBoard as configured.

Written by rank 0 alone. The file is the truth: what it holds and a tracker lacks, the tracker is
told when a run goes on.
"""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from sae_dist.common.figures import or_null
from sae_dist.common.files import write_all
from sae_dist.train.config import LogConfig, WandbMode
from sae_dist.train.tensorboard_tracker import TensorBoardTracker

METRICS = "metrics.jsonl"


class Tracker(Protocol):
    """What shows figures beside the file: scalars, and histograms as dicts, by rung and step."""

    def first_missing(self, rung: str) -> int:
        """The first step of which it has no figures."""

    def write(self, rung: str, step: int, measures: dict[str, Any], ends_step: bool) -> None:
        """Add figures of a rung; the last ones of a step end it."""

    def flush(self) -> None:
        """See to it that figures outlive this process."""

    def close(self, coders: Path | None) -> None:
        """End; with a folder of finished coders, keep these too where that is done."""


class MetricsLog:
    """The log of one run: each rung's figures of a step are a line of JSON.

    A thread reads the lines and passes them to the trackers, from the file's first one on, so that
    nobody waits for a tracker's server before the log is closed.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        rungs: dict[str, dict[str, Any]],
        config: LogConfig,
        step: int,
    ) -> None:
        """Open the log at a step; what an interrupted run wrote beyond it is cut off.

        Args:
            folder: the run's.
            name: of the run; the W&B group.
            rungs: each rung's configuration, by name.
            step: the first step that will be written.
        """
        self._rungs, self._uploads = list(rungs), config.upload_coders
        self._path, self._told_bytes = folder / METRICS, 0
        _cut(self._path, step)
        self._file = open(self._path, "a")  # noqa: SIM115 - open as long as the run
        self._trackers: list[Tracker] = []
        if config.wandb is not WandbMode.disabled:
            from sae_dist.train.wandb_tracker import WandbTracker, chosen_mode

            if (mode := chosen_mode(config.wandb)) != "disabled":
                self._trackers.append(WandbTracker(folder, name, rungs, mode, config))
        if config.tensorboard:
            self._trackers.append(TensorBoardTracker(folder / "tensorboard", self._rungs, step))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sae-trackers")
        self._telling = self._thread.submit(self._tell)

    def write(self, step: int, tokens: int, figures: dict[str | None, dict[str, Any]]) -> None:
        """Log a step's figures by rung, the last ones the ladder's, whose name is None.

        What is not finite is null, and trackers are not told of it: undefined, or of a step that
        was skipped. Trackers are given the ladder's figures for every rung. All is on disk when
        this returns, so that no checkpoint is ahead of its figures.

        Raises:
            UserError: a tracker has failed.
        """
        for rung, measures in figures.items():
            line = or_null({"step": step, "tokens": tokens, "rung": rung, **measures})
            self._file.write(_to_line(line))
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._telling.done():
            self._telling.result()
            self._telling = self._thread.submit(self._tell)

    def close(self, coders: Path | None = None) -> None:
        """End the log; with `upload_coders`, upload the finished coders from that folder."""
        with self._thread, self._file:
            self._file.flush()
            self._thread.submit(self._tell).result()
            for tracker in self._trackers:
                tracker.close(coders if self._uploads else None)

    def _tell(self) -> None:
        """Pass the lines that were written since to the trackers of their rungs that lack them."""
        with open(self._path, "rb") as file:
            file.seek(self._told_bytes)
            for text in file if self._trackers else ():
                if not text.endswith(b"\n"):  # it is being written
                    break
                self._tell_line(json.loads(text))
                self._told_bytes += len(text)
        for tracker in self._trackers:
            tracker.flush()

    def _tell_line(self, line: dict[str, Any]) -> None:
        step, ends_step = line["step"], line["rung"] is None
        known = {"step", "rung", "tokens"} if ends_step else {"step", "rung"}
        measures = {k: value for k, value in line.items() if k not in known and value is not None}
        for tracker in self._trackers:
            for rung in self._rungs if ends_step else [line["rung"]]:
                if step >= tracker.first_missing(rung):
                    tracker.write(rung, step, measures, ends_step)


def _cut(path: Path, step: int) -> None:
    """Take the lines of `step` and later out of a file, and a torn last one."""
    if path.exists():
        kept = (_to_line(or_null(line)).encode() for line in _lines(path) if line["step"] < step)
        write_all([(path, kept)])


def _to_line(line: dict[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file up to the first that is torn."""
    with open(path, errors="replace") as file:
        for text in file:
            try:
                yield json.loads(text)
            except json.JSONDecodeError:
                return
