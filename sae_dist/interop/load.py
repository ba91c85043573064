"""Load a coder from wherever it is: a folder of ours or of another library, or the Hub."""

from pathlib import Path
from typing import Any

import torch

from sae_dist.coders import Coder, Form, describe_coder, save_coder
from sae_dist.common.errors import UserError
from sae_dist.common.files import atomic_path
from sae_dist.interop.format import Format
from sae_dist.interop.formats import all_formats
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
    return format_of(folder).load(folder, device, part, parts)


def load_described(
    where: str | Path, device: torch.device | str = "cpu"
) -> tuple[Coder, dict[str, Any]]:
    """As `load_coder`, with what the files say of it: `site`, `target`, and of ours all the rest.

    Raises:
        UserError: see `load_coder`.
    """
    folder = local_folder(where)
    return format_of(folder).load_described(folder, device)


def local_folder(where: str | Path) -> Path:
    """The folder itself, or what was downloaded of one on the Hub."""
    return download(str(where)) if str(where).startswith(PREFIX) else Path(where)


def format_of(folder: Path) -> Format:
    """Whose files a folder holds.

    Raises:
        UserError: nobody's, or several's.
    """
    found = [one for one in all_formats() if (folder / one.weights).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(one.name for one in found)
        raise UserError(
            f"found coders for {names} in {folder}; expected one; give each its own folder"
        )
    known = "; ".join(f"{' and '.join(one.files)} ({one.title})" for one in all_formats())
    raise UserError(f"no coder in {folder}: expected {known}")


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
    its = format_of(folder)
    published = its.read(folder)
    site = site or published.about.get("site")
    if not site:
        raise UserError(f"{where} does not say what it was trained on; give it with site=…")
    if form is not None:
        published.form = form
    target = target or published.about.get("target") or site
    if published.form is not Form.autoencoder and target == site:
        raise UserError(f"a {published.form} needs target=… beside site={site}")
    coder = published.coder(folder)
    shown = where if str(where).startswith(PREFIX) else Path(where).name
    about = {"site": site, "target": target, "format": its.name, "from": str(shown)}
    with atomic_path(to) as temporary:
        save_coder(temporary, coder, coder.state_dict(), about)
    return describe_coder(to)
