"""Make a dashboard of a run in W&B: a workspace with a panel for each figure of its ladder.

    sae-dist dashboard run=NAME

The run's figures must be in W&B: what was logged offline is uploaded by `wandb sync
runs/NAME/wandb`. Each call saves a workspace of its own, and prints where it is.
"""

import requests
import wandb

from sae_dist.apps.command import command, entry
from sae_dist.apps.runs import finished_run
from sae_dist.common.errors import UserError
from sae_dist.common.log import log_info
from sae_dist.config import DashboardConfig
from sae_dist.report import load
from sae_dist.report.dashboard import workspace


@command
def dashboard(config: DashboardConfig) -> str:
    """Read what a run has logged, and save a workspace that shows it; its address is returned."""
    folder, trained = finished_run(config.runs, config.run)
    if not trained:
        raise UserError(
            f"run={config.run} was not trained here, and W&B knows nothing of it; expected a "
            "trained run; draw it with sae-dist report"
        )
    results, log = load(folder), trained.get("log") or {}
    try:
        entity = log.get("entity") or wandb.Api().default_entity
        made = workspace(results, str(entity), str(log.get("project"))).save()
    except (wandb.Error, requests.RequestException, ValueError) as error:
        raise UserError(
            f"W&B refused the dashboard ({error}); log in with `wandb login`, and upload the run "
            f"first: `wandb sync {folder / 'wandb'}`"
        ) from error
    log_info(f"dashboard in {made.url}")
    return str(made.url)


main = entry("dashboard")
