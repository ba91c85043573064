#!/usr/bin/env bash
# The first run of an installed sae_dist, in the folder where it is called and outside of any checkout:
# text → language model → activations → two coders → evaluation → report → SAELens, on two CPU cores and
# in minutes. SAELENS_PYTHON names the Python of an environment that has sae-lens, if not this one.
set -euo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # two processes share the cores
processes="--num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"

sae-dist small_lm folder=runs/first/lm model.vocab_size=1024 model.hidden_size=64 \
  model.intermediate_size=192 model.num_layers=3 model.num_heads=2 model.num_steps=100

# shellcheck disable=SC2086
accelerate launch --multi_gpu $processes -m sae_dist harvest lm.name=runs/first/lm text=stdlib \
  'sites=[resid_post.1]' tokens=200K store=runs/first/store writer.chunk_mib=0.25 writer.shard_mib=8

torchrun --standalone --nproc-per-node 2 -m sae_dist train store=runs/first/store run=first tokens=100K \
  batch_tokens=512 stream.bucket_tokens=32K coder.num_latents=512 coder.k=8 \
  'sweep.grids=[{coder:[topk,batchtopk]}]' optim.lr=0.005 optim.warmup_steps=20

sae-dist evaluate run=first
sae-dist report run=first
sae-dist export run=first to=saelens

"${SAELENS_PYTHON:-python}" - runs/first/exports/saelens/*/ <<'PYTHON'
import sys

from sae_lens import SAE

for folder in sys.argv[1:]:
    sae = SAE.load_from_disk(folder)
    print(f"SAELens loads {folder}: {type(sae).__name__} of {sae.cfg.d_sae} latents")
PYTHON
