"""Make a published coder one of ours: to be evaluated, sharded, stitched, finetuned.

    sae-dist import_coder path=FOLDER to=runs/NAME/coders/RUNG site=resid_post.12
    sae-dist import_coder path=hub:USER/REPO/FOLDER to=FOLDER
    sae-dist import_coder path=published:SUITE/CODER to=FOLDER

Reads what SAELens, sparsify and dictionary_learning write, and Gemma Scope (2), Llama Scope,
Qwen-Scope, Goodfire and circuit-tracer's authors have published; which one, the files tell. Where a
folder has the coders of several layers, name the file. `site` and `target` are asked for where the
files do not say them, `form=transcoder` for a `params.npz` whose input is as wide as its output. A
coder in `runs/NAME/coders` is measured with `sae-dist evaluate run=NAME store=PATH`, and trained on
with `launch/train.py … init_from=FOLDER`.
"""

from pathlib import Path

from sae_dist.apps.command import command, entry
from sae_dist.common.log import log_info
from sae_dist.config import ImportConfig
from sae_dist.interop import import_foreign


@command
def import_coder(config: ImportConfig) -> Path:
    """Read the coder and write it, unless one is there; its folder is returned."""
    to = Path(config.to)
    found = import_foreign(config.path, to, config.site, config.target, config.form)
    shape = f"{found['d_in']} → {found['config']['num_latents']} → {found['d_out']}"
    log_info(f"{found['config']['kind']} {found['config']['form']}, {shape}, in {to}")
    return to


main = entry("import_coder")
