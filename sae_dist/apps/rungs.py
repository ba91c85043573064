"""The rungs of a training, laid out over the sites that there are."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from typing import Any

from sae_dist.apps.choices import coder_choice
from sae_dist.coders.config import Form
from sae_dist.common.errors import UserError
from sae_dist.common.hooks import layer_of
from sae_dist.common.joint import is_joint, join, parts_of, short_name
from sae_dist.common.patterns import at_layer, matching, rungs_asked_for
from sae_dist.config import TrainConfig
from sae_dist.train.config import RungConfig

_HELD = {field.name for field in fields(RungConfig)} - {"name"}


def check_sweep(grids: list[dict[str, Any]]) -> None:
    """Raise UserError for a swept key that no rung holds: rungs would be copies of each other."""
    for key in (key for grid in grids for key in grid):
        if key.partition(".")[0] not in _HELD:
            raise UserError(
                f"found {key} in sweep.grids; expected what a rung has of its own: coder, coder.…, "
                "optim, optim.…, parallel.…, site, target, expansion or init_from; all rungs share "
                f"the rest: take it out, and start a run for each {key} (sae-dist compare puts "
                "runs side by side)"
            )


def draft(config: TrainConfig) -> RungConfig:
    """The rung that a training's own keys say, its site and name still to be filled in."""
    held = {key: getattr(config, key) for key in _HELD}
    return RungConfig(**held | {"site": config.site or "", "target": config.target or ""})


def lay_out(config: TrainConfig, widths: dict[str, int]) -> list[RungConfig]:
    """The rungs of a training: those of its `ladder`, or one, each with a name that tells it apart.

    Patterns become a rung for each of their sites, an expansion a number of latents.

    Args:
        config: whole; of all its rungs those that `rungs` picks are returned.
        widths: of the sites that there are; a single one is the default.

    Raises:
        UserError: a rung that cannot be, or two that are one.
    """
    if config.sweep.grids and not config.ladder:
        raise UserError(
            "found sweep.grids without their rungs; expected sae_dist.compose to expand them, or "
            "whole rungs in ladder=[RungConfig(…)]"
        )
    drafts = config.ladder or [draft(config)]
    rungs = [rung for one in drafts for rung in _at_sites(one, widths)]
    _name(rungs)
    _require_different(rungs)
    return _pick(rungs, config.rungs)


def _at_sites(rung: RungConfig, widths: dict[str, int]) -> Iterator[RungConfig]:
    """A rung for each site that its pattern stands for; of some forms one for all of them."""
    if rung.coder.form.spans_sites:
        yield _side_by_side(rung, widths)
        return
    pattern = rung.site or (next(iter(widths)) if len(widths) == 1 else None)
    if pattern is None:
        raise UserError(f"the store has sites {', '.join(widths)}: choose with site=…")
    if is_joint(pattern):
        raise UserError(
            f"found site={pattern} for a {rung.coder.form}; expected one site; read several side "
            f"by side with coder={rung.coder.kind}_{Form.crosscoder}"
        )
    for site in matching(pattern, widths):
        layer = layer_of(site)
        target = rung.target if layer is None else at_layer(rung.target, layer)
        if not target and rung.coder.form is not Form.autoencoder:
            raise UserError(f"a {rung.coder.form} needs target=… beside site={site}")
        if target not in ("", site) and rung.coder.form is Form.autoencoder:
            raise UserError(f"an autoencoder reconstructs its own input: drop target={target}")
        coder = rung.coder
        if rung.expansion is not None and site in widths:  # else training says what there is
            coder = replace(coder, num_latents=max(1, round(rung.expansion * widths[site])))
        yield replace(rung, site=site, target=target or site, coder=coder)


def _side_by_side(rung: RungConfig, widths: dict[str, int]) -> RungConfig:
    """A coder of all the sites that its patterns stand for; a crosscoder's are by default all."""
    what, is_crosscoder = rung.coder.form.replace("_", "-", 1), rung.coder.form.reconstructs_input
    patterns = rung.site or (join(widths) if is_crosscoder else "")
    sites, targets = (_sites(asked, widths) for asked in (patterns, rung.target or patterns))
    if len(set(sites)) < max(2, len(sites)):
        raise UserError(
            f"found a {what} of {join(sites) or 'no site'}; expected two or more different sites; "
            "join them as site=resid_post.2+resid_post.5, or choose them by a pattern"
        )
    if not is_crosscoder and not rung.target:
        raise UserError(f"a {what} needs target=… beside site={rung.site}")
    if is_crosscoder and targets != sites:
        raise UserError(f"a {what} reconstructs its own input: drop target={rung.target}")
    if len(targets) != len(sites):
        raise UserError(
            f"found {len(sites)} sites and {len(targets)} targets of a {what}; expected as many, "
            "layer by layer; set site=mlp_in.* target=mlp_out.*"
        )
    coder = replace(rung.coder, num_sites=len(sites))
    if rung.expansion is not None and sites[0] in widths:
        times = 1 if is_crosscoder else len(sites)  # so many a layer
        num_latents = times * max(1, round(rung.expansion * widths[sites[0]]))
        coder = replace(coder, num_latents=num_latents)
    return replace(rung, site=join(sites), target=join(targets), coder=coder)


