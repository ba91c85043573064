"""The rungs that a training's command line asks for: one, or with `sweep` a ladder of them."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from sae_dist.apps import cli
from sae_dist.coders.config import Form
from sae_dist.common.errors import UserError
from sae_dist.config import SweepConfig, TrainConfig, coder_choice
from sae_dist.train.config import RungConfig

_SHOWN = {
    "coder",
    "coder.form",
    "coder.num_latents",
    "site",
    "target",
    "init_from",
}  # by every rung's name
_HELD = {field.name for field in fields(RungConfig)} - {"name"}


def check_sweep(sweep: SweepConfig) -> None:
    """Raise UserError for a swept key that no rung holds: rungs would be copies of each other."""
    for key in (key for grid in sweep.grids for key in grid):
        if key.partition(".")[0] not in _HELD:
            raise UserError(
                f"found {key} in sweep.grids; expected what a rung has of its own: coder, coder.…, "
                "optim, optim.…, parallel.…, site, target or init_from; all rungs share the rest: "
                f"take it out, and start a run for each {key} (compare puts runs side by side)"
            )


def chosen_rungs(
    config: TrainConfig, overrides: Sequence[cli.Override], sites: list[str]
) -> list[RungConfig]:
    """Those of `expand` that `rungs` picks, or all."""
    return _pick(expand(config, overrides, sites), config.rungs)


def expand(
    config: TrainConfig, overrides: Sequence[cli.Override], sites: list[str]
) -> list[RungConfig]:
    """The rungs that a training configuration asks for, each with a name that tells it apart.

    Each rung of a sweep is composed anew from the command line's overrides and its own.

    Args:
        config: as composed from `overrides`.
        overrides: the command line's.
        sites: of the store; a single one is the default.

    Raises:
        UserError: a rung that cannot be, or two that are one.
    """
    if not config.sweep.grids:
        return [_rung(config, {}, sites)]
    check_sweep(config.sweep)
    rungs: list[RungConfig] = []
    composed: dict[str, TrainConfig] = {}
    for grid in config.sweep.grids:
        values = {key: value if isinstance(value, list) else [value] for key, value in grid.items()}
        swept = [key for key in values if len(values[key]) > 1 and key not in _SHOWN]
        for combination in itertools.product(*values.values()):
            choice = dict(zip(values, combination, strict=True))
            places = {key: choice[key] for key in ("site", "target") if key in choice}
            own = [(key, choice[key]) for key in choice if key not in places]
            if str(own) not in composed:  # where a rung reads and writes changes nothing else of it
                composed[str(own)] = cli.to_dataclass(
                    cli.compose_config("train", [*overrides, *own])
                )
            rung = replace(composed[str(own)], **places)
            told = {f"coder.{name}" for name in rung.coder.told_by_name}
            rungs.append(_rung(rung, {k: choice[k] for k in swept if k not in told}, sites))
    _require_different(rungs)
    return rungs


def _require_different(rungs: list[RungConfig]) -> None:
    """Rungs that would be trained to the same coder, or whose names are one, are refused."""
    by_training: dict[str, RungConfig] = {}
    by_name: dict[str, RungConfig] = {}
    for rung in rungs:
        twin = by_training.setdefault(str(_trained(rung)), rung)
        if twin is not rung:
            raise UserError(
                f"found rungs {twin.name} and {rung.name} of the sweep equal in all that is "
                f"trained{_idle_difference(twin, rung)}; expected each to be another coder; take "
                "one out"
            )
        namesake = by_name.setdefault(rung.name, rung)
        if namesake is not rung:
            differ = ", ".join(_differing(asdict(namesake), asdict(rung)))
            raise UserError(
                f"found two rungs of the sweep called {rung.name}, which differ in {differ}; "
                "expected names that tell them apart; write both values into one grid, as a list"
            )


def _trained(rung: RungConfig) -> dict[str, Any]:
    """What a rung's training depends on: not its name, its mesh, or what it never reads."""
    found = asdict(rung)
    for key in ("name", "parallel"):
        del found[key]
    for key in rung.coder.unread:
        del found["coder"][key]
    if rung.coder.penalty is None:
        del found["optim"]["sparsity_warmup_steps"]
    return found


def _idle_difference(one: RungConfig, other: RungConfig) -> str:
    keys = ", ".join(_differing(asdict(one), asdict(other)))
    return f" ({keys} changes nothing of a {other.coder.kind}'s training)" if keys else ""


def _differing(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key in one.keys() - {"name"}:
        if isinstance(one[key], dict):
            yield from _differing(one[key], other[key], f"{prefix}{key}.")
        elif one[key] != other.get(key):
            yield prefix + key


def _rung(config: TrainConfig, swept: dict[str, Any], sites: list[str]) -> RungConfig:
    site = config.site or (sites[0] if len(sites) == 1 else None)
    if site is None:
        raise UserError(f"the store has sites {', '.join(sites)}: choose with site=…")
    target = config.target or site
    if config.target is None and config.coder.form is not Form.autoencoder:
        raise UserError(f"a {config.coder.form} needs target=… beside site={site}")
    if target != site and config.coder.form is Form.autoencoder:
        raise UserError(f"an autoencoder reconstructs its own input: drop target={target}")
    return RungConfig(
        name=_name(config, swept, site),
        site=site,
        target=target,
        init_from=config.init_from,
        coder=config.coder,
        optim=config.optim,
        parallel=config.parallel,
    )


def _name(config: TrainConfig, swept: dict[str, Any], site: str) -> str:
    coder = config.coder
    kind = coder_choice(coder.kind, coder.form)
    others = [f"{key.rpartition('.')[2] * ('.' in key)}{value}" for key, value in swept.items()]
    return "-".join(filter(None, [kind, str(coder.num_latents), coder.label, site, *others]))


def _pick(rungs: list[RungConfig], numbers: list[int] | None) -> list[RungConfig]:
    if numbers is None:
        return rungs
    is_within = all(0 <= number < len(rungs) for number in numbers)
    if not numbers or not is_within or len(set(numbers)) < len(numbers):
        raise UserError(f"rungs={numbers}; the sweep has rungs 0 to {len(rungs) - 1}, each once")
    return [rungs[number] for number in numbers]
