#!/usr/bin/env bash
# Prepares everything `make demo` and `make test` need, from nothing, and does nothing when it is
# already there. Called by the Makefile; may be called by hand.
#
#   tools/setup_env.sh              use the active virtual or conda environment, or create .venv
#   tools/setup_env.sh --with-3d    also mmdet3d and what it needs, some 2 GB more
#   tools/setup_env.sh --force      run every step again
#
# Which registry, proxy and cache pip uses stays the user's business (pip.conf, PIP_*).
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repo"
step="start"
remedy=""
log=""
with_3d=""
force=""
for option in "$@"; do
    case $option in
    --with-3d) with_3d=1 ;;
    --force) force=1 ;;
    *)
        echo "tools/setup_env.sh: $option is unknown; there are --with-3d and --force" >&2
        exit 2
        ;;
    esac
done
heartbeat=""

# --- saying what happens --------------------------------------------------------------------------

say() { printf '[setup] %s\n' "$*"; }

stop_heartbeat() {
    if [[ -n $heartbeat ]]; then
        kill "$heartbeat" 2>/dev/null || true
        wait "$heartbeat" 2>/dev/null || true
        heartbeat=""
    fi
}

on_exit() {
    local status=$?
    stop_heartbeat
    if [[ $status -ne 0 ]]; then
        {
            printf '\n[setup] FAILED at: %s\n' "$step"
            if [[ -n $log && -f $log ]]; then
                printf '[setup] last lines of %s:\n' "$log"
                tail -n 12 "$log" | sed 's/^/    /'
            fi
            [[ -z $remedy ]] || printf '[setup] what to do: %s\n' "$remedy"
            printf '[setup] running the same command again continues from here.\n'
        } >&2
    fi
    exit "$status"
}
trap on_exit EXIT
trap 'remedy="interrupted; nothing is broken"; exit 130' INT TERM

fail() { # fail REMEDY: for conditions found by this script itself
    remedy=$1
    exit 1
}

begin() { # begin "what happens" "what to do if it fails"
    step=$1
    remedy=$2
    say "$step"
    if [[ -n $log ]]; then
        printf '\n===== %s =====\n' "$step" >>"$log"
    fi
}

logged() { # run a command with its output in the log, and a sign of life every half minute
    local started=$SECONDS
    # (sleep outlives the loop when that is killed: it must not keep a pipe of ours open)
    while sleep 30 >/dev/null 2>&1; do
        say "    still running, $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s"
    done &
    heartbeat=$!
    local status=0
    "$@" >>"$log" 2>&1 || status=$?
    stop_heartbeat
    return "$status"
}

pinned() { sed -n "s/^$1==\\([^ #]*\\).*/\\1/p" requirements/constraints.txt; }

# --- 1. an environment ----------------------------------------------------------------------------

wanted="3.11"
active=${VIRTUAL_ENV:-}
# conda's base environment is active in every shell: nobody chose it for this.
if [[ -z $active && ${CONDA_DEFAULT_ENV:-base} != base ]]; then
    active=${CONDA_PREFIX:-}
fi
env_dir=${active:-$repo/.venv}
python=$env_dir/bin/python
stamp=$env_dir/.ebm-mmdet-ready
stamp_3d=$env_dir/.ebm-mmdet-3d-ready