def _sites(patterns: str, widths: dict[str, int]) -> list[str]:
    """The sites that patterns joined by `+` stand for."""
    named = parts_of(patterns) if patterns else []
    return [site for pattern in named for site in matching(pattern, widths)]


def _name(rungs: list[RungConfig]) -> None:
    """Name rungs by what they are, and those that are alike by what they differ in, too."""
    for name, alike in _grouped(rungs, lambda rung: rung.name or _label(rung)).items():
        by_optimizer = _grouped(alike, lambda rung: rung.optim.name)
        for optimizer, same in by_optimizer.items():
            differing = [key for key in _differing(*same) if key != "init_from"]
            for rung in same:
                told = _flat(asdict(rung))
                values = (f"{key.rpartition('.')[2]}{told.get(key)}" for key in differing)
                rung.name = "-".join([name, *([optimizer] * (len(by_optimizer) > 1)), *values])


def _grouped(
    rungs: list[RungConfig], of: Callable[[RungConfig], str]
) -> dict[str, list[RungConfig]]:
    groups: dict[str, list[RungConfig]] = {}
    for rung in rungs:
        groups.setdefault(of(rung), []).append(rung)
    return groups


def _label(rung: RungConfig) -> str:
    coder = rung.coder
    kind = coder_choice(coder.kind, coder.form)
    place, nested = short_name(rung.site), coder.nesting if coder.num_levels > 1 else ""
    return "-".join(filter(None, [kind, str(coder.num_latents), coder.label, nested, place]))


def _require_different(rungs: list[RungConfig]) -> None:
    """Rungs that would be trained to the same coder, or whose names are one, are refused."""
    by_training: dict[str, RungConfig] = {}
    by_name: dict[str, RungConfig] = {}
    for rung in rungs:
        twin = by_training.setdefault(str(_trained(rung)), rung)
        if twin is not rung:
            idle = ", ".join(_differing(twin, rung))
            reason = f" ({idle} changes nothing of a {rung.coder.kind}'s training)" if idle else ""
            raise UserError(
                f"found rungs {twin.name} and {rung.name} of the sweep equal in all that is "
                f"trained{reason}; expected each to be another coder; take one out"
            )
        namesake = by_name.setdefault(rung.name, rung)
        if namesake is not rung:
            raise UserError(
                f"found two rungs of the sweep called {rung.name}, which differ in "
                f"{', '.join(_differing(namesake, rung))}; "
                "expected names that tell them apart; start a run for each"
            )


def _trained(rung: RungConfig) -> dict[str, Any]:
    """What a rung's training depends on: not its name, its mesh, or what it never reads."""
    unread = {"name", "expansion", *(f"coder.{key}" for key in rung.coder.unread)}
    unread |= {"coder.level_weights"} if rung.coder.num_levels == 1 else set()
    unread |= {"optim.sparsity_warmup_steps"} if rung.coder.penalty is None else set()
    told = {key: value for key, value in asdict(rung).items() if key != "parallel"}
    return {key: value for key, value in _flat(told).items() if key not in unread}


def _differing(*rungs: RungConfig) -> list[str]:
    """The keys, but for names, in which some rungs differ."""
    several = [_flat(asdict(rung)) for rung in rungs]
    keys = sorted({key for one in several for key in one if key.rpartition(".")[2] != "name"})
    return [key for key in keys if any(one.get(key) != several[0].get(key) for one in several)]


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        at = prefix + key
        found |= _flat(value, f"{at}.") if isinstance(value, dict) else {at: value}
    return found


def _pick(rungs: list[RungConfig], asked: list[str] | None) -> list[RungConfig]:
    """Those that are asked for by number, as a Slurm array has it, by name or pattern."""
    by_name = {rung.name: rung for rung in rungs}
    numbered = {str(number): name for number, name in enumerate(by_name)}
    names = asked and [numbered.get(one, one) for one in asked]
    of = f"the sweep, by number (0 to {len(rungs) - 1}) or name"
    return [by_name[name] for name in rungs_asked_for(names, by_name, of)]
