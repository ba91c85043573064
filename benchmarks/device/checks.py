"""Is it right? Kernels against float64, and steps of every kind against a CPU's."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.device.parts import Parts
from benchmarks.figures import Figure, LeftOut
from benchmarks.own import NUM_STEPS, make_rung, take_step
from benchmarks.timing import DEVICE, Case, activations, median_seconds
from sae_dist.coders import kind_named, kind_names
from sae_dist.kernels import (
    AdamRows,
    AdamStep,
    Encoder,
    SparsePattern,
    dispatch,
    topk_candidates,
)
from sae_dist.kernels.plain import GROUP
from sae_dist.parallel import World, make_mesh
from sae_dist.train import Adam, Rung, RungConfig, SharedRows, training_step
from sae_dist.train.config import Precision
from sae_dist.train.graph import GraphedStep
from tests.kernels import reference

_ENTRIES_A_ROW = 32
_NUM_STEPS = 20
_DRAWN_ROWS = 1 << 14  # of weights at once
_LOOKED_AT = 1 << 12  # rows of an update
Found = Iterator[Figure | LeftOut]


def kernels(d_in: int, beyond: int) -> Parts:
    """Relative errors of every kernel at shapes that production has, and at one of many latents."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    for num_rows, num_latents in ((130, 1056), (512, 65_536 + 32), (130, beyond)):
        shape = num_rows, d_in, min(num_latents, beyond)
        x_BD, W_FD, b_F = _drawn(shape, generator)
        if num_latents < beyond:  # a search takes many latents block by block
            yield f"search, {shape}", partial(_search, shape, x_BD, W_FD, b_F)
            yield f"ranking, {shape}", partial(_largest, shape, x_BD, W_FD, b_F)
        first = shape[2] * 9 // 10 if num_latents == beyond else 0  # whose rows lie at the end
        latents_BK = _latents(num_rows, shape[2], first, generator)
        yield f"sums, {shape}", partial(_sparse, shape, x_BD, W_FD, latents_BK)
        del x_BD, latents_BK
        yield f"update, {shape}", partial(_update, shape, W_FD, generator)


def _drawn(shape: tuple[int, int, int], generator: torch.Generator) -> tuple[Tensor, ...]:
    """x, W and b of some shape, drawn where they are."""
    num_rows, width, num_latents = shape
    W_FD = torch.empty(num_latents, width, device=DEVICE)
    for rows in W_FD.split(_DRAWN_ROWS):
        rows.normal_(generator=generator)
    x_BD = torch.randn(num_rows, width, generator=generator, device=DEVICE)
    return x_BD, W_FD, torch.randn(num_latents, generator=generator, device=DEVICE)


def _latents(num_rows: int, num_latents: int, first: int, generator: torch.Generator) -> Tensor:
    """Some latents from `first` on for each row, each once, rising [B, K]."""
    num_each = min(_ENTRIES_A_ROW, num_latents - first)
    step = (num_latents - first) // num_each
    places = torch.randint(step, (num_rows, num_each), generator=generator, device=DEVICE)
    return first + step * torch.arange(num_each, device=DEVICE) + places


def _error(found: Tensor, exact: Tensor) -> float:
    """‖found - exact‖ / ‖exact‖ in float64; infinite if anything is not finite."""
    difference = torch.linalg.vector_norm(found.double() - exact.double())
    error = difference / torch.linalg.vector_norm(exact.double())
    return float(error) if found.isfinite().all() else float("inf")


def _twice(kernel: Callable[[], Tensor]) -> tuple[Tensor, bool]:
    """What a kernel gives into memory full of NaN, and whether it does so again."""
    found = kernel()
    torch.full_like(found, torch.nan)  # which the allocator gives out again, if there is one
    return found, torch.equal(found, kernel())


def _figure(
    name: str, shape: tuple[int, ...], error: float, limit: float, same: bool = True
) -> Figure | LeftOut:
    name = f"relative error of {name}, {shape}"
    if not (error <= limit and same):
        return LeftOut(
            name, f"WRONG: {error:.2g} is more than {limit:g}, or the same again: {same}"
        )
    return Figure(name, error, "", target=f"≤ {limit:g}")


