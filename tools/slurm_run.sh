#!/usr/bin/env bash
# Behind slurm_train.sh and slurm_test.sh: start a script of this folder through srun.
#   slurm_run.sh SCRIPT PARTITION JOB_NAME ARGUMENTS...
# Environment as in mmdet: GPUS, GPUS_PER_NODE, CPUS_PER_TASK, SRUN_ARGS; also PYTHON.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
script=$1
partition=$2
job_name=$3
shift 3

GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
read -r -a srun_args <<<"${SRUN_ARGS:-}"

export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
exec srun -p "$partition" --job-name="$job_name" \
    --gres="gpu:$GPUS_PER_NODE" --ntasks="$GPUS" --ntasks-per-node="$GPUS_PER_NODE" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 \
    ${srun_args[@]+"${srun_args[@]}"} \
    "${PYTHON:-python}" -u "$here/$script" "$@" --launcher slurm
