"""Our own files, for the Hub and for whoever has sae_dist: every coder fits."""

from pathlib import Path
from typing import Any

from sae_dist.coders import Coder, CoderConfig, save_coder
from sae_dist.coders.files import DESCRIPTION, WEIGHTS

TITLE = "sae_dist"
FILES = DESCRIPTION, WEIGHTS
LOADING = """\
import sae_dist

coder = sae_dist.load_coder("hub:{repo}/{path}")  # or load_coder("{path}")
acts = coder.encode(x)
y = coder(x)
"""


def unsupported_reason(
    config: CoderConfig, d_in: int, d_out: int, about: dict[str, Any]
) -> str | None:
    """None: every coder is held."""
    return None


def write(folder: Path, coder: Coder, about: dict[str, Any]) -> None:
    """Write a coder as training does."""
    save_coder(folder, coder, coder.state_dict(), about)
