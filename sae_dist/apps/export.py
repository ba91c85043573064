"""Write a run's coders as other libraries read them, with a card, and push them to the Hub.

    sae-dist export run=NAME to=saelens
    sae-dist export run=NAME to=sae_dist push=USER/REPO
    sae-dist export run=NAME to=neuronpedia

`to` is one of the formats below; sae_dist are our own files. Everything is folded, so that they
take raw activations. A coder that a format cannot hold is refused, with the reason and the nearest
that can, before anything is written. Weights go from file to file block by block: no coder need fit
into memory.

delphi, saedashboard and neuronpedia take what sae-dist latents found out about the coders' latents,
circuit_tracer takes both (docs/handoff.md).
"""

from pathlib import Path
from typing import Any

from sae_dist.apps.command import command, entry
from sae_dist.apps.runs import coders_of, finished_run
from sae_dist.coders import config_of, map_coder
from sae_dist.common.errors import UserError
from sae_dist.common.log import log_info
from sae_dist.common.patterns import rungs_asked_for
from sae_dist.config import ExportConfig
from sae_dist.evaluate import Measure, read_evaluation
from sae_dist.evaluate.registry import measures
from sae_dist.handoff import handoff_names
from sae_dist.interop import Format, all_formats, format_named, public, push, write_card
from sae_dist.report.numbers import written
from sae_dist.report.results import at

Descriptions = dict[str, dict[str, Any]]


@command
def export(config: ExportConfig) -> Path:
    """Check all, write all, then push; the folder of all is returned."""
    run, _ = finished_run(config.runs, config.run)
    if config.to in handoff_names():
        from sae_dist.apps.hand_off import hand_off  # with transformers, which coders do not need

        return hand_off(run, config)
    figures = read_evaluation(run) or {}
    format = format_named(config.to)
    coders = _described(run, config.rungs)
    for rung, description in coders.items():
        require_holds(format, rung, description)
    places = _places(format, coders, figures)
    folder = Path(config.folder) if config.folder else run / "exports" / format.name
    for where, description in places.items():
        coder = map_coder(run / "coders" / description["rung"])
        format.write(folder / where, coder, description["about"])
        log_info(f"  {description['rung']}: {folder / where}")
    measured = _measured(list(coders), figures)
    card = write_card(folder, format, run.name, config.push, places, measured, _told(figures))
    if config.push is not None:
        files = [card, *(folder / where / file for where in places for file in format.files)]
        log_info(f"pushed to {push(folder, files, format, config.push, private=config.private)}")
    log_info(f"coders for {format.title} in {folder}")
    return folder


def _described(run: Path, names: list[str] | None) -> Descriptions:
    """The descriptions of the rungs asked for, or of all, by name; without this machine's paths."""
    found = coders_of(run)
    return {
        name: {**found[name], "rung": name, "about": public(found[name]["about"])}
        for name in rungs_asked_for(names, found, of=str(run))
    }


def require_holds(format: Format, rung: str, description: dict[str, Any]) -> None:
    """Refuse a coder that a format cannot hold, with the reason and the nearest that can.

    Args:
        format: to be written.
        rung: the coder's name.
        description: see `coders.describe_coder`.
    """
    widths = description["d_in"], description["d_out"]
    shape = config_of(description["config"]), *widths, description["about"]
    if reason := format.unsupported_reason(*shape):
        nearest = next(one.name for one in all_formats() if one.unsupported_reason(*shape) is None)
        raise UserError(
            f"{rung}: {reason}; export it with to={nearest}, or name the others with rungs=[…]"
        )


def _places(format: Format, coders: Descriptions, figures: dict[str, Any]) -> Descriptions:
    """The same by the folder that each will be written to; no two share one."""
    places: Descriptions = {}
    for rung, description in coders.items():
        where = format.place(rung, description, at(figures, f"rungs/{rung}/l0"))
        if where in places:
            raise UserError(
                f"{rung} and {places[where]['rung']} would both be {where}; "
                "export one at a time, with rungs=[…] and folder=…"
            )
        places[where] = description
    return places


def _measured(rungs: list[str], figures: dict[str, Any]) -> dict[str, list[str]]:
    """By heading the main figures that any of the coders has, as text."""
    found = [figures.get("rungs", {}).get(rung, {}) for rung in rungs]
    main = [
        figure
        for measure in measures().values()
        if issubclass(measure, Measure)
        for figure in measure.figures
        if figure.is_main and any(at(one, figure.key) is not None for one in found)
    ]
    return {one.heading: written([at(f, one.key) for f in found], one.write) for one in main}


def _told(figures: dict[str, Any]) -> str:
    if not figures:
        return "Nothing was measured before these were written."
    told = f"Measured on {figures['tokens']:,} tokens that training never read"
    clean = figures.get("clean_loss")
    return told + (f"; the clean loss is {clean:.4f} nats a token." if clean else ".")


main = entry("export")
