#!/usr/bin/env bash
# Prepares everything the targets of the Makefile need, from nothing, and does nothing when it is
# already there. Called by the Makefile; may be called by hand.
#
#   tools/setup_env.sh                  use the active virtual or conda environment, or create .venv
#   tools/setup_env.sh --with-3d        also mmdet3d and what it needs, some 2 GB more
#   tools/setup_env.sh --ops-only       only what the operators and their tests need: torch
#   tools/setup_env.sh --stack onedl    OneDL's line of the OpenMMLab packages, in .venv-onedl
#   tools/setup_env.sh --force          run every step again
#
# Which registry, proxy and cache pip uses stays the user's business (pip.conf, PIP_*).
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repo"
step="start"
remedy=""
log=""
level="2d"
stack="openmmlab"
force=""
usage() {
    echo "tools/setup_env.sh: $1; there are --with-3d, --ops-only, --stack openmmlab|onedl, --force" >&2
    exit 2
}
while (($#)); do
    case $1 in
    --with-3d) level="3d" ;;
    --ops-only) level="ops" ;;
    --force) force=1 ;;
    --stack)
        stack=${2-}
        (($# < 2)) || shift
        ;;
    *) usage "$1 is unknown" ;;
    esac
    shift
done
case $stack in
# What the two lines of the OpenMMLab packages differ in: names of the distributions, the pinned
# versions, and the environment. They share their module names, so one environment holds one line.
openmmlab)
    mmcv_name=mmcv mmdet_name=mmdet rival=onedl-mmcv
    constraints_file=requirements/constraints.txt own_env=.venv
    ;;
onedl)
    mmcv_name=onedl-mmcv mmdet_name=onedl-mmdetection rival=mmcv
    constraints_file=requirements/constraints-onedl.txt own_env=.venv-onedl
    [[ $level != 3d ]] || usage "--with-3d: mmdet3d exists on the line openmmlab only"
    ;;
*) usage "--stack \"$stack\" is unknown" ;;
esac
heartbeat=""

# --- saying what happens --------------------------------------------------------------------------

say() { printf '[setup] %s\n' "$*"; }

stop_heartbeat() {
    if [[ -n $heartbeat ]]; then
        # Not TERM: right after the fork the loop still has the traps of this script, takes the
        # signal for its own, and goes on; the `wait` would then never return.
        kill -KILL "$heartbeat" 2>/dev/null || true
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

pinned() { sed -n "s/^$1==\\([^ #]*\\).*/\\1/p" "$constraints_file"; }

# --- 1. an environment ----------------------------------------------------------------------------

wanted="3.11"
active=${VIRTUAL_ENV:-}
# conda's base environment is active in every shell: nobody chose it for this.
if [[ -z $active && ${CONDA_DEFAULT_ENV:-base} != base ]]; then
    active=${CONDA_PREFIX:-}
fi
env_dir=${active:-$repo/$own_env}
python=$env_dir/bin/python
# One stamp for each level that was reached, from the least to the most.
stamp_ops=$env_dir/.ebm-mmdet-ops-ready
stamp_2d=$env_dir/.ebm-mmdet-ready
stamp_3d=$env_dir/.ebm-mmdet-3d-ready
case $level in
ops) stamps=("$stamp_ops") enough=("$stamp_ops" "$stamp_2d" "$stamp_3d") ;;
2d) stamps=("$stamp_ops" "$stamp_2d") enough=("$stamp_2d" "$stamp_3d") ;;
3d) stamps=("$stamp_ops" "$stamp_2d" "$stamp_3d") enough=("$stamp_3d") ;;
esac

