"""Explanations that somebody else wrote, by latent."""

import csv
from pathlib import Path

import msgspec

from sae_dist.common.errors import UserError


def read_texts(path: Path) -> dict[int, str]:
    """The texts of a file: .json as {LATENT: TEXT}, or .csv with columns `latent` and `text`.

    Raises:
        UserError: there is no such file, or something else is in it.
    """
    expected = "expected .json as {LATENT: TEXT}, or .csv with the columns latent and text"
    if not path.is_file():
        raise UserError(f"found no file explanations={path}; {expected}; correct the path")
    try:
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as file:
                found = {int(row["latent"]): row["text"] for row in csv.DictReader(file)}
        else:
            found = msgspec.json.decode(path.read_bytes(), type=dict[int, str])
    except (msgspec.DecodeError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"found explanations={path} unreadable ({error}); {expected}") from error
    if not found or not all(found.values()):
        raise UserError(f"found explanations={path} without a text; {expected}; write some")
    return found
