"""What SAELens' coders read in TransformerLens: run by their own Python, without sae_dist.

python hooks_client.py PLAN    a JSON file of [{"model", "ids", "coders", "out"}, …]

Writes by each coder's name the activations [N, S, D] of the hook that its settings name, and
attaches each to SAELens' own bridge, which does not find `hook_embed`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens import SAE
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from transformer_lens.model_bridge import TransformerBridge


def answer(asked: dict[str, Any]) -> None:
    loaded = {name: SAE.load_from_disk(folder) for name, folder in asked["coders"].items()}
    model = TransformerBridge.boot_transformers(asked["model"], device="cpu")
    _, cache = model.run_with_cache(torch.from_numpy(np.load(asked["ids"])))
    found = {name: cache[sae.cfg.metadata.hook_name] for name, sae in loaded.items()}
    np.savez(asked["out"], **{name: acts.flatten(2).numpy() for name, acts in found.items()})
    lens = SAETransformerBridge.boot_transformers(asked["model"], device="cpu")
    for name, sae in loaded.items():
        lens.add_sae(sae)
        assert name == "embed" or any(sae is attached for attached in lens.acts_to_saes.values()), (
            name
        )


if __name__ == "__main__":
    with torch.no_grad():
        for job in json.loads(Path(sys.argv[1]).read_text()):
            answer(job)
