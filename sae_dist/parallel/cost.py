"""What a training step hands to collectives, message by message: pure arithmetic.

`docs/architecture.md` has the same as a table. The tests hold real steps to it, byte by byte.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from sae_dist.coders import CoderConfig, Form, Kind

_SUM = 8  # bytes of a number that is summed in float64, or counted in int64
_DIGITS = 2**16  # the bars of a radix select's histogram, which settles 16 bits
_LATENCY = 20e-6  # seconds that a message takes however small it is
_IN_NODE, _BETWEEN_NODES = 225e9, 25e9  # bytes/s of a GPU: half of NVLink's 450e9, of 400 Gbit/s


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


@dataclass(frozen=True, slots=True)
class _Step:
    """A step; b rows a process, B rows a part of the batch, values of w bytes, stored ones of s."""

    coder: CoderConfig
    D: int
    E: int
    b: int
    B: int
    F: int
    w: int
    s: int

    def messages(self, *, has_dead: bool) -> Iterator[Message]:
        config, w = self.coder, self.w
        yield Message("rows of x", MeshAxis.latent, self.b * self.D * self.s, True)
        if config.form is not Form.autoencoder:
            yield Message("rows of y", MeshAxis.latent, self.b * self.E * self.s, True)
        if config.uses_aux_k:
            yield Message("number of dead latents", MeshAxis.latent, _SUM)
        yield from self._pass(config.k)
        yield Message("number of active entries", MeshAxis.latent, _SUM)
        num_sums = 1 + 1 + (self.E + 1)  # active entries, squared error, the target's moments
        if config.uses_multi_topk:
            yield from self._pass(min(4 * config.k, config.num_latents))
            num_sums += 1
        if config.uses_aux_k and has_dead:
            yield self._candidates(config.aux_k)
            yield from self._decoded()
            num_sums += 1 + (self.E + 1)
        yield Message("sums of the loss", MeshAxis.data, num_sums * _SUM)
        yield from self._gradients()
        yield Message("squared norm of the gradient", MeshAxis.latent, w)
        yield Message("firings of each latent", MeshAxis.data, self.F * _SUM)
        if config.kind is Kind.batchtopk:
            yield Message("least activation", MeshAxis.world, w)

    def _pass(self, k: int) -> Iterator[Message]:
        """Select, decode, and the gradients that come back."""
        if self.coder.kind is Kind.topk:
            yield self._candidates(k)
        if self.coder.kind is Kind.batchtopk:
            yield Message("number of candidates", MeshAxis.world, _SUM)
            for _ in range(8 * self.w // 16):
                yield Message("histogram", MeshAxis.world, _DIGITS * _SUM)
        yield from self._decoded()

    def _candidates(self, k: int) -> Message:
        return Message("candidates", MeshAxis.latent, self.B * (k + 1) * self.w, True)

    def _decoded(self) -> Iterator[Message]:
        yield Message("reconstruction", MeshAxis.latent, self.B * self.E * self.w)
        if self.coder.form is Form.autoencoder:
            yield Message("gradient of b_dec in the encoder", MeshAxis.latent, self.D * self.w)

    def _gradients(self) -> Iterator[Message]:
        if self.coder.form is Form.skip_transcoder:
            yield Message("gradient of W_skip", MeshAxis.data, self.D * self.E * self.w)
        yield Message("gradient of W_dec", MeshAxis.data, self.F * self.E * self.w)
        yield Message("gradient of W_enc", MeshAxis.data, self.F * self.D * self.w)
        of_latents = 2 if self.coder.kind is Kind.jumprelu else 1  # b_enc, threshold
        vectors = of_latents * self.F + self.E
        yield Message("gradients of the vectors", MeshAxis.data, vectors * self.w)


def messages(
    coder: CoderConfig,
    d_in: int,
    d_out: int,
    batch_tokens: int,
    mesh: tuple[int, int],
    *,
    has_dead: bool = True,
    bytes_per_value: int = 4,
    bytes_per_stored: int = 2,
) -> list[Message]:
    """All that one process of a `data × latent` mesh hands to collectives in a step, once each.

    Rungs of one site and one latent axis share its rows: they cross for the first of them.

    Three things add to it: ties at the selection's edge, a BatchTopK whose candidates did not
    reach (its first steps may search twice), and, outside of the step, logging and checkpoints.

    Args:
        batch_tokens: B, the rows of the global batch.
        mesh: lengths of the data axis and the latent axis.
        has_dead: whether any latent is dead, so that AuxK has work to do.
        bytes_per_value: of weights and sums.
        bytes_per_stored: of activations as they come from the store, in which form rows cross.
    """
    data, latent = mesh
    step = _Step(
        coder,
        D=d_in,
        E=d_out,
        b=batch_tokens // (data * latent),
        B=batch_tokens // data,
        F=coder.num_latents // latent,
        w=bytes_per_value,
        s=bytes_per_stored,
    )
    sizes = _sizes(mesh)
    return [m for m in step.messages(has_dead=has_dead) if sizes[m.over] > 1]


def wire_bytes(
    coder: CoderConfig, d_in: int, d_out: int, batch_tokens: int, mesh: tuple[int, int]
) -> float:
    """Bytes that a process sends in a float32 step with dead latents, with ring collectives."""
    sizes = _sizes(mesh)
    step = messages(coder, d_in, d_out, batch_tokens, mesh)
    return sum(message.wire_bytes(sizes[message.over]) for message in step)


def message_seconds(
    coder: CoderConfig,
    d_in: int,
    d_out: int,
    batch_tokens: int,
    mesh: tuple[int, int],
    per_node: int,
) -> float:
    """What the messages of that step take, one after the other, on GPUs with `per_node` a node.

    Each has its latency, and its bytes go at the speed of the slowest link of its axis.
    """
    sizes, seconds = _sizes(mesh), 0.0
    world = sizes[MeshAxis.world]
    per_node = min(per_node, world)
    for message in messages(coder, d_in, d_out, batch_tokens, mesh):
        span = mesh[1] if message.over is MeshAxis.latent else world  # ranks from first to last
        bandwidth = _IN_NODE if per_node % span == 0 else _BETWEEN_NODES
        seconds += _LATENCY + message.wire_bytes(sizes[message.over]) / bandwidth
    return seconds


def _sizes(mesh: tuple[int, int]) -> dict[MeshAxis, int]:
    data, latent = mesh
    return {MeshAxis.data: data, MeshAxis.latent: latent, MeshAxis.world: data * latent}
