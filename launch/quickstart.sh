#!/usr/bin/env bash
# The whole way on the embedded default, command by command, on two CPU cores and in minutes:
# text → language model → activations on disk → ladder of coders → evaluation → report.
# What is there already is reused.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=true OMP_WAIT_POLICY=passive
home=runs/quickstart

step() { printf '\n\033[1m%s\033[0m\n$ %s\n' "$1" "${*:2}" >&2; "${@:2}"; }

step "1/5 A small language model, from scratch, on the text of Python's standard library" \
  sae-dist small_lm folder=$home/lm

export OMP_NUM_THREADS=1  # from here on two processes share the cores
step "2/5 Its activations at three sites, to disk, by 2 processes" \
  accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no \
  launch/harvest.py +experiment=quickstart

step "3/5 A ladder of seven coders on one stream of them, by 2 processes" \
  torchrun --standalone --nproc-per-node 2 launch/train.py +experiment=quickstart

step "4/5 What they are worth, on sequences never trained on" \
  torchrun --standalone --nproc-per-node 2 -m sae_dist evaluate run=quickstart

step "5/5 The report" sae-dist report run=quickstart
