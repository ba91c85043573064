"""Write a run's coders as other libraries read them, with a card, and push them to the Hub.

    sae-dist export run=NAME to=saelens
    sae-dist export run=NAME to=sae_dist push=USER/REPO

`to` is saelens, sparsify, gemma_scope, dictionary_learning, or sae_dist: our own files. Everything
is folded, so that they take raw activations. A coder that a format cannot hold is refused, with
the reason and the nearest that can, before anything is written.
"""

from pathlib import Path
from typing import Any

from sae_dist.apps.command import command, entry
from sae_dist.apps.runs import coders_of, finished_run
from sae_dist.coders import load_coder
from sae_dist.common.errors import UserError
from sae_dist.common.log import log_info
from sae_dist.common.patterns import rungs_asked_for
from sae_dist.config import ExportConfig
from sae_dist.evaluate import read_evaluation
from sae_dist.interop import (
    FORMATS,
    FormatName,
    place,
    public,
    push,
    require_holds,
    write_card,
)


@command
def export(config: ExportConfig) -> Path:
    """Check all, write all, then push; the folder of all is returned."""
    run, _ = finished_run(config.runs, config.run)
    figures = read_evaluation(run) or {}
    coders = _described(run, config.rungs)
    for rung, description in coders.items():
        require_holds(config.to, rung, description)
    places = _places(config.to, coders, figures)
    folder = Path(config.folder) if config.folder else run / "exports" / config.to.value
    module = FORMATS[config.to]
    for where, description in places.items():
        coder = load_coder(run / "coders" / description["rung"])
        module.write(folder / where, coder, description["about"])
        log_info(f"  {description['rung']}: {folder / where}")
    card = write_card(folder, config.to, run.name, config.push, places, figures)
    if config.push is not None:
        files = [card, *(folder / where / file for where in places for file in module.FILES)]
        log_info(f"pushed to {push(folder, files, config.to, config.push, private=config.private)}")
    log_info(f"coders for {module.TITLE} in {folder}")
    return folder


def _described(run: Path, names: list[str] | None) -> dict[str, dict[str, Any]]:
    """The descriptions of the rungs asked for, or of all, by name; without this machine's paths."""
    found = coders_of(run)
    return {
        name: {**found[name], "rung": name, "about": public(found[name]["about"])}
        for name in rungs_asked_for(names, found, of=str(run))
    }


def _places(
    to: FormatName, coders: dict[str, dict[str, Any]], figures: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """The same by the folder that each will be written to; no two share one."""
    places: dict[str, dict[str, Any]] = {}
    for rung, description in coders.items():
        l0 = figures.get("rungs", {}).get(rung, {}).get("l0")
        num_latents = description["config"]["num_latents"]
        where = place(to, rung, description["about"], num_latents, l0)
        if where in places:
            raise UserError(
                f"{rung} and {places[where]['rung']} would both be {where}; "
                "export one at a time, with rungs=[…] and folder=…"
            )
        places[where] = description
    return places


main = entry("export")
