"""A run's folder with coders in it, as training and evaluation leave it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_dist.coders import Coder, save_coder
from sae_dist.evaluate.results import ABOUT, VERSION, run_path, rung_path, write_record


def make_run(run: Path, coders: Mapping[str, Coder], figures: dict[str, Any], **about: Any) -> None:
    """Write coders of raw activations, all with the same figures."""
    site = {"site": "resid_post.1", "target": "resid_post.1", "run": run.name}
    for name, coder in coders.items():
        save_coder(run / "coders" / name, coder, coder.state_dict(), {**site, **about})
        write_record(rung_path(run, name, "coder"), {"of": {}, "figures": figures})
    (run / "config.yaml").write_text("store: /home/me/store\n")
    write_record(run_path(run, ABOUT), {"version": VERSION})
