"""Which checkpoint a run goes on from."""

from pathlib import Path
from typing import Any

from sae_dist.checkpoint import Checkpoints
from sae_dist.common.errors import UserError
from sae_dist.train.config import LoopConfig, Resume


def checkpoint_to_resume(checkpoints: Checkpoints, resume: Resume) -> Path | None:
    """The newest, if there is one; called by all processes together.

    Raises:
        UserError: there is one or there is none, and `resume` does not let it.
    """
    path = checkpoints.latest()
    if path is not None and resume is Resume.never:
        raise UserError(
            f"resume=never, but {path} is there; choose another run=NAME, remove "
            f"{checkpoints.folder.parent}, or go on from it with resume=auto"
        )
    if path is None and resume is Resume.must:
        raise UserError(
            f"resume=must, but there is no complete checkpoint in {checkpoints.folder}; "
            "look after run=NAME and runs=PATH, or begin with resume=auto"
        )
    return path


def steps_done(about: dict[str, Any], num_steps: int, config: LoopConfig, path: Path) -> int:
    """The steps that a checkpoint has behind it, which must be no more than the run's."""
    done = int(about["step"])
    if done > num_steps:
        raise UserError(
            f"found tokens={config.tokens}, {num_steps} steps, but {path} is at step {done}; "
            f"expected at least tokens={done * config.batch_tokens}, which are trained on already; "
            "raise it, or choose another run=NAME"
        )
    return done
