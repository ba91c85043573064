"""Time this project's own training step, and measure the machine's limits beside it."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.measure import (
    BATCH,
    D_IN,
    DEVICE,
    K,
    activations,
    arguments,
    peak_bytes,
    sample,
    show,
    synchronise,
    threshold_for,
)
from sae_dist.coders import CoderConfig, Kind
from sae_dist.parallel import World, make_mesh, start_world
from sae_dist.train import OptimConfig, RungConfig, SharedRows, training_step
from sae_dist.train.rung import Precision, Rung

AUX_K = "topk+auxk"
_DEAD_SHARE = 16  # with AuxK, one latent in so many is held to be dead
_NUM_STEPS = 1_000_000  # of the run that the schedules believe in
_COPIED_BYTES = 1 << 28
_BYTES_PER_PARAMETER = 32  # float32 weight, gradient and two moments, each read and written once


def make_rung(
    kind: str, num_latents: int, world: World, precision: Precision = Precision.float32
) -> Rung:
    """A rung of the recipes' settings on a 1×1 mesh, with its first weights."""
    is_jumprelu = kind == Kind.jumprelu
    config = RungConfig(
        name=kind,
        site="x",
        target="x",
        coder=CoderConfig(
            kind=Kind.topk if kind == AUX_K else Kind(kind),
            num_latents=num_latents,
            k=K,
            aux_coefficient=1 / 32 if kind == AUX_K else 0.0,
        ),
        optim=OptimConfig(
            beta1=0.0 if is_jumprelu else 0.9, clip_norm=None if is_jumprelu else 1.0
        ),
    )
    rung = Rung(config, make_mesh(world, 1, {}), 1.0, D_IN, D_IN, precision, world.device)
    x_BD = activations()[0]
    rung.begin(0, x_BD, x_BD)
    if rung.coder.threshold is not None:
        with torch.no_grad():
            z_BF = rung.coder.pre_activations(sample(x_BD))
            rung.coder.threshold.fill_(threshold_for(z_BF))
    return rung


def hold_dead(rung: Rung) -> None:
    """Let every sixteenth latent count as dead, whether it fired or not."""
    rung.counters.silent_F[::_DEAD_SHARE] = rung.config.coder.dead_after_tokens


def median_seconds(run: Callable[[], object], num_runs: int = 3) -> float:
    """The median time of `run`, after one that is not counted."""
    seconds = []
    for _ in range(num_runs + 1):
        synchronise()
        before = time.perf_counter()
        run()
        synchronise()
        seconds.append(time.perf_counter() - before)
    return statistics.median(seconds[1:])


def floor(x_BD: Tensor, W_FD: Tensor) -> dict[str, float]:
    """The encoder's product and the optimizer's bytes, at the rates measured here and now."""
    z_BF = x_BD.new_empty(len(x_BD), len(W_FD))
    product = median_seconds(lambda: torch.mm(x_BD, W_FD.T, out=z_BF))
    source = torch.zeros(_COPIED_BYTES // 4, device=DEVICE)
    target = torch.empty_like(source)
    bytes_per_second = 2 * _COPIED_BYTES / median_seconds(lambda: target.copy_(source))
    optimizer = 2 * W_FD.numel() * _BYTES_PER_PARAMETER / bytes_per_second
    return {
        "floor_ms": (product + optimizer) * 1e3,
        "product_ms": product * 1e3,
        "product_gflops": 2 * BATCH * W_FD.numel() / product / 1e9,
        "memory_gb_per_s": bytes_per_second / 1e9,
    }


def main() -> None:
    """Time one case and print it."""
    options = arguments()
    with start_world() as world:
        rung = make_rung(options.kind, options.num_latents, world, Precision(options.setting))
        l0 = torch.zeros(())
        for step, x_BD in enumerate(options.clock):
            if options.kind == AUX_K:
                hold_dead(rung)
            batch = SharedRows({"x": x_BD}, torch.float32)
            l0 = training_step(rung, batch, step, _NUM_STEPS).forward.l0
        peak = peak_bytes()
        limits = floor(activations()[0], rung.coder.W_enc.detach())
        show(options.clock, float(l0), **limits | {"peak_bytes": peak})


if __name__ == "__main__":
    main()
