"""The pages of a run's latents, with its language model's tokens as text."""

from pathlib import Path

from sae_dist.apps.harvested import load_harvested_tokenizer
from sae_dist.common.log import log_info
from sae_dist.latents import Latents, rungs_with_latents
from sae_dist.pages import write
from sae_dist.text import vocabulary

_LINK = 'href="../latents/index.html"'  # in a report


def write_pages(folder: Path, lm_name: str | None, *, trust_remote_code: bool) -> Path:
    """Write the pages of all latents that are there, and return the one to open.

    Raises UserError where there are none, and for a language model whose tokenizer is not there.
    """
    names = rungs_with_latents(folder) or [""]  # which is refused when it is read
    lm = Latents(folder, names[0]).about.lm
    tokens = None
    if lm is not None:
        tokens = vocabulary(
            load_harvested_tokenizer(lm, lm_name, trust_remote_code=trust_remote_code)
        )
    page = write(folder, tokens)
    log_info(f"pages of latents in {page}")
    if (report := folder / "report" / "index.html").is_file() and _LINK not in report.read_text():
        log_info(f"sae-dist report run={folder.name} lets the report link to them")
    return page
