"""Is it fast? The machine's ceilings, and the kernels, the steps and a harvest beside them."""

import statistics
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial

import torch
from torch import Tensor

from benchmarks.device.checks import adam_step
from benchmarks.device.parts import Parts
from benchmarks.figures import Figure
from benchmarks.own import (
    AUX_K,
    NUM_STEPS,
    floor,
    hold_dead,
    make_rung,
    optimizer_bytes,
    take_step,
)
from benchmarks.products import product_rates
from benchmarks.timing import DEVICE, Case, median_seconds, peak_bytes, seconds_of
from sae_dist.kernels import AdamRows, Encoder, dispatch, topk_candidates
from sae_dist.parallel import World
from sae_dist.train import SharedRows, training_step
from sae_dist.train.step import StepResult

_IS_CUDA = DEVICE == "cuda"
_COPIED = 1 << 28 if _IS_CUDA else 1 << 22  # float32 numbers
_K = 32
_TURNS = 10
_WARM_UP = 5
_LM_BATCH = (16, 1024) if _IS_CUDA else (2, 16)


def _gigabytes(num_bytes: float, action: Callable[[], object]) -> float:
    return num_bytes / 1e9 / median_seconds(action, _TURNS)


@cache
def _copied_gigabytes() -> float:
    """Of a copy a second, read and written."""
    source = torch.randn(_COPIED, device=DEVICE)
    target = torch.empty_like(source)
    return _gigabytes(2 * source.nbytes, lambda: target.copy_(source))


def ceilings(num_latents: int, d_in: int, batch: int) -> Parts:
    """What the machine gives to a copy, to products, to rows here and there, and to a topk."""
    yield "the machine", partial(_ceilings, num_latents, d_in, batch)


