"""Load a coder from wherever it is: a folder of ours or of another library, or the Hub."""

from pathlib import Path
from typing import Any

import torch

from sae_dist import coders
from sae_dist.coders import Coder, Form, describe_coder, save_coder, slice_of
from sae_dist.coders.files import DESCRIPTION
from sae_dist.common.errors import UserError
from sae_dist.common.files import atomic_path
from sae_dist.interop.config import FormatName
from sae_dist.interop.formats import FOREIGN
from sae_dist.interop.hub import PREFIX, download


def load_coder(
    where: str | Path,
    device: torch.device | str = "cpu",
    *,
    part: int = 0,
    parts: int = 1,
) -> Coder:
    """Load a trained coder as a plain `nn.Module` on raw activations, in evaluation mode.

    Args:
        where: `runs/NAME/coders/RUNG`, a folder that SAELens, sparsify, Gemma Scope or
            dictionary_learning wrote, or `hub:USER/REPO/FOLDER`, there at `@REVISION`.
        device: where its weights go.
        part, parts: load only this slice of the latents. Of a folder of ours nothing more is read;
            other formats are read whole first.

    Returns:
        a coder with `encode(x)`, `decode(acts)` and `forward(x)`.

    Raises:
        UserError: there is no coder, its files are unusable, or `parts` does not divide its
            latents.
    """
    folder = local_folder(where)
    name = format_of(folder)
    if name is FormatName.sae_dist:
        return coders.load_coder(folder, device, part=part, parts=parts)
    coder = FOREIGN[name].read(folder).coder(folder)
    return _slice(coder, part, parts).to(device)


def local_folder(where: str | Path) -> Path:
    """The folder itself, or what was downloaded of one on the Hub."""
    return download(str(where)) if str(where).startswith(PREFIX) else Path(where)


def format_of(folder: Path) -> FormatName:
    """Whose files a folder holds.

    Raises:
        UserError: nobody's, or several's.
    """
    if (folder / DESCRIPTION).is_file():
        return FormatName.sae_dist
    found = [name for name, module in FOREIGN.items() if (folder / module.WEIGHTS).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"found coders for {' and '.join(found)} in {folder}; expected one; "
            "give each its own folder"
        )
    known = "; ".join(f"{' and '.join(m.FILES)} ({m.TITLE})" for m in FOREIGN.values())
    raise UserError(
        f"no coder in {folder}: expected {DESCRIPTION} and coder.safetensors, or of others {known}"
    )


def import_foreign(
    where: str | Path, to: Path, site: str | None, target: str | None, form: Form | None
) -> dict[str, Any]:
    """Write a coder from anywhere as one of ours.

    Args:
        where: see `load_coder`.
        to: the folder to write, a new one.
        site, target: what it reads and reconstructs; by default what its files say of them.
        form: for files that do not say whether the coder is a transcoder's.

    Returns:
        the description written, see `coders.describe_coder`.

    Raises:
        UserError: besides those of `load_coder`, a site that is not known, or a form that its
            weights are not of.
    """
    folder = local_folder(where)
    name = format_of(folder)
    if name is FormatName.sae_dist:
        raise UserError(f"{where} is a coder of ours already; use it where it is, or copy it")
    published = FOREIGN[name].read(folder)
    site = site or published.about.get("site")
    if not site:
        raise UserError(f"{where} does not say what it was trained on; give it with site=…")
    if form is not None:
        published.form = form
    target = target or published.about.get("target") or site
    if published.form is not Form.autoencoder and target == site:
        raise UserError(f"a {published.form} needs target=… beside site={site}")
    coder = published.coder(folder)
    about = {"site": site, "target": target, "format": name.value, "from": _shown(where)}
    with atomic_path(to) as temporary:
        save_coder(temporary, coder, coder.state_dict(), about)
    return describe_coder(to)


def _shown(where: str | Path) -> str:
    """An address on the Hub, of a folder only its name."""
    return str(where) if str(where).startswith(PREFIX) else Path(where).name


def _slice(coder: Coder, part: int, parts: int) -> Coder:
    if parts == 1:
        return coder
    latents = slice_of(coder.config.num_latents, part, parts)
    held = Coder(coder.config, coder.d_in, coder.d_out, latents=latents, pre_bias=coder.pre_bias)
    rows = slice(latents.start, latents.stop)
    state = coder.state_dict()
    held.load_state_dict({n: t[rows] if n in coder.latent_tensors else t for n, t in state.items()})
    return held.eval().requires_grad_(False)