# What the environment was made from, and which checkout it belongs to.
fingerprint() {
    {
        printf '%s\n' "$repo" "${EBM_OPS_BUILD:-1}"
        cat requirements/*.txt setup.py pyproject.toml ebm_mmdet/version.py tools/setup_env.sh
        find ops -path ops/tests -prune -o \( -name '*.cpp' -o -name '*.h' -o -name '*.toml' \
            -o -name version.py -o -name setup.py -o -name build_extension.py \) -print |
            LC_ALL=C sort | xargs -r cat
        "$python" -c 'import sys; print(sys.version)'
    } | sha256sum | cut -d' ' -f1
}

wanted_stamp=${with_3d:+$stamp_3d}
wanted_stamp=${wanted_stamp:-$stamp}
if [[ -z $force && -f $wanted_stamp && -x $python && $(<"$wanted_stamp") == "$(fingerprint)" ]]; then
    exit 0
fi

if [[ -n $active ]]; then
    begin "using the active environment $env_dir" ""
    [[ -x $python ]] ||
        fail "the active environment $env_dir has no bin/python: \`deactivate\` it (or \`unset VIRTUAL_ENV\`) and run again to get a fresh .venv"
    found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    [[ $found == "$wanted" ]] ||
        say "    it has Python $found; the pinned versions are tested with $wanted only"
elif ! "$python" -m pip --version >/dev/null 2>&1; then
    begin "creating the virtual environment .venv (Python $wanted)" \
        "on Debian or Ubuntu: sudo apt-get install python$wanted-venv, then run again"
    base=$(command -v "python$wanted" || true)
    # A python3 that is 3.11 will do; a pyenv shim may exist without a Python behind it.
    for candidate in "$base" "$(command -v python3 || true)"; do
        base=""
        if [[ -n $candidate ]] &&
            [[ $("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) == "$wanted" ]]; then
            base=$candidate
            break
        fi
    done
    [[ -n $base ]] ||
        fail "no Python $wanted found. On Debian 12: sudo apt-get install python3 python3-venv python3-dev; elsewhere install it (pyenv, conda, deadsnakes), or activate a virtual environment that has it, then run again"
    # --clear: an interrupted run may have left half an environment.
    "$base" -m venv --clear "$env_dir"
fi
log=$env_dir/ebm-mmdet-setup.log
: >>"$log"
say "details go to $log"

# --- 2. what a compilation needs, said before the long steps --------------------------------------

begin "checking the compiler" "on Debian or Ubuntu: sudo apt-get install g++ make python$wanted-dev"
cxx=${CXX:-g++}
command -v "${cxx%% *}" >/dev/null || { step="looking for a C++ compiler ($cxx)"; exit 1; }
header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
[[ -f $header ]] || { step="looking for Python's headers ($header)"; exit 1; }

# --- 3. packages ----------------------------------------------------------------------------------

pip() { "$python" -m pip --disable-pip-version-check --no-input "$@"; }
export PYTHONUNBUFFERED=1

# As a variable and not as an option, so that it also holds in pip's isolated build environments;
# as a URL, because pip splits the variable at spaces.
constraints=$("$python" -c 'import pathlib; print(pathlib.Path("requirements/constraints.txt").resolve().as_uri())')
export PIP_CONSTRAINT="${PIP_CONSTRAINT:+$PIP_CONSTRAINT }$constraints"

# The wheel of mmcv must survive in a cache, or every new environment compiles it again.
cache=$(pip cache dir 2>/dev/null || true)
if [[ -z $cache ]]; then
    say "    pip's cache is switched off: mmcv will be compiled again in every new environment"
elif ! mkdir -p "$cache" 2>/dev/null || [[ ! -w $cache ]]; then
    export PIP_CACHE_DIR=$env_dir/pip-cache
    say "    pip's cache $cache cannot be written: using $PIP_CACHE_DIR"
fi

network="see the log; if a download failed, check the network and pip's settings (\`pip config list\`) and run again"

begin "installing torch $(pinned torch)" "$network. Without a GPU a CPU build is several GB smaller: point pip at torch's CPU index (PIP_EXTRA_INDEX_URL) before running again"
logged pip install "torch==$(pinned torch)"

begin "installing the build tools" "$network"
logged pip install -r requirements/build.txt "numpy==$(pinned numpy)"

begin "installing OpenCV" "$network"
logged pip install "opencv-python==$(pinned opencv-python)"
if ! "$python" -c 'import cv2' >>"$log" 2>&1; then
    # opencv-python needs the system's libGL; its headless twin is the same without windows.
    begin "replacing OpenCV by its build without windows (no libGL on this machine)" "$network"
    logged pip install --force-reinstall --no-deps \
        "opencv-python-headless==$(pinned opencv-python-headless)"
    "$python" -c 'import cv2' >>"$log" 2>&1
fi

mmcv=$(pinned mmcv)
jobs=${MAX_JOBS:-$(nproc)}

# CFLAGS replaces the flags Python was built with, so -O3 must be said again. -g0: debug information
# doubles the time of every file.
install_mmcv() {
    CFLAGS="-O3 -g0 ${CFLAGS:-}" MAX_JOBS=$jobs MMCV_WITH_OPS=1 \
        logged pip install --no-build-isolation "mmcv==$mmcv" "$@"
}

if ! "$python" -c "import importlib.metadata as m, sys; sys.exit(m.version('mmcv') != '$mmcv')" 2>/dev/null ||
    ! "$python" -c 'import mmcv._ext' >>"$log" 2>&1; then
    if pip cache list mmcv 2>/dev/null | grep -q "mmcv-$mmcv-.*cp${wanted/./}"; then
        begin "installing mmcv $mmcv from the wheel in pip's cache" ""
    else
        begin "compiling mmcv $mmcv with $jobs jobs: about $((14 / jobs + 1)) minutes, once; pip's wheel cache is used afterwards" ""
    fi
    remedy="the compiler's message is in the log; out of memory: run again with MAX_JOBS=1. A wheel built against another torch: \`$python -m pip cache remove mmcv\`, then run again"
    install_mmcv
    "$python" -c 'import mmcv._ext' >>"$log" 2>&1 || {
        # A wheel in the cache that was built without operators, or against another torch.
        begin "compiling mmcv $mmcv again: the wheel found does not fit this torch" "$remedy"
        install_mmcv --no-deps --force-reinstall --no-cache-dir
        "$python" -c 'import mmcv._ext' >>"$log" 2>&1
    }
fi

begin "installing mmdet and the other libraries" "$network"
logged pip install -r requirements/runtime.txt -r requirements/openmmlab.txt -r requirements/test.txt

if [[ -n $with_3d ]]; then
    begin "installing mmdet3d and its libraries: some 2 GB, once" "$network"
    logged pip install -r requirements/3d.txt
fi

begin "installing ebm_ops (C++) and ebm_mmdet from this folder" "$network"
logged pip install --no-build-isolation --no-deps --editable ./ops --editable .

begin "checking the result" "\`$python -m ebm_mmdet\` names what does not fit and the remedy"
"$python" -m ebm_mmdet >>"$log" 2>&1

fingerprint >"$stamp"
[[ -z $with_3d ]] || fingerprint >"$stamp_3d"
say "ready. \`$python -m ebm_mmdet\` prints a diagnosis."
