#!/usr/bin/env bash
# Behind dist_train.sh and dist_test.sh: start a script of this folder in several processes.
#   dist_run.sh SCRIPT NUMBER_OF_FILES FILE... [GPUS] [ARGUMENTS...]
# Without a GPU, GPUS counts processes on the CPU (joined with gloo). Default: every GPU, or 1.
# Environment as in mmdet: NNODES, NODE_RANK, MASTER_ADDR, PORT; also PYTHON, OMP_NUM_THREADS.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
script=$1
files=("${@:3:$2}")
if [[ ${#files[@]} -lt $2 ]]; then
    [[ $script == train.py ]] && usage="CONFIG" || usage="CONFIG CHECKPOINT"
    echo "usage: tools/dist_${script%.py}.sh $usage [GPUS] [ARGUMENTS...]" >&2
    exit 2
fi
shift $((2 + $2))

if [[ -z ${PYTHON:-} ]]; then
    PYTHON=python
    # What `make install` made, for those who did not activate it.
    if [[ -z ${VIRTUAL_ENV:-} && ${CONDA_DEFAULT_ENV:-base} == base &&
        -x $here/../.venv/bin/python ]]; then
        PYTHON=$here/../.venv/bin/python
    fi
fi

if [[ ${1:-} =~ ^[0-9]+$ ]]; then
    processes=$1
    shift
    if [[ $processes -eq 0 ]]; then
        echo "GPUS is the number of processes: at least 1, got 0" >&2
        exit 2
    fi
else
    processes=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count() or 1)')
fi

# torchrun gives every process one thread; on a CPU they should share all the cores instead.
if [[ -z ${OMP_NUM_THREADS:-} ]]; then
    threads=$(($(nproc) / processes))
    export OMP_NUM_THREADS=$((threads > 0 ? threads : 1))
fi
export MKL_NUM_THREADS=${MKL_NUM_THREADS:-$OMP_NUM_THREADS}

if [[ -z ${PORT:-}${NNODES:-}${MASTER_ADDR:-} ]]; then
    where=(--standalone) # picks a free port, so that two trainings do not collide
else
    where=(--nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}"
        --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}")
fi

export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
exec "$PYTHON" -m torch.distributed.run "${where[@]}" --nproc_per_node="$processes" \
    "$here/$script" "${files[@]}" --launcher pytorch "$@"
