#!/usr/bin/env bash
# Train in several processes: tools/dist_train.sh CONFIG [GPUS] [arguments of train.py]
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/dist_run.sh" train.py 1 "$@"
