# shellcheck shell=bash disable=SC2034
# What run.sh does with a small language model, trained from scratch on the text of Python's standard library. All that
# says how much is here; the rungs are in ladder.yaml and finetuned.yaml.
home=${REPRODUCE_HOME:-runs/reproduce}
about="a small language model, from scratch, on the text of Python's standard library"
language_model=(lm.name="$home/lm") held=()
finetune=(finetune_from="$home/lm")
asked=()
text=(text=stdlib) chat=small_lm
site=resid_post.2 mlp=3 transferred='topk-1024-*'
ladder=ladder finetuned=finetuned
writer=()
judge=()
case $scale in
  full)
    seeds=(0 1 2)
    get_lm=(sae-dist small_lm folder="$home/lm" model.num_steps=1500)
    finetune+=(model.num_steps=500 model.learning_rate=5e-4)
    base_tokens=1M finetuned_tokens=800K
    writer+=(writer.held_out=0.1 writer.chunk_mib=1 writer.shard_mib=32)
    train=(tokens=600K)
    evaluate=(lm_sequences=640 pairs.sequences=256 pairs.stitch_sequences=16)
    transfer=(transfer.sequences=160 transfer.prompt_tokens=96 transfer.rollout_tokens=96)
    ;;
  tiny)
    seeds=(0 1)
    get_lm=(sae-dist small_lm folder="$home/lm" model.num_steps=20 model.vocab_size=512 model.hidden_size=32
      model.intermediate_size=64 model.num_heads=2)
    finetune+=(model.num_steps=10)
    base_tokens=48K finetuned_tokens=32K
    writer+=(writer.held_out=0.2 writer.chunk_mib=0.03 writer.shard_mib=0.5)
    train=(tokens=16K stream.bucket_tokens=8K)
    evaluate=(lm_sequences=8 uniformity_sequences=4 pairs.sequences=8 pairs.stitch_sequences=2)
    transfer=(transfer.sequences=4 transfer.prompt_tokens=64 transfer.rollout_tokens=16)
    ;;
esac
