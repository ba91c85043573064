"""One thing that is wrong with a store, in words for the user."""

from dataclasses import dataclass
from pathlib import Path

from sae_dist.common.errors import UserError

REMEDY = "restore it, or let sae-dist verify mend it with repair=true"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A file that is not what it should be: what was found, what was expected, what to do.

    `unit` is the one whose activations or tokens it holds, if it holds any.
    """

    path: Path | str
    found: str
    expected: str
    remedy: str = REMEDY
    unit: int | None = None

    def __str__(self) -> str:
        return f"found {self.path} {self.found}; expected {self.expected}; {self.remedy}"


class FaultError(UserError):
    """A fault that keeps the reader from going on."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault
