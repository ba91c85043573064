"""What a training step hands to collectives, message by message: pure arithmetic.

`docs/architecture.md` has the same as a table. The tests hold real steps to it, byte by byte.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from sae_dist.coders import CoderConfig, Form, layers_of
from sae_dist.coders.messages import SUM_BYTES, MeshAxis, Message, StepShape
from sae_dist.parallel.machine import MachineConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateCost:
    """What an optimizer takes; the default is Adam's, with both moments.

    Attributes:
        num_kept: numbers that it remembers of each weight of a matrix.
        sums: numbers that it sums over the latent axis at a step, message by message.
        flops: operations of its products.
    """

    num_kept: int = 2
    sums: tuple[int, ...] = ()
    flops: float = 0.0


ADAM = UpdateCost()


def _messages(config: CoderConfig, step: StepShape, *, has_dead: bool) -> Iterator[Message]:
    """A step's messages, those over axes of one process too."""
    data, latent, w = MeshAxis.data, MeshAxis.latent, step.w
    parts = layers_of(config, step.D, step.E)
    layers = [
        (one, replace(step, form=one.form, D=d, E=e, F=step.F // len(parts))) for one, d, e in parts
    ]
    yield Message("rows of x", latent, step.b * step.D * step.s, True)
    if not config.form.reconstructs_input:
        yield Message("rows of y", latent, step.b * step.E * step.s, True)
    if config.num_aux:
        yield Message("numbers of dead latents", latent, 2 * SUM_BYTES)
    for one, own in layers:
        yield from one.messages(own)
    yield from step.decoded(config.num_levels)
    yield Message("number of active entries", latent, SUM_BYTES)
    yield from config.further_messages(step, has_dead=has_dead)
    # active entries, squared errors, the target's moments
    num_sums = 1 + config.num_levels + (step.E + 1)
    num_sums += config.num_further_sums(step, has_dead=has_dead)
    yield Message("sums of the loss", data, num_sums * SUM_BYTES)
    if config.form is Form.skip_transcoder:
        yield Message("gradient of W_skip", data, step.D * step.E * w)
    for _, own in reversed(layers):
        yield Message("gradient of W_dec", data, own.F * own.E * w)
        yield Message("gradient of W_enc", data, own.F * own.D * w)
    trained = [spec for spec in config.tensors().values() if spec.is_trained]
    num_own = sum(spec.size(own.F) for _, own in layers for spec in trained)
    yield Message("gradients of the vectors", data, (step.F + step.E + num_own) * w)
    yield Message("squared norm of the gradient", latent, w)
    yield Message("firings of each latent", data, step.F * SUM_BYTES)
    for one, own in layers:
        yield from one.messages_after_step(own)


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
    update: UpdateCost = ADAM,
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
        update: the optimizer's.
    """
    data, latent = mesh
    step = StepShape(
        form=coder.form,
        D=d_in,
        E=d_out,
        b=batch_tokens // (data * latent),
        B=batch_tokens // data,
        F=coder.num_latents // latent,
        w=bytes_per_value,
        s=bytes_per_stored,
    )
    sizes = _sizes(mesh)
    sums = [
        Message("Gram matrix of the update", MeshAxis.latent, num * bytes_per_value)
        for num in update.sums
    ]
    return [m for m in (*_messages(coder, step, has_dead=has_dead), *sums) if sizes[m.over] > 1]


def wire_bytes(step: Iterable[Message], mesh: tuple[int, int]) -> float:
    """Bytes that a process of a mesh sends for a step's messages, with ring collectives."""
    sizes = _sizes(mesh)
    return sum(message.wire_bytes(sizes[message.over]) for message in step)


def message_seconds(
    step: Iterable[Message], mesh: tuple[int, int], machine: MachineConfig
) -> float:
    """What a step's messages take, one after the other, on a machine's devices.

    Each has its latency, and its bytes go at the speed of the slowest link of its axis.
    """
    sizes, seconds = _sizes(mesh), 0.0
    world = sizes[MeshAxis.world]
    per_node = min(machine.devices_per_node, world)
    for message in step:
        span = mesh[1] if message.over is MeshAxis.latent else world  # ranks from first to last
        num_bytes, is_in_node = message.wire_bytes(sizes[message.over]), per_node % span == 0
        seconds += machine.seconds_of_message(num_bytes, is_in_node=is_in_node)
    return seconds


def _sizes(mesh: tuple[int, int]) -> dict[MeshAxis, int]:
    data, latent = mesh
    return {MeshAxis.data: data, MeshAxis.latent: latent, MeshAxis.world: data * latent}
