"""This project's own training step, and the machine's limits beside it."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.timing import DEVICE, Case, median_seconds, peak_bytes, threshold_for
from sae_dist.coders import Coder, LossTerms, kind_named
from sae_dist.parallel import World, make_mesh, start_world
from sae_dist.train import Adam, Rung, RungConfig, SharedRows, training_step
from sae_dist.train.config import Precision
from sae_dist.train.step import repeat_step

AUX_K = "topk+auxk"
_DEAD_SHARE = 16  # with AuxK, one latent in so many is held to be dead
NUM_STEPS = 1_000_000
"""Of the run that the schedules believe in."""
_COPIED_BYTES = 1 << 28
_TOUCHED_BYTES = 8  # a float32 number, read and written once


def make_rung(case: Case, world: World) -> Rung:
    """A rung of the recipes' settings on a 1×1 mesh, with its first weights."""
    kind, d_in = case.kind, case.d_in
    is_jumprelu = kind == "jumprelu"
    own = {"k": case.l0, "aux_coefficient": 1 / 32 if kind == AUX_K else 0.0}
    chosen = kind_named("topk" if kind == AUX_K else kind)
    config = RungConfig(
        name=kind,
        site="x",
        target="x",
        coder=chosen(num_latents=case.num_latents, **({} if is_jumprelu else own)),
        optim=Adam(beta1=0.0 if is_jumprelu else 0.9, clip_norm=None if is_jumprelu else 1.0),
    )
    precision = Precision(case.setting)
    rung = Rung(config, make_mesh(world, 1, {}), 1.0, d_in, d_in, precision, world.device)
    _draw(rung.coder, case.sample_BD)
    if is_jumprelu:
        with torch.no_grad():
            z_BF = rung.coder.pre_activations(case.sample_BD)
            rung.coder.threshold.fill_(threshold_for(z_BF, case.l0))
    return rung


@torch.no_grad()
def _draw(coder: Coder, x_BD: Tensor) -> None:
    """Give a coder unit rows, drawn where they are.

    Those that training begins with are drawn by the host, so that they are the same everywhere, and
    for a million latents that takes a minute.
    """
    normalize(coder.W_dec.normal_(), dim=1, out=coder.W_dec)
    coder.W_enc.copy_(coder.W_dec)
    for vector in (coder.b_enc, coder.b_dec):
        vector.zero_()
    coder.config.initialise(coder, x_BD)


def take_step(rung: Rung, rows: SharedRows, step: int, num_steps: int = NUM_STEPS) -> LossTerms:
    """A step that is repeated at once where it found more than it had room for; the host waits."""
    result = training_step(rung, rows, step, num_steps)
    if rung.progress.num_held:
        result = repeat_step(rung, rows, step, num_steps)
    return result.forward


def hold_dead(rung: Rung) -> None:
    """Let every sixteenth latent count as dead, whether it fired or not."""
    rung.counters.silent_F[::_DEAD_SHARE] = rung.config.coder.dead_after_tokens


def product_seconds(x_BD: Tensor, W_FD: Tensor) -> float:
    """The time of z = x Wᵀ into memory that is there already."""
    z_BF = x_BD.new_empty(len(x_BD), len(W_FD))
    return median_seconds(lambda: torch.mm(x_BD, W_FD.T, out=z_BF))


def optimizer_bytes(rung: Rung, fired_F: Tensor) -> int:
    """What a step must read and write of both matrices: weights and moments, and gradients.

    A row that did not fire has no gradient, and without a first moment it is not touched at all.
    """
    num_latents, num_fired = len(fired_F), int((fired_F > 0).sum())
    if not rung.config.optim.moves_fired_rows_alone:
        rows = 3 * num_latents + num_fired  # weight, two moments; gradient
    else:
        rows = 3 * num_fired  # weight, second moment, gradient
    return 2 * rows * rung.coder.d_in * _TOUCHED_BYTES


def floor(x_BD: Tensor, W_FD: Tensor, num_bytes: int) -> dict[str, float]:
    """The encoder's product and the optimizer's bytes, at the rates measured here and now.

    The product is one in the setting's precision or one of bfloat16 tensors, whichever is faster:
    a float32 step may find what fires with the latter.
    """
    exact, half = product_seconds(x_BD, W_FD), product_seconds(x_BD.bfloat16(), W_FD.bfloat16())
    product = min(exact, half)
    source = torch.zeros(_COPIED_BYTES // 4, device=DEVICE)
    target = torch.empty_like(source)
    bytes_per_second = 2 * _COPIED_BYTES / median_seconds(lambda: target.copy_(source))
    return {
        "floor_ms": (product + num_bytes / bytes_per_second) * 1e3,
        "product_ms": product * 1e3,
        "product_gflops": 2 * len(x_BD) * W_FD.numel() / product / 1e9,
        "memory_gb_per_s": bytes_per_second / 1e9,
    }


def time_steps(case: Case) -> dict[str, float]:
    """Take the steps of its clock."""
    with start_world() as world:
        rung = make_rung(case, world)
        forward = None
        for step, x_BD in enumerate(case.clock):
            if case.kind == AUX_K:
                hold_dead(rung)
            batch = SharedRows({"x": x_BD}, torch.float32)
            forward = take_step(rung, batch, step)
        assert forward is not None
        peak = peak_bytes()
        num_bytes = optimizer_bytes(rung, forward.fired_F)
        limits = floor(case.clock.batches[0], rung.coder.W_enc.detach(), num_bytes)
        return {"l0": float(forward.l0), "peak_bytes": peak} | limits
