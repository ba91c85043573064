"""What a command line says for another command: a plan of both, the harvest beside a training."""

from typing import Any, cast

from omegaconf import OmegaConf

from sae_dist.apps import cli, experiment
from sae_dist.common.errors import UserError
from sae_dist.config import HarvestConfig, TrainConfig

LIVE = "live"


def asked_harvest(store: str, overrides: list[str]) -> dict[str, Any]:
    """What `harvest.…` on a training's command line asks for; empty where nothing is harvested.

    Raises:
        UserError: what launch/harvest.py would refuse, or `harvest.…` beside a store.
    """
    if store != LIVE:
        if any(override.startswith("harvest.") for override in overrides):
            raise UserError(f"found harvest.… beside store={store}; expected store=live; drop one")
        return {}
    asked = [*experiment.for_part("harvest", overrides), f"store={LIVE}"]
    composed = cli.compose_part("harvest", asked)
    return cast(dict[str, Any], OmegaConf.to_container(composed, enum_to_str=True))


def asked_plan(overrides: list[str]) -> tuple[HarvestConfig, TrainConfig, list[str]]:
    """The harvest and the training of a plan's command line, and what it says for the training.

    Raises:
        UserError: what launch/harvest.py or launch/train.py would refuse.
    """
    typed = experiment.for_part("train", overrides)
    train: TrainConfig = cli.to_dataclass(cli.compose_part("train", typed))
    asked = experiment.for_part("harvest", overrides)
    if train.store == LIVE:
        asked.append(f"store={LIVE}")
    harvest: HarvestConfig = cli.to_dataclass(cli.compose_part("harvest", asked))
    return harvest, train, typed
