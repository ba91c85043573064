"""Load a coder from wherever it is: a folder of ours or of another library, or the Hub."""

from pathlib import Path
from typing import Any

import torch

from sae_dist.coders import Coder, Form, describe_coder, save_coder
from sae_dist.common.errors import UserError
from sae_dist.common.files import atomic_path
from sae_dist.interop.format import Format
from sae_dist.interop.formats import all_formats, formats_of
from sae_dist.interop.hub import PREFIX, download
from sae_dist.interop.suites import PUBLISHED, address_of


def load_coder(
    where: str | Path,
    device: torch.device | str = "cpu",
    *,
    part: int = 0,
    parts: int = 1,
) -> Coder:
    """Load a trained coder as a plain `nn.Module` on raw activations, in evaluation mode.

    Args:
        where: `runs/NAME/coders/RUNG`, a folder of another library's, one of its files (of several
            coders in a folder, the coder's own), `hub:USER/REPO/FOLDER`, there at `@REVISION`, or
            `published:SUITE/CODER`.
        device: where its weights go.
        part, parts: load only this slice of the latents. Of a folder of ours nothing more is read;
            other formats are read whole first.

    Returns:
        a coder with `encode(x)`, `decode(acts)` and `forward(x)`.

    Raises:
        UserError: there is no coder, its files are unusable, or `parts` does not divide its
            latents.
    """
    weights, its = find_coder(where)
    return its.load(weights, device, part, parts)


def load_described(
    where: str | Path, device: torch.device | str = "cpu"
) -> tuple[Coder, dict[str, Any]]:
    """As `load_coder`, with what the files say of it: `site`, `target`, and of ours all the rest.

    Raises:
        UserError: see `load_coder`.
    """
    weights, its = find_coder(where)
    return its.load_described(weights, device)


def local_place(where: str | Path) -> Path:
    """The folder or file itself, or what was downloaded of one on the Hub."""
    address = address_of(str(where)) if str(where).startswith(PUBLISHED) else str(where)
    return download(address) if address.startswith(PREFIX) else Path(where)


def find_coder(where: str | Path) -> tuple[Path, Format]:
    """The file of a coder's weights, and whose it is.

    Raises:
        UserError: nobody's, several coders, or several libraries'.
    """
    place = local_place(where)
    files = [place] if place.is_file() else weights_in(place)
    found = [(file, its) for file in files for its in formats_of(file, Path.is_file)]
    if len(found) == 1:
        return found[0]
    if not found:
        known = "; ".join(f"{' and '.join(one.files)} ({one.title})" for one in all_formats())
        raise UserError(f"no coder in {place}: expected {known}")
    names = sorted({its.name for _, its in found})
    if len(names) == 1:
        raise UserError(
            f"found {len(files)} coders in {place}, {files[0].name} and others; expected one; "
            "name its file"
        )
    raise UserError(
        f"found coders for {' and '.join(names)} in {place}; expected one; give each its own folder"
    )


def weights_in(folder: Path) -> list[Path]:
    """The files in a folder that may be a coder's weights."""
    return sorted({file for one in all_formats() for file in folder.glob(one.weights)})


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
    weights, its = find_coder(where)
    published = its.read(weights)
    site = site or published.about.get("site")
    if not site:
        raise UserError(f"{where} does not say what it was trained on; give it with site=…")
    if form is not None:
        published.form = form
    target = target or published.about.get("target") or site
    if published.form is not Form.autoencoder and target == site:
        raise UserError(f"a {published.form} needs target=… beside site={site}")
    coder = published.coder(weights)
    shown = where if str(where).startswith((PREFIX, PUBLISHED)) else Path(where).name
    about = {"site": site, "target": target, "format": its.name, "from": str(shown)}
    with atomic_path(to) as temporary:
        save_coder(temporary, coder, coder.state_dict(), about)
    return describe_coder(to)