def _ceilings(num_latents: int, d_in: int, batch: int) -> Iterator[Figure]:
    yield Figure("a copy", _copied_gigabytes(), "GB/s")
    x_BD, W_FD = _operands(num_latents, d_in, batch)
    for dtype in (torch.bfloat16, torch.float32):
        x, W = x_BD.to(dtype), W_FD.to(dtype)
        z = x.new_empty(batch, num_latents)
        flops = 2.0 * batch * W.numel()
        seconds = median_seconds(lambda x=x, W=W, z=z: torch.mm(x, W.T, out=z), _TURNS)
        yield Figure(
            f"a product in {dtype}".replace("torch.", ""), flops / seconds / 1e12, "TFLOP/s"
        )
    rows_N = torch.randint(num_latents, (batch * _K,), device=DEVICE)
    gathered = W_FD.new_empty(len(rows_N), d_in)
    action = lambda: torch.index_select(W_FD, 0, rows_N, out=gathered)  # noqa: E731
    yield Figure("rows here and there", _gigabytes(2 * gathered.nbytes, action), "GB/s")
    maxima = torch.randn(batch, max(_K, num_latents // 32), device=DEVICE)
    seconds = median_seconds(lambda: maxima.topk(_K, dim=1, sorted=False), _TURNS)
    yield Figure(f"topk of {maxima.shape[1]:,} a row", 1e3 * seconds, "ms")


def eight_bits(num_latents: int, d_in: int, batch: int) -> Parts:
    """What the search's product would gain from eight bits."""
    rates = product_rates(*_operands(num_latents, d_in, batch))
    yield "the products", lambda: (found for _, found in rates)


def _operands(num_latents: int, d_in: int, batch: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x_BD = torch.randn(batch, d_in, device=DEVICE)
    return x_BD, torch.randn(num_latents, d_in, device=DEVICE) / d_in**0.5


def kernels(num_latents: int, d_in: int, batch: int) -> Parts:
    """Each kernel as a step of a TopK calls it, beside its FLOPs or bytes at the ceilings."""
    x_BD, W_FD = _operands(num_latents, d_in, batch)
    yield "the search", partial(_search, x_BD, W_FD)
    yield "the sums", partial(_sums, x_BD, W_FD)
    yield "the update", partial(_update, W_FD)


def _search(x_BD: Tensor, W_FD: Tensor) -> Iterator[Figure]:
    num_latents, b_F = len(W_FD), W_FD.new_zeros(len(W_FD))
    encoder = Encoder.of(W_FD, b_F)
    x, W = x_BD.to(encoder.bf16_FD.dtype), encoder.bf16_FD
    z = x.new_empty(len(x_BD), num_latents)
    plain = median_seconds(lambda: torch.mm(x, W.T, out=z), _TURNS)
    seconds = median_seconds(lambda: dispatch.product(x, W, b_F), _TURNS)
    yield Figure("the product with its maxima", 1e3 * seconds, "ms", 1e3 * plain)
    k = min(_K, num_latents)
    seconds = median_seconds(lambda: topk_candidates(x_BD, encoder, k), _TURNS)
    yield Figure(f"the search for the {k} largest", 1e3 * seconds, "ms", 1e3 * plain)


def _sums(x_BD: Tensor, W_FD: Tensor) -> Iterator[Figure]:
    encoder = Encoder.of(W_FD, W_FD.new_zeros(len(W_FD)))
    code, z_N = topk_candidates(x_BD, encoder, min(_K, len(W_FD)))
    row = 4 * x_BD.shape[1]
    entries, present = len(z_N) * row, int((code.count_by_latent() > 0).sum()) * row
    passes: dict[str, tuple[Callable[[], object], float]] = {
        "entries' products": (lambda: dispatch.sddmm(x_BD, W_FD, code), entries),
        "rows' sums": (lambda: dispatch.spmm(z_N, W_FD, code), entries + x_BD.nbytes),
        "latents' sums": (
            lambda: dispatch.spmm_t(z_N, x_BD, code, present_only=True),
            entries + present,
        ),
    }
    for name, (action, num_bytes) in passes.items():
        floor_ms = num_bytes / 1e6 / _copied_gigabytes()
        yield Figure(name, 1e3 * median_seconds(action, _TURNS), "ms", floor_ms)


def _update(W_FD: Tensor) -> Iterator[Figure]:
    rows = AdamRows(W_FD=W_FD, exp_avg_sq_FD=W_FD.square(), exp_avg_FD=W_FD.clone())
    grad_FD = torch.randn_like(W_FD)
    adam = adam_step()
    seconds = median_seconds(lambda: dispatch.update_rows(rows, grad_FD, None, adam), _TURNS)
    floor_ms = 7 * W_FD.nbytes / 1e6 / _copied_gigabytes()
    yield Figure("Adam's update of every row", 1e3 * seconds, "ms", floor_ms)


def steps(
    kinds: tuple[str, ...],
    widths: tuple[int, ...],
    d_in: int,
    batch: int,
    num_steps: int,
    world: World,
) -> Parts:
    """Milliseconds of a step beside the benchmark's floor, with how often the host waited."""
    for width in widths:
        for kind in kinds:
            case = Case(kind, width, d_in, batch, "float32")
            yield _named(case), partial(_step, case, world, num_steps)


def _named(case: Case) -> str:
    return f"{case.kind}, {case.num_latents:,} latents"


def _step(case: Case, world: World, num_steps: int) -> Iterator[Figure]:
    if _IS_CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    rung, batches = make_rung(case, world), case.clock.batches

    def rows_of(step: int) -> SharedRows:
        if case.kind == AUX_K:
            hold_dead(rung)
        return SharedRows({"x": batches[step % len(batches)]}, torch.float32)

    def take(step: int) -> StepResult:
        return training_step(rung, rows_of(step), step, NUM_STEPS)

    for step in range(_WARM_UP):
        fired_F = take_step(rung, rows_of(step), step).fired_F
    waits = _waits(lambda: take(_WARM_UP))
    ms = _milliseconds(lambda step: take(_WARM_UP + 1 + step), num_steps)
    if rung.progress.num_held:
        raise RuntimeError(f"{case.kind}: found more than there was room for, of the same batches")
    more = {"waits_of_the_host": waits, "peak_bytes": peak_bytes()}
    limits = floor(batches[0], rung.coder.W_enc.detach(), optimizer_bytes(rung, fired_F))
    yield Figure(
        _named(case), ms, "ms", limits["floor_ms"], target="≤ 2 × floor", more=limits | more
    )


def _milliseconds(take: Callable[[int], object], num_steps: int) -> float:
    """Of a step, in the median of three runs of so many, between which alone the host waits."""
    runs = [
        _by_events(lambda first=first: [take(first + n) for n in range(num_steps)])
        for first in range(0, 3 * num_steps, num_steps)
    ]
    return 1e3 * statistics.median(runs) / num_steps


def _by_events(action: Callable[[], object]) -> float:
    """Seconds between two events on a GPU, the host's clock elsewhere."""
    if not _IS_CUDA:
        return seconds_of(action)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    action()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def _waits(take: Callable[[], object]) -> int:
    """How often the host waits for the device in one step."""
    if not _IS_CUDA:
        take()
        return 0
    torch.cuda.set_sync_debug_mode("error")
    try:
        take()
        return 0
    except RuntimeError:
        return _counted_waits(take)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _counted_waits(take: Callable[[], object]) -> int:
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        take()
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def harvest(width: int) -> Parts:
    """Tokens a second of captured passes through a Gemma 2 of random weights, beside bare ones."""
    yield "a Gemma 2", partial(_harvest, width)


def _harvest(width: int) -> Iterator[Figure]:
    # With what harvesting needs, which is not to stop the rest where it is not installed.
    from transformers import Gemma2Config, Gemma2ForCausalLM

    from sae_dist.harvest.staging import StagingBuffer
    from sae_dist.lm import Capture, resolve, truncate
    from sae_dist.store.config import StoreConfig

    torch.manual_seed(0)
    heads = max(1, width // 288)
    config = Gemma2Config(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=22 if _IS_CUDA else 2,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        head_dim=min(256, max(width, 8)),
        vocab_size=256_000 if _IS_CUDA else 512,
    )
    dtype = torch.bfloat16 if _IS_CUDA else torch.float32
    with torch.device(DEVICE):
        model = Gemma2ForCausalLM(config).to(dtype).eval().requires_grad_(False)
    site = resolve(model, f"resid_post.{config.num_hidden_layers - 2}")
    truncate(model, [site])
    ids_NS = torch.randint(512, _LM_BATCH, device=DEVICE)
    capture = Capture(model, [site])
    dtype_stored, device = StoreConfig().dtype, torch.device(DEVICE)
    buffer = StagingBuffer({site.name: width}, _LM_BATCH, dtype_stored, device)
    body = model.base_model
    with torch.no_grad():
        bare = median_seconds(lambda: body(input_ids=ids_NS, use_cache=False), _TURNS)
        seconds = median_seconds(lambda: buffer.put(range(_LM_BATCH[0]), capture(ids_NS)), _TURNS)
    tokens = ids_NS.numel()
    name = f"a captured pass of a Gemma 2 of width {width:,}"
    yield Figure(name, tokens / seconds, "tokens/s", tokens / bare)
