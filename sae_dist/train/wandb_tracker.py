"""The figures of a run in Weights & Biases: one W&B run a rung, in one group a ladder."""

import os
import re
import shutil
import uuid
from pathlib import Path
from typing import Any

import wandb

from sae_dist.common.errors import UserError
from sae_dist.common.files import write_atomic
from sae_dist.common.seeds import derive
from sae_dist.train.config import LogConfig, WandbMode


class WandbTracker:
    """A W&B run for each rung, whose id is made of the run's and the rung's names.

    It ends in what is drawn when the run's folder is begun: a run of the same name that takes the
    place of one that was removed is another one for W&B, too.

    Online, a run that goes on resumes these runs. Offline nobody knows what W&B has, or what its
    file of a killed run holds (it writes in blocks of 32 KiB): each start writes a file that begins
    at step 0, and takes the place of the files before it when it is closed.
    """

    def __init__(
        self,
        folder: Path,
        group: str,
        rungs: dict[str, dict[str, Any]],
        mode: str,
        config: LogConfig,
    ) -> None:
        """Begin or resume the W&B run of the first of `rungs` (configurations by name).

        That of another begins with its first figures: each takes seconds.

        Raises:
            UserError: W&B cannot be reached, or does not let us in.
        """
        self._folder, self._group, self._begun = folder, group, begun_as(folder)
        self._rungs, self._mode, self._config = rungs, mode, config
        self._runs: dict[str, wandb.Run] = {}
        self._run(next(iter(rungs)))

    def _run(self, rung: str) -> wandb.Run:
        if rung in self._runs:
            return self._runs[rung]
        try:
            self._runs[rung] = wandb.init(
                project=self._config.project,
                entity=self._config.entity,
                group=self._group,
                name=rung,
                id=wandb_id(self._group, rung, self._begun),
                resume=None if self._mode == "offline" else "allow",
                dir=self._folder,
                mode=self._mode,  # type: ignore[arg-type]
                config=self._rungs[rung],
                reinit="create_new",
                save_code=False,
                settings=wandb.Settings(
                    console="off", silent=True, disable_git=True, disable_job_creation=True
                ),
            )
        except wandb.Error as error:
            raise UserError(
                f"W&B refused the run ({error}); log in with `wandb login`, or set "
                f"log.wandb=offline and upload later with `wandb sync {self._folder / 'wandb'}`"
            ) from error
        return self._runs[rung]

    def first_missing(self, rung: str) -> int:
        """The first step of which W&B has no figures."""
        return self._run(rung).starting_step

    def write(self, rung: str, step: int, measures: dict[str, Any], ends_step: bool) -> None:
        """Add figures to a rung's row of a step; the one that ends the step sends it."""
        shown: dict[str, Any] = {}
        for name, value in measures.items():
            if isinstance(value, dict):
                counts, edges = value["counts"], value["edges_log10"]
                shown[name] = wandb.Histogram(np_histogram=(counts, edges))
                shown[f"{name}/never"] = value["never"]
            else:
                shown[name] = value
        self._run(rung).log(shown, step=step, commit=ends_step)

    def flush(self) -> None:
        """Nothing can be done: W&B's own process writes when it likes, and dies with this one.

        What a kill has taken away, the next start tells it again.
        """

    def close(self, coders: Path | None) -> None:
        """End the runs; upload the coders in that folder, if there is one, as artifacts."""
        for rung in self._rungs:
            run = self._run(rung)
            if coders is not None:
                artifact = wandb.Artifact(artifact_name(run.id), type="model")
                artifact.add_dir(str(coders / rung))
                run.log_artifact(artifact)
            run.finish()
            if self._mode == "offline":
                _remove_earlier(Path(run.dir).parent, run.id)


def begun_as(folder: Path) -> str:
    """What tells a run from all others of its name, before and after it: kept below `folder`."""
    path = folder / "wandb" / "begun"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, uuid.uuid4().hex[:8].encode())
    return path.read_text()


def wandb_id(run: str, rung: str, begun: str) -> str:
    """One of at most 128 characters, which is what W&B takes; names beyond end in their hash."""
    whole = f"{run}-{rung}-{begun}"
    return whole if len(whole) <= 128 else f"{whole[:111]}-{derive(0, whole):016x}"


def artifact_name(run_id: str) -> str:
    """That of a run's coder. Artifacts' names know fewer characters than runs' ids: no `+`."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", run_id)
    is_own = plain == run_id and len(plain) <= 122
    return f"{plain if is_own else f'{plain[:105]}-{derive(0, run_id):016x}'}-coder"


def chosen_mode(mode: WandbMode) -> str:
    """What `auto` means here: `online`, `offline`, or what WANDB_MODE says."""
    if mode is not WandbMode.auto:
        return mode.value
    if chosen := os.environ.get("WANDB_MODE"):
        return chosen
    is_logged_in = wandb.run is not None or wandb.login(prompt=False, verify=False)
    return "online" if is_logged_in else "offline"


def _remove_earlier(newest: Path, run_id: str) -> None:
    """Remove the offline folders of a W&B run whose whole history stands in its newest one."""
    for folder in newest.parent.glob(f"offline-run-*_*-{run_id}"):
        if folder != newest and len(folder.name) == len(newest.name):
            shutil.rmtree(folder)