# What the environment was made from, and which checkout it belongs to.
fingerprint() {
    {
        printf '%s\n' "$repo" "$stack" "${EBM_OPS_BUILD:-1}"
        cat requirements/*.txt setup.py pyproject.toml ebm_mmdet/version.py tools/setup_env.sh
        find ops -path ops/tests -prune -o \( -name '*.cpp' -o -name '*.h' -o -name '*.toml' \
            -o -name version.py -o -name setup.py -o -name build_extension.py \) -print |
            LC_ALL=C sort | xargs -r cat
        "$python" -c 'import sys; print(sys.version)'
    } | sha256sum | cut -d' ' -f1
}

if [[ -z $force && -x $python ]]; then
    now=$(fingerprint)
    for stamp in "${enough[@]}"; do
        if [[ -f $stamp && $(<"$stamp") == "$now" ]]; then
            exit 0
        fi
    done
fi

if [[ -n $active ]]; then
    begin "using the active environment $env_dir" ""
    [[ -x $python ]] ||
        fail "the active environment $env_dir has no bin/python: \`deactivate\` it (or \`unset VIRTUAL_ENV\`) and run again to get a fresh $own_env"
    found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    [[ $found == "$wanted" ]] ||
        say "    it has Python $found; the pinned versions are tested with $wanted only"
elif ! "$python" -m pip --version >/dev/null 2>&1; then
    begin "creating the virtual environment $own_env (Python $wanted)" \
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
# Installing one line over the other would replace single files of packages under the same names.
if "$python" -c "import importlib.metadata as m; m.version('$rival')" 2>/dev/null; then
    step="looking for the other line of the OpenMMLab packages"
    fail "$env_dir holds $rival, which is not of the line $stack: \`deactivate\` it and run again to get a fresh $own_env"
fi
log=$env_dir/ebm-mmdet-setup.log
: >>"$log"
say "details go to $log"

# --- 2. what a compilation needs, said before the long steps --------------------------------------

if [[ $level != ops ]]; then # the operators alone do without, more slowly
    begin "checking the compiler" "on Debian or Ubuntu: sudo apt-get install g++ make python$wanted-dev"
    cxx=${CXX:-g++}
    command -v "${cxx%% *}" >/dev/null || { step="looking for a C++ compiler ($cxx)"; exit 1; }
    header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
    [[ -f $header ]] || { step="looking for Python's headers ($header)"; exit 1; }
fi

# --- 3. packages ----------------------------------------------------------------------------------

pip() { "$python" -m pip --disable-pip-version-check --no-input "$@"; }
export PYTHONUNBUFFERED=1

# As a variable and not as an option, so that it also holds in pip's isolated build environments;
# as a URL, because pip splits the variable at spaces.
constraints=$("$python" -c "import pathlib; print(pathlib.Path('$constraints_file').resolve().as_uri())")
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
logged pip install -r requirements/build.txt

if [[ $level == ops ]]; then
    begin "installing ebm_ops from this folder, with its C++ operators, and its tests' tools" "$network"
    logged pip install --no-build-isolation --editable './ops[test]'
    begin "checking the result" "the message is in the log"
    "$python" -c 'import ebm_ops; print(ebm_ops.backend_info())' >>"$log" 2>&1
    fingerprint >"$stamp_ops"
    say "ready for the operators; ebm_mmdet itself is not installed."
    exit 0
fi

logged pip install "numpy==$(pinned numpy)" # mmcv is built against it

begin "installing OpenCV" "$network"
logged pip install "opencv-python==$(pinned opencv-python)"
if ! "$python" -c 'import cv2' >>"$log" 2>&1; then
    # opencv-python needs the system's libGL; its headless twin is the same without windows.
    begin "replacing OpenCV by its build without windows (no libGL on this machine)" "$network"
    logged pip install --force-reinstall --no-deps \
        "opencv-python-headless==$(pinned opencv-python-headless)"
    "$python" -c 'import cv2' >>"$log" 2>&1
fi

mmcv=$(pinned "$mmcv_name")
jobs=${MAX_JOBS:-$(nproc)}

# CFLAGS replaces the flags Python was built with, so -O3 must be said again. -g0: debug information
# doubles the time of every file.
install_mmcv() {
    CFLAGS="-O3 -g0 ${CFLAGS:-}" MAX_JOBS=$jobs MMCV_WITH_OPS=1 \
        logged pip install --no-build-isolation "$mmcv_name==$mmcv" "$@"
}

if ! "$python" -c "import importlib.metadata as m, sys; sys.exit(m.version('$mmcv_name') != '$mmcv')" 2>/dev/null ||
    ! "$python" -c 'import mmcv._ext' >>"$log" 2>&1; then
    wheel=${mmcv_name//-/_} # as the file is called
    tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
    if pip cache list "$wheel" 2>/dev/null | grep -q "$wheel-$mmcv-.*$tag"; then
        begin "installing $mmcv_name $mmcv from the wheel in pip's cache" ""
    else
        begin "compiling $mmcv_name $mmcv with $jobs jobs: about $((18 / jobs + 1)) minutes, once; pip's wheel cache is used afterwards" ""
    fi
    remedy="the compiler's message is in the log; out of memory: run again with MAX_JOBS=1. A wheel built against another torch: \`$python -m pip cache remove $wheel\`, then run again"
    install_mmcv
    "$python" -c 'import mmcv._ext' >>"$log" 2>&1 || {
        # A wheel in the cache that was built without operators, or against another torch.
        begin "compiling $mmcv_name $mmcv again: the wheel found does not fit this torch" "$remedy"
        install_mmcv --no-deps --force-reinstall --no-cache-dir
        "$python" -c 'import mmcv._ext' >>"$log" 2>&1
    }
fi

begin "installing mmdet and the other libraries" "$network"
# OneDL's mmdet comes as a source whose set-up imports torch.
logged pip install --no-build-isolation "$mmdet_name==$(pinned "$mmdet_name")"
logged pip install -r requirements/runtime.txt -r "requirements/$stack.txt" -r requirements/data.txt \
    -r requirements/test.txt

if [[ $level == 3d ]]; then
    begin "installing mmdet3d and its libraries: some 2 GB, once" "$network"
    logged pip install -r requirements/3d.txt
fi

begin "installing ebm_ops (C++) and ebm_mmdet from this folder" "$network"
logged pip install --no-build-isolation --no-deps --editable ./ops --editable .

begin "checking the result" "\`$python -m ebm_mmdet\` names what does not fit and the remedy"
"$python" -m ebm_mmdet >>"$log" 2>&1

now=$(fingerprint)
for stamp in "${stamps[@]}"; do
    printf '%s\n' "$now" >"$stamp"
done
say "ready. \`$python -m ebm_mmdet\` prints a diagnosis."
