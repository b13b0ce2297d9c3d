#!/usr/bin/env bash
# Trains on the nodes of a SLURM cluster, one process a node, with all of its GPUs.
#
#   sbatch launch/slurm.sh train --gin_file=...
#
# Two minutes before its time is over the job saves, and is queued again to go on; the same when
# SLURM takes its nodes for another one. All nodes have to see MODEL_DIR.
#SBATCH --job-name=t5x-lite
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

RESTARTS=${RESTARTS:-3}        # how often all processes are started again after one was lost
VENV=${VENV:-.venv}            # the virtual environment, seen from the working directory
T5X_LITE=${T5X_LITE:-t5x-lite} # the program in it

if [[ $# == 0 ]]; then
  echo "usage: sbatch $0 COMMAND [ARGUMENT...]" >&2
  exit 2
fi
export PATH=$PWD/$VENV/bin:$PATH
read -ra program <<<"$T5X_LITE"

stopped='' step=''
trap 'stopped=yes; kill -TERM "$step"' TERM # `srun` passes it on.

for ((attempt = 0; ; attempt++)); do
  # Once a process has ended, what still hangs is not waited for any longer than that.
  srun --wait=120 "${program[@]}" "$@" &
  step=$!
  wait "$step"
  status=$?
  while kill -0 "$step" 2>/dev/null; do # A signal has ended the waiting, and not the processes.
    wait "$step"
    status=$?
  done
  # 75 is a host that was lost, or the end of a run that saved; from 128 on it was a signal.
  if [[ $status -lt 75 ]]; then
    exit "$status"
  elif [[ -n $stopped ]]; then
    scontrol requeue "$SLURM_JOB_ID"
    exit
  elif [[ $attempt -ge $RESTARTS ]]; then
    exit "$status"
  fi
  echo "starting all processes again, restart $((attempt + 1)) of at most $RESTARTS" >&2
done
