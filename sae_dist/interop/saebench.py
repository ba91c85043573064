"""SAEBench 0.6: a coder as the object that its evaluations take; SAEBench itself is not imported.

    from sae_bench.evals.core.main import multiple_evals
    from sae_dist.interop.saebench import load_for_saebench

    multiple_evals([("mine", load_for_saebench("runs/NAME/coders/RUNG"))], …)

What it computes of a coder, and where its formulas are not ours: `docs/saebench.md`.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from sae_dist.coders import Coder, Form, Inputs, describe_coder, load_coder
from sae_dist.common.errors import UserError
from sae_dist.common.hooks import hook_name, layer_of, site_of
from sae_dist.interop.load import local_place


@dataclass(kw_only=True)
class Settings:
    """What SAEBench reads of a coder's configuration; it adds fields of its own.

    `prepend_bos` and `normalize_activations` are for its reader of texts, `architecture` for its
    plots; the activations a coder takes are raw.
    """

    model_name: str
    hook_name: str
    hook_layer: int
    d_in: int
    d_sae: int
    architecture: str
    dtype: str
    device: str
    context_size: int | None = None
    prepend_bos: bool = True
    normalize_activations: str = "none"
    hook_head_index: int | None = None
    model_from_pretrained_kwargs: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-able, for SAEBench's results."""
        return asdict(self)


class SAEBenchCoder(nn.Module):
    """A coder with the names and shapes that SAEBench asks for.

    `W_enc` is [D, F] here, `W_dec` [F, E]; weights are the coder's own, and `to` moves and casts
    them in place. A transcoder's latents can be probed and its decoder compressed, but `decode`
    refuses: SAEBench would compare the output with the input and splice it in there.

    Args:
        coder: whole, on raw activations.
        model: the language model, as TransformerLens calls it.
        hook: where it reads, likewise.

    Raises:
        UserError: the coder sees tokens of norm 1, which `decode` cannot give their norm back.
    """

    hook_z_reshaping_mode = False

    def __init__(self, coder: Coder, model: str, hook: str) -> None:
        super().__init__()
        if coder.config.form.spans_sites:
            raise UserError(
                f"found a {coder.config.form}; SAEBench reads one hook, so expected a coder of one "
                "site; measure this one with sae-dist evaluate"
            )
        self.coder = coder.eval().requires_grad_(False)
        if coder.config.inputs is not Inputs.plain:
            raise UserError(
                "SAEBench decodes without a token's norm, which this coder gives back; expected "
                "coder.inputs=plain or whitened; choose another coder"
            )
        form = coder.config.form
        is_autoencoder = form is Form.autoencoder
        self.cfg = Settings(
            model_name=model,
            hook_name=hook,
            hook_layer=layer_of(hook) or 0,
            d_in=coder.d_in,
            d_sae=coder.config.num_latents,
            architecture=coder.config.kind + ("" if is_autoencoder else f"_{form.value}"),
            dtype=str(self.dtype).removeprefix("torch."),
            device=str(self.device),
        )

    @property
    def W_enc(self) -> Tensor:
        """The encoder [D, F]."""
        return self.coder.W_enc.T

    @property
    def W_dec(self) -> Tensor:
        """The decoder [F, E]."""
        return self.coder.W_dec

    @property
    def b_enc(self) -> Tensor:
        """The encoder's bias [F]."""
        return self.coder.b_enc

    @property
    def b_dec(self) -> Tensor:
        """The decoder's bias [E]."""
        return self.coder.b_dec

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights and activations."""
        return self.coder.W_enc.dtype

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.coder.W_enc.device

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move and cast in place, as `nn.Module.to`; the settings say so."""
        super().to(*args, **kwargs)
        self.cfg.dtype = str(self.dtype).removeprefix("torch.")
        self.cfg.device = str(self.device)
        return self

    def encode(self, x: Tensor) -> Tensor:
        """The latents' activations [..., F] of raw activations [..., D], cast to its dtype."""
        x_BD = x.to(self.dtype).flatten(0, -2)
        return self.coder.encode(x_BD).unflatten(0, x.shape[:-1])

    def decode(self, acts: Tensor) -> Tensor:
        """The reconstruction [..., D] from activations [..., F].

        Raises:
            UserError: the coder is a transcoder.
        """
        form = self.coder.config.form
        if form is not Form.autoencoder:
            raise UserError(
                f"found a {form.replace('_', ' ')}; SAEBench reconstructs what a coder reads, so "
                "expected an autoencoder; measure this one with sae-dist evaluate"
            )
        return self.coder.decode(acts)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction [..., D] of raw activations [..., D]."""
        return self.decode(self.encode(x))

    def turn_off_forward_pass_hook_z_reshaping(self) -> None:
        """Nothing: heads always come side by side."""


def load_for_saebench(
    where: str | Path,
    *,
    model_name: str | None = None,
    hook: str | None = None,
    device: torch.device | str = "cpu",
) -> SAEBenchCoder:
    """Load a coder of ours for SAEBench's evaluations.

    Args:
        where: `runs/NAME/coders/RUNG`, or `hub:USER/REPO/FOLDER` with our files.
        model_name: TransformerLens' name of the language model; by default that of the store.
        hook: where it reads, as TransformerLens calls it; by default the site's.
        device: where its weights go.

    Raises:
        UserError: there is no coder, or it is not known what it reads.
    """
    folder = local_place(where)
    about = describe_coder(folder)["about"]
    lm = (about.get("source") or {}).get("lm") or {}
    model_name = model_name or lm.get("name")
    if not model_name:
        raise UserError(f"{where} does not say which language model it reads; give model_name=…")
    if not hook and not about.get("site"):
        raise UserError(f"{where} does not say which site it reads; give hook=…")
    hook = hook or _hook_of(about["site"], folds_norms=bool(lm.get("fold_norms")))
    return SAEBenchCoder(load_coder(folder, device), model_name, hook)


def _hook_of(site: str, *, folds_norms: bool) -> str:
    """The hook at which TransformerLens has the activations of a site."""
    hook = hook_name(site)
    if site_of(hook) == hook:
        raise UserError(f"site {site} has no name in TransformerLens that is known; give hook=…")
    if site.startswith("mlp_in.") and not folds_norms:
        raise UserError(
            f"{site} was harvested behind the norm's gain, and {hook} is before it; expected a "
            "store harvested with lm.fold_norms=true: there both are the same"
        )
    return hook
