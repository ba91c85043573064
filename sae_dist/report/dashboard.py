"""A ladder in W&B: a workspace whose panels show all that its rungs have logged."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from sae_dist.common.errors import UserError
from sae_dist.report.results import RunResults
from sae_dist.report.styles import grouped
from sae_dist.report.training import Logged, logged_metrics

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

_LEAST_RUNS = 10  # lines that a panel of W&B draws by default
_X = "tokens"


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

    logged = list(logged_metrics(results))
    names = {name for _, name in logged}
    sections = grouped(logged, lambda item: item[0].section)
    return ws.Workspace(
        entity=entity,
        project=project,
        name=results.name,
        sections=[
            ws.Section(
                name=title,
                panels=[panel for known, name in own for panel in _panels(known, name, names)],
                is_open=True,
            )
            for title, own in sections.items()
        ],
        settings=ws.WorkspaceSettings(
            x_axis=_X, max_runs=max(_LEAST_RUNS, len(results.trained_rungs()))
        ),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(expr.Metric("Group") == results.name),
            order=[expr.Ordering(expr.Metric("Name"), ascending=True)],
        ),
    )


def _panels(logged: Logged, name: str, names: set[str]) -> list[Any]:
    """The panel of a metric; FVU is also drawn against L0."""
    from wandb_workspaces.reports import v2 as wr

    title = logged.title.format(name=name.partition("/")[2])
    panel = wr.LinePlot(title=title, x=_X, y=[name], log_y=bool(logged.log))
    if name == "fvu" and "l0" in names:
        return [wr.ScatterPlot(title="FVU against L0", x="l0", y="fvu"), panel]
    return [panel]
