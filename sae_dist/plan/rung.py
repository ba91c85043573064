"""What one rung of a ladder takes: its mesh, memory, and time a step."""

from dataclasses import dataclass

from sae_dist.coders import CoderConfig, layers_of
from sae_dist.coders.flops import CANDIDATES, step_flops
from sae_dist.parallel import MachineConfig, choose_mesh
from sae_dist.parallel.cost import message_seconds, messages, wire_bytes
from sae_dist.plan.memory import ROUNDED_BYTES, checkpoint_bytes, rung_memory, working_memory
from sae_dist.train import OptimConfig, RungConfig
from sae_dist.train.optimizers import update_cost

_OF_OUTPUT = 2  # times that the product's output is moved: written, and looked through
_OF_WEIGHTS, _OF_KEPT = 4, 2  # a gradient and a weight, and a moment: written and read
_OF_AVERAGE = 3  # it is read and written, and the weight read


@dataclass(frozen=True, kw_only=True, slots=True)
class RungPlan:
    """A rung's cost.

    Attributes:
        mesh: lengths of the data axis and the latent axis.
        device_bytes: that one process holds, by what for; `working` is estimated.
        flops: of a step, on all devices together.
        moved_bytes, sent_bytes: that one device moves in its memory and sends in a step.
        message_seconds: of a step's messages, one after the other.
        step_seconds: product, memory and messages one after the other.
        checkpoint_bytes, coder_bytes: on disk, of one checkpoint and of the coder at the end.
    """

    name: str
    mesh: tuple[int, int]
    device_bytes: dict[str, int]
    flops: float
    moved_bytes: float
    sent_bytes: float
    message_seconds: float
    step_seconds: float
    checkpoint_bytes: int
    coder_bytes: int


def plan_rung(
    rung: RungConfig,
    d_in: int,
    d_out: int,
    batch_tokens: int,
    bytes_per_value: int,
    machine: MachineConfig,
) -> RungPlan:
    """One rung's cost. Raises UserError if it fits no mesh of the machine's devices."""
    coder, D, E, w = rung.coder, d_in, d_out, bytes_per_value
    sizes = coder, D, E, batch_tokens
    update = update_cost(rung.optim, coder, D, E)
    latent = choose_mesh(rung.parallel, machine, machine.devices, *sizes, update)
    mesh = machine.devices // latent, latent
    rows = batch_tokens // mesh[0]
    dtypes = {"bytes_per_value": w, "bytes_per_searched": ROUNDED_BYTES if w == 4 else 0}
    memory = rung_memory(coder, rung.optim, D, E, latent, **dtypes)
    memory["working"] = working_memory(coder, D, E, rows, latent, w)
    whole = rung_memory(coder, rung.optim, D, E, **dtypes)
    product, sparse = step_flops(coder, D, E, batch_tokens)
    product += update.flops * mesh[0]  # each part of the batch has it to do
    moved = moved_bytes(coder, rung.optim, D, E, rows, mesh, w)
    step = messages(*sizes, mesh, update=update)
    talking = message_seconds(step, mesh, machine)
    return RungPlan(
        name=rung.name,
        mesh=mesh,
        device_bytes=memory,
        flops=product + sparse,
        moved_bytes=moved,
        sent_bytes=wire_bytes(step, mesh),
        message_seconds=talking,
        step_seconds=machine.seconds_of_products(product / machine.devices)
        + machine.seconds_of_memory(moved)
        + talking,
        checkpoint_bytes=checkpoint_bytes(whole),
        coder_bytes=whole["parameters"],
    )


def moved_bytes(
    coder: CoderConfig,
    optim: OptimConfig,
    D: int,
    E: int,
    rows: int,
    mesh: tuple[int, int],
    bytes_per_value: int,
) -> float:
    """Bytes that one device reads and writes in a step, as if no cache held any of them.

    The product reads the rounded encoder and moves its output twice; an entry reads rows of the
    matrices and of the batch; the update passes over the rows: all of them, or where the optimizer
    lets others be and with one part of the batch those that can have fired.
    """
    (data, latent), w, moved = mesh, bytes_per_value, 0.0
    for one, d, e in layers_of(coder, D, E):
        F = one.num_latents // latent
        num = rows * one.expected_l0 / latent
        search = ROUNDED_BYTES * (F * d + _OF_OUTPUT * rows * F)
        entries = num * w * (CANDIDATES * d + 3 * e + d)
        fired_alone = optim.moves_fired_rows_alone and data == 1
        share = min(1.0, num / F) if fired_alone else 1.0
        times = _OF_WEIGHTS + _OF_KEPT * optim.num_moments
        update = share * F * (times * (d + e) * w + ROUNDED_BYTES * d)
        average = _OF_AVERAGE * F * (d + e) * w if optim.ema_decay else 0.0
        moved += search + entries + update + average
    return moved
