# shellcheck shell=bash
# Sourced by the batch scripts beside it: start one process a GPU, and answer for how they end.
#
#   status            it means                           and then the job is
#   0                 done                               completed
#   2                 a mistake of the user's            failed: the same line would come again
#   75, or SIGTERM    asked to end; training has saved   requeued, RESTARTS times at most (100)
#   any other         a crash                            requeued, CRASHES times at most (3)
#
# srun and not torchrun: an agent would end with 1 whatever its processes said, and would kill them
# 30 s after a signal. Here status and signal pass straight through, and Slurm alone is the parent.

run() {
  local status=0 asked=false
  trap 'asked=true' TERM # or bash would end before what it waits for
  export MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)}
  export MASTER_PORT=${MASTER_PORT:-$((10000 + SLURM_JOB_ID % 20000))}
  export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # since 22.05 srun does not ask for them itself
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SRUN_CPUS_PER_TASK}
  # When one process ends, the others may save or finish; 10 minutes later they are killed.
  export SLURM_KILL_BAD_EXIT=0 SLURM_WAIT=${SLURM_WAIT:-600}
  srun launch/slurm/rank.sh "$@" || status=$?
  case $asked,$status in
    *,0 | *,2) ;;
    true,* | *,75 | *,143) requeue "${RESTARTS:-100}" ;;
    *) requeue "${CRASHES:-3}" ;;
  esac
  exit "$status"
}

requeue() {
  local job=$SLURM_JOB_ID limit=$1
  # An array's own number would stand for all of its tasks.
  [ -z "${SLURM_ARRAY_JOB_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
  if [ "${SLURM_RESTART_COUNT:-0}" -ge "$limit" ]; then
    echo "job $job was restarted ${SLURM_RESTART_COUNT:-0} times: not requeued again" >&2
  elif [ "$(squeue --noheader --jobs "$job" --format %T)" = RUNNING ]; then
    # Otherwise it is cancelled, and would rise again, or requeued already.
    echo "job $job is requeued" >&2
    scontrol requeue "$job"
  fi
}

# The arguments, with run=NAME as run=NAME-TASK in an array: a run of its own for each task.
own_run() {
  arguments=()
  for argument in "$@"; do
    case $argument in
      run=*) argument+=${SLURM_ARRAY_TASK_ID:+-$SLURM_ARRAY_TASK_ID} ;;
    esac
    arguments+=("$argument")
  done
}
