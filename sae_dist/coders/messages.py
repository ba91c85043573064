"""What one process hands to collectives, as it is counted before anything runs."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from sae_dist.coders.config import Form

SUM_BYTES = 8  # of a number that is summed in float64, or counted in int64
_DIGITS = 2**16  # the bars of a radix select's histogram, which settles 16 bits


class MeshAxis(StrEnum):
    """The axis of a mesh that a message goes over."""

    data = "data"
    latent = "latent"
    world = "world"


@dataclass(frozen=True, slots=True)
class Message:
    """What each process of an axis hands to one collective.

    Attributes:
        num_bytes: size of what one process hands over.
        is_gathered: everyone gets everyone's; else all get the sum (or minimum).
    """

    what: str
    over: MeshAxis
    num_bytes: int
    is_gathered: bool = False

    def wire_bytes(self, size: int) -> float:
        """What a process sends for it around a ring of `size` processes."""
        return self.num_bytes * (size - 1) * (1 if self.is_gathered else 2 / size)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """One process' part of a step, and the messages that kinds have in common.

    b rows a process, B rows a part of the batch, F latents of the slice, widths D and E, values of
    w bytes, stored ones of s.
    """

    form: Form
    D: int
    E: int
    b: int
    B: int
    F: int
    w: int
    s: int

    def candidates(self, k: int) -> Message:
        """Each slice's k + 1 largest of each row, of an exact TopK."""
        return Message("candidates", MeshAxis.latent, self.B * (k + 1) * self.w, True)

    def batch_selection(self) -> Iterator[Message]:
        """An exact BatchTopK whose first candidates reach."""
        yield Message("number of candidates", MeshAxis.world, SUM_BYTES)
        for _ in range(8 * self.w // 16):
            yield Message("histogram", MeshAxis.world, _DIGITS * SUM_BYTES)

    def reconstruction(self, num_levels: int = 1) -> Message:
        """A reconstruction, of several levels each one's part."""
        num_bytes = num_levels * self.B * self.E * self.w
        return Message("reconstruction", MeshAxis.latent, num_bytes)

    def decoded(self, num_levels: int = 1) -> Iterator[Message]:
        """The same, and the gradient that comes back."""
        yield self.reconstruction(num_levels)
        yield from self.centred()

    def centred(self) -> Iterator[Message]:
        """The gradient that comes back of what was subtracted from the input."""
        if self.form.reconstructs_input:
            yield Message("gradient of b_dec in the encoder", MeshAxis.latent, self.D * self.w)

    def least_activation(self) -> Message:
        """The least activation of the global batch, after the step."""
        return Message("least activation", MeshAxis.world, self.w)
