"""What was found with one language model, as a file; a document shows several side by side."""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from examples.reproduce.verdict import Measured
from sae_dist.common.errors import UserError
from sae_dist.common.files import write_atomic


@dataclass(frozen=True, slots=True)
class Record:
    """Where and how figures came about, and the figures.

    Args:
        facts: by name.
        commands: each with the seconds that it took.
        effects: by the claim's title.
    """

    facts: dict[str, str] = field(default_factory=dict)
    commands: list[tuple[str, float]] = field(default_factory=list)
    effects: dict[str, list[Measured]] = field(default_factory=dict)


def read_record(path: Path) -> Record:
    """The record in a file, an empty one where there is none.

    Raises:
        UserError: it cannot be understood.
    """
    if not path.is_file():
        return Record()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except msgspec.MsgspecError as error:
        raise UserError(
            f"found {path} unreadable ({error}); expected what examples.reproduce wrote; restore it"
        ) from error


def write_record(path: Path, record: Record) -> None:
    """Write it, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
