"""Whether the search for what fires could multiply eight bits, as `kernels/search.py` does sixteen.

Rows x and w have a scale each, a 127th of their largest value's size: x̂ and ŵ are whole multiples
of it, and their product is exact in integers. Then, as there, with Cauchy-Schwarz,

    |z - ẑ| ≤ ‖x - x̂‖ ‖w‖ + ‖x̂‖ ‖w - ŵ‖ + 2 D ε ‖x‖ ‖w‖ + u |ẑ|

holds of any rounding: of bfloat16 (u its own rounding, elsewhere that of float32), of FP8 with
scales up to its largest number (what a GPU loses in its sums of FP8 products is not in the bound),
and of rows that were multiplied by one random orthogonal matrix R, as (R x)·(R w) = x·w. The k that
rank first are computed exactly, then of the others what can still reach the least of these.

Three things are measured: the rates of products, on this processor with the units that it has; how
many entries of a row are computed exactly, on activations of a small language model that has learnt
something and with the weights of a coder trained on them; and what a step would take, were product,
rounding and exact values those of another format.
"""

import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.linalg import vector_norm

from benchmarks.figures import Figure, LeftOut
from benchmarks.products import FORMATS, Format, product_rates
from benchmarks.small import activations_of, trained_lm
from benchmarks.timing import DEVICE, TEMPORARY, median_seconds, seconds_of
from sae_dist.coders import Coder, TopK
from sae_dist.kernels import Encoder, SparsePattern, search_dtype
from sae_dist.parallel import World, make_mesh, start_world
from sae_dist.text import TextConfig
from sae_dist.train import Adam, Rung, RungConfig, SharedRows, training_step
from sae_dist.train.config import Precision

_SITE, _LENGTH = "resid_post.2", 128
_SAMPLE_ROWS = 1024  # on which entries are counted
SMOKE = {
    "ks": (4,),
    "num_latents": 128,
    "batch": 256,
    "steps": 3,
    "lm_steps": 2,
    "lm_width": 24,
    "tokens": 2**12,
    "documents": 40,
}


def entries_left(
    x_BD: Tensor, W_FD: Tensor, b_F: Tensor, k: int, form: Format
) -> tuple[float, float]:
    """How many entries of a row are computed exactly, and the largest |z - ẑ| / bound seen."""
    (x, x_scale_B1), (W, W_scale_F1) = form.x(x_BD), form.W(W_FD)
    x_hat_BD, W_hat_FD = x * x_scale_B1, W * W_scale_F1
    z_BF = (x_BD.double() @ W_FD.double().T + b_F).float()
    rough_BF = (x_hat_BD.double() @ W_hat_FD.double().T + b_F).float()
    x_norm_B1, W_norm_F = vector_norm(x_BD, dim=1, keepdim=True), vector_norm(W_FD, dim=1)
    x_error_B1 = vector_norm(x_BD - x_hat_BD, dim=1, keepdim=True)
    W_error_F = vector_norm(W_FD - W_hat_FD, dim=1)
    bound_BF = x_error_B1 * W_norm_F + (x_norm_B1 + x_error_B1) * W_error_F
    bound_BF += 2 * x_BD.shape[1] * torch.finfo(torch.float32).eps * x_norm_B1 * W_norm_F
    bound_BF += form.u * rough_BF.abs()
    first_Bk = rough_BF.topk(k, dim=1).indices
    floor_B1 = z_BF.gather(1, first_Bk).amin(1, keepdim=True).clamp_min(0.0)
    can_BF = (rough_BF + bound_BF >= floor_B1).scatter(1, first_Bk, value=True)
    share = float(((z_BF - rough_BF).abs() / bound_BF).max())
    return float(can_BF.sum(1).float().mean()), share


def rotation(d_in: int) -> Tensor:
    """A random orthogonal matrix [D, D]."""
    generator = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(d_in, d_in, generator=generator)).Q.to(DEVICE)