def _search(shape: tuple[int, ...], x_BD: Tensor, W_FD: Tensor, b_F: Tensor) -> Found:
    x_BD, W_FD = x_BD.bfloat16(), W_FD.bfloat16()
    exact_BF = x_BD.double() @ W_FD.double().T + b_F
    z_BF, same = _twice(lambda: dispatch.product(x_BD, W_FD, b_F)[0])
    yield _figure("the product", shape, _error(z_BF, exact_BF), 1e-2, same)
    maxima_BG = dispatch.product(x_BD, W_FD, b_F)[1]
    full_BF = torch.nn.functional.pad(z_BF.float(), (0, -len(W_FD) % GROUP), value=-torch.inf)
    expected_BG = full_BF.unflatten(1, (-1, GROUP)).amax(2)
    yield _figure("its maxima", shape, _error(maxima_BG, expected_BG), 0.0)
    floor_B = z_BF.float().topk(min(64, len(W_FD)), dim=1).values[:, -1]
    bound_BG = 0.01 * maxima_BG.abs()
    found = torch.stack(dispatch.entries(z_BF, maxima_BG, floor_B, bound_BG))
    expected = torch.stack(reference.entries(z_BF, maxima_BG, floor_B, bound_BG))
    yield _figure("its entries", shape, _error(found, expected), 0.0)


def _largest(shape: tuple[int, ...], x_BD: Tensor, W_FD: Tensor, b_F: Tensor) -> Found:
    """The k largest of each row, by what float64 makes of those that were chosen."""
    k, encoder = min(_ENTRIES_A_ROW, len(W_FD)), Encoder.of(W_FD, b_F)
    code, _ = topk_candidates(x_BD, encoder, k)
    _, same = _twice(lambda: topk_candidates(x_BD, encoder, k)[1])
    exact_BF = x_BD.double() @ W_FD.double().T + b_F
    masked_BF = torch.full_like(exact_BF, -torch.inf)
    masked_BF[code.rows_N, code.index_N] = exact_BF[code.rows_N, code.index_N]
    found_BK, exact_BK = masked_BF.topk(k, dim=1).values, exact_BF.topk(k, dim=1).values
    yield _figure(f"the {k} largest", shape, _error(found_BK, exact_BK), 1e-6, same)


def _sparse(shape: tuple[int, ...], x_BD: Tensor, W_FD: Tensor, latents_BK: Tensor) -> Found:
    num_rows, num_each = latents_BK.shape
    rows_N = torch.arange(num_rows, device=DEVICE).repeat_interleave(num_each)
    code = SparsePattern.from_rows(rows_N, latents_BK.flatten(), num_rows, len(W_FD))
    values_N = torch.randn(len(rows_N), device=DEVICE)
    W_BKD, x_B1D = W_FD[latents_BK].double(), x_BD.double()[:, None]
    values_BK1 = values_N.double().view(num_rows, num_each, 1)
    dots_N, same = _twice(lambda: dispatch.sddmm(x_BD, W_FD, code))
    error = _error(dots_N, (W_BKD * x_B1D).sum(2).flatten())
    yield _figure("entries' products", shape, error, 1e-5, same)
    sums_BD, same = _twice(lambda: dispatch.spmm(values_N, W_FD, code))
    error = _error(sums_BD, (values_BK1 * W_BKD).sum(1))
    yield _figure("rows' sums", shape, error, 1e-5, same)
    sums_RD, same = _twice(lambda: dispatch.spmm_t(values_N, x_BD, code, present_only=True))
    place_N = torch.searchsorted(code.present_R, code.latents_N)
    exact_RD = torch.zeros(len(code.present_R), W_FD.shape[1], device=DEVICE).double()
    exact_RD.index_add_(0, place_N, (values_BK1 * x_B1D).flatten(0, 1))
    yield _figure("latents' sums", shape, _error(sums_RD, exact_RD), 1e-5, same)


def _update(shape: tuple[int, ...], W_FD: Tensor, generator: torch.Generator) -> Found:
    """Of all rows; the last ones are looked at."""
    grad_FD = torch.empty_like(W_FD).normal_(generator=generator)
    last, adam = slice(-min(len(W_FD), _LOOKED_AT), None), adam_step()
    exact, grad_fd = _rows(W_FD[last].double()), grad_FD[last].double()
    exact_step = replace(adam, grad_scale=adam.grad_scale.double())
    reference.update_rows(exact, grad_fd, None, exact_step)
    found = _rows(W_FD)
    dispatch.update_rows(found, grad_FD, None, adam)
    yield _figure("Adam's update", shape, _error(found.W_FD[last], exact.W_FD), 1e-5)


