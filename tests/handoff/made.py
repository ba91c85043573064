"""A run whose latents were made up, a tokenizer for them, and a set of transcoders."""

from pathlib import Path

import torch

from sae_dist.coders import Coder, Form, save_coder
from tests.coders.kinds import config_of_kind
from tests.latents.made_up import VOCABULARY, write_made_up

LM = {"name": "some/Tiny-LM.1", "commit": "0" * 40, "fold_norms": False}
TEXTS = [f" w{token}".encode() for token in range(VOCABULARY)]
TEXTS[7] = b"\xe2\x80"  # a part of a character


def made_up(run: Path, rungs: dict[str, int] | None = None, **settings) -> Path:
    write_made_up(run, rungs or {"wide": 12, "narrow": 6}, lm=LM, **settings)
    return run


def transcoder(form: Form, width: int, d: int, seed: int = 0, kind: str = "jumprelu") -> Coder:
    """A transcoder with weights as of a trained one."""
    coder = Coder(config_of_kind(kind, form=form, num_latents=width, k=4), d, d, pre_bias=False)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in coder.state_dict().items():
        drawn = torch.randn(tensor.shape, generator=generator)
        scale = 1.0 if tensor.dim() < 2 else tensor.shape[-1] ** -0.5
        tensor.copy_(0.3 * drawn.abs() if name == "threshold" else drawn * scale)
    return coder.eval().requires_grad_(False)


def save_set(
    run: Path, coders: dict[str, Coder], layers: dict[str, int] | None = None, lm: dict = LM
) -> None:
    """Save coders as those of a run, each at its layer's MLP; the first at layer 0."""
    for number, (name, coder) in enumerate(coders.items()):
        layer = number if layers is None else layers[name]
        about = {
            "site": f"mlp_in.{layer}",
            "target": f"mlp_out.{layer}",
            "run": run.name,
            "source": {"lm": lm},
        }
        save_coder(run / "coders" / name, coder, coder.state_dict(), about)
