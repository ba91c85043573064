"""A ladder in W&B: a workspace whose panels show all that its rungs have logged."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from sae_dist.common.errors import UserError
from sae_dist.report.results import RunResults

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

_LEAST_RUNS = 10  # lines that a panel of W&B draws by default


@dataclass(frozen=True, slots=True)
class _Lines:
    """A panel of lines against tokens for each metric that a pattern of names matches."""

    title: str
    pattern: str
    log_y: bool = False


_X = "tokens"
_SECTIONS = {
    "Fidelity and sparsity": [
        _Lines("FVU", "fvu"),
        _Lines("L0", "l0"),
        _Lines("Share of dead latents", "dead_share"),
        _Lines("Held out: {name}", "validation/*"),
    ],
    "Loss": [_Lines("Loss", "loss"), _Lines("Loss: {name}", "loss/*")],
    "Latents": [
        _Lines("Firing frequency (log₁₀)", "firing_frequency"),
        _Lines("Latents that did not fire", "firing_frequency/never"),
        _Lines("Threshold: {name}", "threshold/*"),
    ],
    "Optimizer": [
        _Lines("Learning rate", "lr"),
        _Lines("Sparsity coefficient λ", "sparsity_coefficient"),
        _Lines("Norm of the gradient", "grad_norm", log_y=True),
        _Lines("Skipped steps", "skipped_steps"),
    ],
    "Speed": [
        _Lines("Tokens a second", "tokens_per_second"),
        _Lines("Share of time waiting for data", "stall_share"),
        _Lines("Bytes sent a step", "bytes_per_step"),
        _Lines("Seconds", "seconds"),
        _Lines("FLOP/s", "flops_per_second"),
        _Lines("Share of the devices' FLOP/s", "mfu"),
        _Lines("Peak memory (GiB)", "peak_memory_gib"),
    ],
}


def workspace(results: RunResults, entity: str, project: str) -> "Workspace":
    """The workspace of a run's group, to be saved; metrics that were not logged have no panel.

    Raises:
        UserError: wandb-workspaces is not installed.
    """
    if find_spec("wandb_workspaces") is None:
        raise UserError(
            "found no package wandb-workspaces; install it with `pip install 'sae-dist[wandb]'`"
        )
    from wandb_workspaces import expr
    from wandb_workspaces import workspaces as ws

    logged = sorted(_names(results.metrics))
    sections = {
        title: [panel for lines in charts for panel in _panels(lines, logged)]
        for title, charts in _SECTIONS.items()
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        name=results.name,
        sections=[
            ws.Section(name=title, panels=panels, is_open=True)
            for title, panels in sections.items()
            if panels
        ],
        settings=ws.WorkspaceSettings(
            x_axis=_X, max_runs=max(_LEAST_RUNS, len(results.trained_rungs()))
        ),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(expr.Metric("Group") == results.name),
            order=[expr.Ordering(expr.Metric("Name"), ascending=True)],
        ),
    )


def _panels(lines: _Lines, logged: list[str]) -> list[Any]:
    """The panels of the metrics that a pattern matches; FVU is also drawn against L0."""
    from wandb_workspaces.reports import v2 as wr

    names = [name for name in logged if fnmatchcase(name, lines.pattern)]
    panels: list[Any] = [
        wr.LinePlot(
            title=lines.title.format(name=name.partition("/")[2]),
            x=_X,
            y=[name],
            log_y=lines.log_y,
        )
        for name in names
    ]
    if names == ["fvu"] and "l0" in logged:
        panels.insert(0, wr.ScatterPlot(title="FVU against L0", x="l0", y="fvu"))
    return panels


def _names(metrics: Iterable[dict[str, Any]]) -> set[str]:
    """What the lines of `metrics.jsonl` are called in W&B: histograms give two names."""
    names = set()
    for line in metrics:
        for name, value in line.items():
            names |= {name, f"{name}/never"} if isinstance(value, dict) else {name}
    return names - {"step", "rung"}