def trained(
    world: World, x_ND: Tensor, num_latents: int, k: int, batch: int, steps: int
) -> tuple[Coder, float]:
    """A TopK rung after some steps on all rows in turn, and the seconds of a step."""
    config = RungConfig(
        name="topk",
        site="x",
        target="x",
        coder=TopK(num_latents=num_latents, k=k, initial_encoder_norm=0.1),
        optim=Adam(lr=0.004, beta1=0.9, warmup_steps=steps // 10, decay_share=0.5, clip_norm=1.0),
    )
    mesh, d_in = make_mesh(world, 1, {}), x_ND.shape[1]
    rung = Rung(config, mesh, 1.0, d_in, d_in, Precision.float32, world.device)
    rung.initialise(0, x_ND[:batch], x_ND[:batch])
    whole = x_ND[: len(x_ND) // batch * batch].split(batch)
    rows = [SharedRows({"x": x_BD}, torch.float32) for x_BD in whole]
    seconds = [
        seconds_of(partial(training_step, rung, rows[step % len(rows)], step, steps))
        for step in range(steps)
    ]
    return rung.coder, statistics.median(seconds[len(seconds) // 2 :])


def run(
    ks: tuple[int, ...] = (32, 128),
    num_latents: int = 16_384,
    batch: int = 4096,
    steps: int = 150,
    lm_steps: int = 300,
    lm_width: int = 384,
    tokens: int = 2**17,
    documents: int = 10_000,
    folder: Path = TEMPORARY,
) -> Iterator[Figure | LeftOut]:
    """Rates of products, entries that are computed exactly, and what a step would take.

    Args:
        ks: of the TopK coders.
        num_latents: of each.
        batch: rows of a step.
        steps: of a coder's training.
        lm_steps, lm_width: of the small language model's training, and its width D.
        tokens: whose activations are trained on.
        documents: of the text, at most.
        folder: where the language model is written.
    """
    torch.set_float32_matmul_precision("highest")
    with tempfile.TemporaryDirectory(dir=folder) as temporary, start_world() as world:
        lm = trained_lm(Path(temporary) / "lm", lm_width, lm_steps, documents)
        text = TextConfig(sequence_length=_LENGTH)
        read = activations_of(lm, text, _SITE, tokens)
        x_ND = torch.cat([acts_NSD[kept_NS] for acts_NSD, kept_NS in read]).to(DEVICE)
        x_ND = x_ND[torch.randperm(len(x_ND), generator=torch.Generator().manual_seed(0))]
        x_ND /= x_ND.pow(2).sum(1).mean().sqrt()
        rates: dict[str, float] = {}
        for k in ks:
            coder, step_seconds = trained(world, x_ND, num_latents, k, batch, steps)
            x_BD = x_ND[:batch] - coder.b_dec.detach()
            W_FD, b_F = coder.W_enc.detach(), coder.b_enc.detach()
            if not rates:
                for name, found in product_rates(x_BD, W_FD):
                    yield found
                    if isinstance(found, Figure) and not found.name.endswith("wrong"):
                        rates[name] = max(found.value, rates.get(name, 0.0))
            yield from of_coder(x_BD, W_FD, b_F, k, step_seconds, rates)


def of_coder(
    x_BD: Tensor, W_FD: Tensor, b_F: Tensor, k: int, step_seconds: float, rates: dict[str, float]
) -> Iterator[Figure]:
    """Entries of a row, and milliseconds of a step that searched in each format, by one coder."""
    rotation_DD = rotation(x_BD.shape[1])
    rotate_seconds = median_seconds(lambda: (x_BD @ rotation_DD, W_FD @ rotation_DD))
    value_seconds = seconds_of_an_entry(x_BD, W_FD, b_F, k)
    entries, parts = {}, {}
    for name, form in FORMATS.items():
        rounding = median_seconds(lambda form=form: (form.x(x_BD), form.W(W_FD)))
        for is_rotated in (False,) if name == "float32" else (False, True):
            x_bD, V_FD = x_BD[:_SAMPLE_ROWS], W_FD
            if is_rotated:
                x_bD, V_FD = x_bD @ rotation_DD, W_FD @ rotation_DD
            title = f"{name}, rotated" if is_rotated else name
            entries[title], share = entries_left(x_bD, V_FD, b_F, k, form)
            parts[title] = {"rounding": rounding + rotate_seconds * is_rotated, "share": share}
    now = str(search_dtype(W_FD)).removeprefix("torch.")
    flops = 2 * x_BD.numel() * len(W_FD)

    def search_seconds(title: str) -> float:
        product = flops / rates[title.partition(",")[0]] / 1e9
        return product + entries[title] * len(x_BD) * value_seconds

    for title, number in entries.items():
        others = {other: entries[other] for other in ("float32", "bfloat16") if other != title}
        more = {"most of the bound": parts[title]["share"]}
        yield Figure(f"k = {k}, exact values: {title}", number, "a row", None, others, "", more)
    for title in entries:
        if title.partition(",")[0] in rates:
            more = dict(parts[title]) | {"value": value_seconds, "now": step_seconds}
            changed = search_seconds(title) - search_seconds(now)
            changed += 0.0 if title in ("float32", "bfloat16") else parts[title]["rounding"]
            ms = (step_seconds + changed) * 1e3
            others = {f"as it is ({now})": step_seconds * 1e3}
            yield Figure(f"k = {k}, a step: {title}", ms, "ms", None, others, "", more)


def seconds_of_an_entry(x_BD: Tensor, W_FD: Tensor, b_F: Tensor, k: int) -> float:
    """What one exact value takes, where there are k a row at random latents."""
    shape = len(x_BD), k
    generator = torch.Generator().manual_seed(0)
    latent_Bk = torch.randint(len(W_FD), shape, generator=generator).sort(1).values.to(DEVICE)
    row_N = torch.arange(len(x_BD), device=DEVICE).repeat_interleave(k)
    code = SparsePattern.from_rows(row_N, latent_Bk.flatten(), len(x_BD), len(W_FD))
    encoder = Encoder.of(W_FD, b_F)
    return median_seconds(lambda: encoder.values(x_BD, code)) / len(row_N)