def adam_step() -> AdamStep:
    """The seventh, of a matrix whose rows have unit norm, with a clipped gradient."""
    return AdamStep(
        number=torch.tensor(7, device=DEVICE),
        skip=torch.zeros((), dtype=torch.bool, device=DEVICE),
        lr=1e-3,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        grad_scale=torch.full((), 0.5, device=DEVICE),
        unit_norm=True,
    )


def _rows(W_FD: Tensor) -> AdamRows:
    moments = torch.full_like(W_FD, 0.5), torch.full_like(W_FD, 0.25)
    return AdamRows(W_FD=W_FD, exp_avg_sq_FD=moments[0], exp_avg_FD=moments[1])


def steps(num_latents: int, width: int, world: World) -> Parts:
    """How far the losses of some steps are from those that a CPU takes in float64."""
    for kind in kind_names():
        yield f"{_NUM_STEPS} steps of {kind}", partial(_steps, kind, num_latents, width, world)


def _steps(kind: str, num_latents: int, width: int, world: World) -> Found:
    here = _losses(kind, num_latents, width, Precision.float32, world)
    cpu = replace(world, device=torch.device("cpu"))
    exact = _losses(kind, num_latents, width, Precision.float64, cpu)
    error = float(((here - exact) / exact).abs().max())
    yield _figure(f"{_NUM_STEPS} losses of {kind}", (num_latents, width), error, 1e-3)


def _losses(kind: str, num_latents: int, width: int, precision: Precision, world: World) -> Tensor:
    """Of each step, from weights that are drawn in float64 [T]."""
    optim = Adam(lr=1e-3, warmup_steps=0, clip_norm=1.0, beta1=0.9)
    coder = kind_named(kind)(num_latents=num_latents, dead_after_tokens=1024)
    if hasattr(coder, "aux_coefficient"):
        coder = replace(coder, aux_coefficient=1 / 32)
    config = RungConfig(name=kind, site="x", target="x", coder=coder, optim=optim)
    rung = Rung(config, make_mesh(world, 1, {}), 1.0, width, width, precision, world.device)
    batches = [x_BD.to(world.device) for x_BD in activations(width, 512)]
    rung.initialise(0, batches[0].cpu(), batches[0].cpu())
    losses = []
    for step in range(_NUM_STEPS):
        rows = SharedRows({"x": batches[step % len(batches)]}, precision.weights)
        losses.append(take_step(rung, rows, step).loss.detach())
    return torch.stack(losses).double().cpu()


def graphs(num_latents: int, width: int, batch: int, world: World) -> Parts:
    """Whether a replayed step is the one that is launched, and how long each takes."""
    case = Case("topk", num_latents, width, batch, "float32")
    yield f"a graph, {num_latents:,} latents", partial(_graph, case, world)


def _graph(case: Case, world: World) -> Found:
    rungs, batches = [make_rung(case, world) for _ in range(2)], case.clock.batches
    rungs[1].coder.load_state_dict(rungs[0].coder.state_dict())
    graphed = GraphedStep(rungs[1])

    def launch(step: int) -> None:
        rows = SharedRows({"x": batches[step % len(batches)]}, torch.float32)
        training_step(rungs[0], rows, step, NUM_STEPS)

    def replay(step: int) -> None:
        acts = {"x": batches[step % len(batches)]}
        if DEVICE == "cuda":
            graphed(acts, step, NUM_STEPS)
        else:  # the same, launched
            graphed.put(acts, step, NUM_STEPS)
            graphed.take()

    for step in range(_NUM_STEPS):
        launch(step), replay(step)
    here, there = (torch.cat([p.flatten() for p in r.coder.parameters()]) for r in rungs)
    shape = case.num_latents, case.d_in
    yield _figure(f"{_NUM_STEPS} replayed steps' weights", shape, _error(there, here), 1e-6)
    steps = iter(range(_NUM_STEPS, NUM_STEPS))
    launched, ms = (
        1e3 * median_seconds(lambda take=take: take(next(steps)), _NUM_STEPS)
        for take in (launch, replay)
    )
    yield Figure("a step that is replayed, beside one that is launched", ms, "ms", launched)
