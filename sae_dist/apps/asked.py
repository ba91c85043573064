"""What a command line says for another command: a plan of both, the harvest beside a training."""

from typing import Any, cast

from omegaconf import OmegaConf

from sae_dist.apps import cli, experiment
from sae_dist.common.errors import UserError
from sae_dist.config import HarvestConfig, TrainConfig

LIVE = "live"
_NOWHERE = "."


def asked_harvest(store: str, overrides: list[str]) -> dict[str, Any]:
    """What `harvest.…` on a training's command line asks for; empty where nothing is harvested.

    Raises:
        UserError: what launch/harvest.py would refuse, or `harvest.…` beside a store.
    """
    if store != LIVE:
        if any(override.lstrip("+").startswith("harvest.") for override in overrides):
            raise UserError(f"found harvest.… beside store={store}; expected store=live; drop one")
        return {}
    asked = [*experiment.for_part("harvest", overrides), f"store={LIVE}"]
    composed = cli.compose_part("harvest", asked)
    return cast(dict[str, Any], OmegaConf.to_container(composed, enum_to_str=True))


def asked_plan(overrides: list[str]) -> tuple[HarvestConfig, TrainConfig, list[cli.Override]]:
    """The harvest and the training of a plan's command line, and what it says for the training.

    Where both will be, and of which text, need not be said.

    Raises:
        UserError: what launch/harvest.py or launch/train.py would refuse.
    """
    typed = experiment.for_part("train", overrides)
    unneeded = {"store": _NOWHERE, "run": "plan"}
    train: TrainConfig = cli.to_dataclass(cli.compose_part("train", typed, unneeded))
    asked = experiment.for_part("harvest", overrides)
    if train.store == LIVE:
        asked.append(f"store={LIVE}")
    unneeded = {"store": train.store, "text.path": _NOWHERE}
    harvest: HarvestConfig = cli.to_dataclass(cli.compose_part("harvest", asked, unneeded))
    return harvest, train, [*typed, ("store", train.store), ("run", train.run)]
