"""What `sae-dist export` does where a tool reads more than a coder's weights (`handoff/`)."""

from pathlib import Path

from sae_dist.apps.harvested import load_harvested_tokenizer
from sae_dist.common.errors import UserError
from sae_dist.common.log import log_info
from sae_dist.common.patterns import rungs_asked_for
from sae_dist.config import ExportConfig
from sae_dist.handoff import Handoff, handoff_named
from sae_dist.latents import Latents, rungs_with_latents
from sae_dist.text import vocabulary


def hand_off(run: Path, config: ExportConfig) -> Path:
    """Check all, then write all; the folder is returned."""
    handoff = handoff_named(config.to)
    if config.push is not None:
        raise UserError(
            f"push={config.push} with to={config.to}; expected a format of coders, which alone are "
            "pushed from here; leave push out, and upload the folder with hf upload"
        )
    rungs = rungs_asked_for(config.rungs, handoff.rungs(run), of=str(run))
    handoff.check(run, rungs)
    folder = Path(config.folder) if config.folder else run / "exports" / handoff.name
    handoff.write(folder, run, rungs, _texts(handoff, run, rungs, config))
    log_info(f"{', '.join(rungs)} for {handoff.title} in {folder}")
    return folder


def _texts(
    handoff: Handoff, run: Path, rungs: list[str], config: ExportConfig
) -> list[bytes] | None:
    """The tokens' texts, if there are latents and a tokenizer of their language model."""
    known = set(rungs) & set(rungs_with_latents(run))
    lm = Latents(run, min(known)).about.lm if known else None
    if lm is not None:
        trust = config.lm_trust_remote_code
        return vocabulary(load_harvested_tokenizer(lm, config.lm_name, trust_remote_code=trust))
    if handoff.needs_texts:
        raise UserError(
            f"found no language model that run={run.name} read; {handoff.title} shows what its "
            "tokens read; expected a run of a harvested store; to=delphi needs none"
        )
    return None
