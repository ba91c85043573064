#!/usr/bin/env bash
# Published claims beside what a small language model shows, command by command: it and a finetune of it are
# trained, harvested, and given ladders of coders with several seeds; docs/reproduction.md gets the figures.
# Start it again to go on where it stopped. REPRODUCE_SCALE=tiny tries every step in minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=true OMP_WAIT_POLICY=passive
scale=${REPRODUCE_SCALE:-full}
home=${REPRODUCE_HOME:-runs/reproduce}

# Everything that says how much; the rungs are in ladder.yaml and finetuned.yaml.
case $scale in
  full)
    seeds=(0 1 2)
    lm=(model.num_steps=1500)
    finetune=(model.num_steps=500 model.learning_rate=5e-4)
    base_tokens=1M finetuned_tokens=800K held_out=0.1 chunk_mib=1 shard_mib=32
    train=(tokens=600K)
    evaluate=(lm_sequences=640 pairs.sequences=256 pairs.stitch_sequences=16)
    transfer=(transfer.sequences=160 transfer.prompt_tokens=96 transfer.rollout_tokens=96)
    document=docs/reproduction.md
    ;;
  tiny)
    seeds=(0 1)
    lm=(model.num_steps=20 model.vocab_size=512 model.hidden_size=32 model.intermediate_size=64 model.num_heads=2)
    finetune=(model.num_steps=10)
    base_tokens=48K finetuned_tokens=32K held_out=0.2 chunk_mib=0.03 shard_mib=0.5
    train=(tokens=16K stream.bucket_tokens=8K)
    evaluate=(lm_sequences=8 uniformity_sequences=4 pairs.sequences=8 pairs.stitch_sequences=2)
    transfer=(transfer.sequences=4 transfer.prompt_tokens=64 transfer.rollout_tokens=16)
    document=$home/reproduction.md
    ;;
  *)
    echo "error: found REPRODUCE_SCALE=$scale; expected full or tiny; correct it" >&2
    exit 2
    ;;
esac
mkdir -p "$home"
[ -f "$document" ] || cp docs/reproduction.md "$document"

if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  many=(python) harvesters=(python)
else
  many=(torchrun --standalone --nproc-per-node 2)
  harvesters=(accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no)
fi

step() {
  printf '\n\033[1m%s\033[0m\n$ %s\n' "$1" "${*:2}" >&2
  local start=$SECONDS
  "${@:2}"
  printf '%s\t%s\n' $((SECONDS - start)) "${*:2}" >> "$home/commands.tsv"
}

step "1/8 A small language model, from scratch, on the text of Python's standard library" \
  sae-dist small_lm folder="$home/lm" "${lm[@]}"

step "2/8 Conversations about its functions, and questions to ask later" \
  python -m examples.reproduce.conversations "$home/chat"

step "3/8 A finetune of the language model on these conversations" \
  sae-dist small_lm folder="$home/finetuned" finetune_from="$home/lm" \
  text.path="$home/chat/train.jsonl" "${finetune[@]}"

[ "${many[0]}" = python ] || export OMP_NUM_THREADS=1 # from here on two processes share the cores
step "4/8 Activations of the base: residual stream, input and output of an MLP" \
  "${harvesters[@]}" launch/harvest.py lm.name="$home/lm" text=stdlib tokens=$base_tokens store="$home/store" \
  "sites=[resid_post.2,mlp_in.3,mlp_out.3]" writer.held_out=$held_out writer.chunk_mib=$chunk_mib writer.shard_mib=$shard_mib

step "5/8 Activations of the finetune, on the same documents in its chat's prefixes" \
  "${harvesters[@]}" launch/harvest.py lm.name="$home/finetuned" text=stdlib +chat@text=small_lm \
  tokens=$finetuned_tokens store="$home/finetuned_store" "sites=[resid_post.2]" \
  writer.held_out=$held_out writer.chunk_mib=$chunk_mib writer.shard_mib=$shard_mib

for seed in "${seeds[@]}"; do
  step "6/8 Seed $seed: 27 coders of the base, on one stream" \
    "${many[@]}" launch/train.py +experiment=examples/reproduce/ladder.yaml store="$home/store" runs="$home" run="seed-$seed" \
    seed="$seed" "${train[@]}"
  step "6/8 Seed $seed: three coders of the finetune" \
    "${many[@]}" launch/train.py +experiment=examples/reproduce/finetuned.yaml store="$home/finetuned_store" runs="$home" \
    run="finetuned-seed-$seed" seed="$seed" "${train[@]}"
  step "7/8 Seed $seed: all measures, on sequences never trained on and on what the finetune says" \
    "${many[@]}" -m sae_dist evaluate runs="$home" run="seed-$seed" "${evaluate[@]}" "${transfer[@]}" \
    transfer.lm_name="$home/finetuned" transfer.prompts="$home/chat/prompts.jsonl" \
    transfer.finetuned_run="finetuned-seed-$seed"
done

step "8/8 Claims beside figures" \
  python -m examples.reproduce "$home" "$document" "${seeds[@]/#/seed-}"
for seed in "${seeds[@]}"; do
  step "    and the report of seed $seed" sae-dist report runs="$home" run="seed-$seed"
done
