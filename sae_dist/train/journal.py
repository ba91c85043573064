"""Where a run's figures go: `metrics.jsonl` always, W&B as configured. Written by rank 0 alone."""

import json
import netrc
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import wandb

from sae_dist.common.files import write_atomic
from sae_dist.common.seeds import derive

METRICS = "metrics.jsonl"


class WandbMode(StrEnum):
    """`auto` is online where there is a key, offline elsewhere."""

    auto = "auto"
    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass(kw_only=True, slots=True)
class LogConfig:
    """How often figures are logged, and W&B: one run a rung, in one group a ladder.

    Weights are uploaded (as artifacts, at the end) only with `upload_coders`.
    """

    every_steps: int = 50
    histogram_every_steps: int = 500
    wandb: WandbMode = WandbMode.auto
    project: str = "sae_dist"
    entity: str | None = None
    upload_coders: bool = False


class Journal:
    """The log of one run: a line of JSON for each call of `write`, and a W&B run for each rung."""

    def __init__(
        self,
        folder: Path,
        name: str,
        rungs: dict[str, dict[str, Any]],
        config: LogConfig,
        step: int,
    ) -> None:
        """Open the journal at a step; what an interrupted run wrote beyond it is cut off.

        Args:
            folder: the run's.
            name: of the run; the W&B group.
            rungs: each rung's configuration, by name.
            step: the first step that will be written.
        """
        self._file = _reopen(folder / METRICS, step)
        mode = _wandb_mode(config.wandb)
        self._config = config
        self._runs = {
            rung: wandb.init(
                project=config.project,
                entity=config.entity,
                group=name,
                name=rung,
                id=_wandb_id(name, rung),
                resume="allow" if mode == "online" else None,
                dir=folder,
                mode=mode,
                config=settings,
                reinit="create_new",
                save_code=False,
                settings=wandb.Settings(
                    console="off", silent=True, disable_git=True, disable_job_creation=True
                ),
            )
            for rung, settings in rungs.items()
            if mode != "disabled"
        }

    def write(self, step: int, tokens: int, rung: str | None, measures: dict[str, Any]) -> None:
        """Log figures of one rung, or with None of the ladder, which every W&B run is given."""
        line = {"step": step, "tokens": tokens, "rung": rung, **measures}
        self._file.write(json.dumps(line) + "\n")
        shown: dict[str, Any] = {"tokens": tokens}
        for name, value in measures.items():
            shown[name] = _wandb_histogram(value) if isinstance(value, dict) else value
        for name, run in self._runs.items():
            if rung in (None, name):
                run.log(shown, step=step)

    def keep(self) -> None:
        """Force to disk what was written, so that no checkpoint is ahead of its figures."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self, coders: Path | None = None) -> None:
        """End the log; with `upload_coders`, upload the finished coders from that folder."""
        for rung, run in self._runs.items():
            if self._config.upload_coders and coders is not None:
                artifact = wandb.Artifact(f"{run.id}-coder", type="model")
                artifact.add_dir(str(coders / rung))
                run.log_artifact(artifact)
            run.finish()
        self._file.close()


def _reopen(path: Path, step: int) -> Any:
    """Open for appending, without the lines of `step` and later, or a torn last line."""
    if path.exists():
        kept = []
        for line in path.read_text().splitlines():
            try:
                if json.loads(line)["step"] < step:
                    kept.append(line + "\n")
            except json.JSONDecodeError:
                break
        write_atomic(path, "".join(kept).encode())
    return open(path, "a")


def _wandb_id(run: str, rung: str) -> str:
    """One of at most 128 characters, which is what W&B takes; names beyond end in their hash."""
    whole = f"{run}-{rung}"
    return whole if len(whole) <= 128 else f"{whole[:111]}-{derive(0, whole):016x}"


def _wandb_mode(mode: WandbMode) -> Any:
    if mode is not WandbMode.auto:
        return mode.value
    if chosen := os.environ.get("WANDB_MODE"):
        return chosen
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    try:
        return "online" if netrc.netrc().authenticators("api.wandb.ai") else "offline"
    except (FileNotFoundError, netrc.NetrcParseError):
        return "offline"


def _wandb_histogram(frequency: dict[str, Any]) -> wandb.Histogram:
    return wandb.Histogram(np_histogram=(frequency["counts"], frequency["edges_log10"]))
