#!/usr/bin/env bash
# Run a command with what torchrun would tell it, from what srun tells.
export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
exec "$@"
