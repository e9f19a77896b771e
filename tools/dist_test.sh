#!/usr/bin/env bash
# Test in several processes: tools/dist_test.sh CONFIG CHECKPOINT [GPUS] [arguments of test.py]
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/dist_run.sh" test.py 2 "$@"
