"""The figures of a run for TensorBoard: one folder of event files a rung."""

from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from sae_dist.common.errors import UserError


class TensorBoardTracker:
    """A writer for each rung, in a folder of its name."""

    def __init__(self, folder: Path, rungs: list[str], step: int) -> None:
        """Go on in `folder/<rung>`, where events of `step` and later are from now on hidden."""
        from torch.utils.tensorboard import SummaryWriter  # wants an optional package

        self._first_missing = {
            rung: step if any((folder / rung).glob("events.*")) else 0 for rung in rungs
        }
        self._writers = {rung: SummaryWriter(folder / rung, purge_step=step) for rung in rungs}

    def first_missing(self, rung: str) -> int:
        """The first step of which there are no figures."""
        return self._first_missing[rung]

    def write(self, rung: str, step: int, measures: dict[str, Any], ends_step: bool) -> None:
        """Add figures of a rung at a step."""
        writer = self._writers[rung]
        for name, value in measures.items():
            if isinstance(value, dict):
                _write_histogram(writer, name, value, step)
                writer.add_scalar(f"{name}/never", value["never"], step)
            else:
                writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Give all that was written to the operating system."""
        for writer in self._writers.values():
            writer.flush()

    def close(self, coders: Path | None) -> None:
        """End the files; coders are not for TensorBoard."""
        for writer in self._writers.values():
            writer.close()


def require_tensorboard() -> None:
    """Raise UserError where TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        raise UserError(
            "log.tensorboard=true, but found no package tensorboard; "
            "install it with `pip install 'sae-dist[tensorboard]'`"
        )


def _write_histogram(writer: Any, name: str, histogram: dict[str, Any], step: int) -> None:
    """Counts between edges; moments, which TensorBoard wants, are those of the bins' middles."""
    edges, counts = histogram["edges_log10"], histogram["counts"]
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    pairs = list(zip(middles, counts, strict=True))
    writer.add_histogram_raw(
        name,
        min=edges[0],
        max=edges[-1],
        num=sum(counts),
        sum=sum(middle * count for middle, count in pairs),
        sum_squares=sum(middle**2 * count for middle, count in pairs),
        bucket_limits=edges[1:],
        bucket_counts=counts,
        global_step=step,
    )
