"""A trace of a few steps, to look at where their time goes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from sae_dist.common.log import log_info

_STEPS = 3
_STEPS_BEFORE = 5  # which compile, and fill caches


@contextmanager
def traced(folder: Path | None, rank: int, num_steps: int) -> Iterator[Callable[[], None]]:
    """While inside, trace a few steps into `folder/rank-N.json` (Chrome's format, for Perfetto).

    What is yielded is to be called after each of `num_steps` steps. Without a folder it does
    nothing.
    """
    if folder is None:
        yield lambda: None
        return
    folder.mkdir(parents=True, exist_ok=True)
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)

    def write(profiler: profile) -> None:
        profiler.export_chrome_trace(str(folder / f"rank-{rank}.json"))
        log_info(f"a trace of {min(_STEPS, num_steps)} steps in {folder}")

    skipped = max(0, min(_STEPS_BEFORE, num_steps - _STEPS - 1))
    when = schedule(wait=skipped, warmup=1, active=_STEPS, repeat=1)
    with profile(activities=activities, schedule=when, on_trace_ready=write) as profiler:
        yield profiler.step
