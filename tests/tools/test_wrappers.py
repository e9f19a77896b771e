"""The shell scripts pass on what they are given, quoting included."""

import os

import pytest

from tests.tools.tools_support import REPO, environment, run


@pytest.fixture
def recorder(tmp_path):
    """A program that prints its arguments, one per line, and some of its environment."""
    path = tmp_path / "recorder"
    path.write_text('#!/bin/bash\nprintf "%s\\n" "$@" "threads=$OMP_NUM_THREADS"\n')
    path.chmod(0o755)
    return path


def arguments(done):
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


def without(*names, **extra):
    return {k: v for k, v in environment(**extra).items() if k not in names}


def test_dist_train_starts_processes_with_shared_cores(recorder):
    env = without("OMP_NUM_THREADS", "PORT", "NNODES", "MASTER_ADDR", PYTHON=str(recorder))
    out = arguments(
        run(REPO / "tools/dist_train.sh", "my config.py", 2, "--cfg-options", "a=b c", env=env)
    )
    assert out[:2] == ["-m", "torch.distributed.run"]
    assert "--standalone" in out
    assert "--nproc_per_node=2" in out
    script = out.index(str(REPO / "tools" / "train.py"))
    assert out[script + 1 : -1] == [
        "my config.py",
        "--launcher",
        "pytorch",
        "--cfg-options",
        "a=b c",
    ]
    assert out[-1] == f"threads={max(len(os.sched_getaffinity(0)) // 2, 1)}"


def test_dist_test_on_several_nodes(recorder):
    env = environment(PYTHON=str(recorder), NNODES="3", NODE_RANK="1", PORT="29777")
    out = arguments(run(REPO / "tools/dist_test.sh", "c.py", "x.pth", 4, "--out", "r.pkl", env=env))
    assert {"--nnodes=3", "--node_rank=1", "--master_port=29777", "--nproc_per_node=4"} <= set(out)
    script = out.index(str(REPO / "tools" / "test.py"))
    assert out[script + 1 : -1] == ["c.py", "x.pth", "--launcher", "pytorch", "--out", "r.pkl"]


@pytest.mark.parametrize("name", ["dist_test.sh", "slurm_train.sh", "slurm_test.sh"])
def test_missing_arguments_print_the_usage(name):
    done = run(REPO / "tools" / name, "one")
    assert done.returncode == 2
    assert done.stdout.startswith("usage:")


def test_slurm_scripts(recorder, tmp_path):
    (tmp_path / "srun").symlink_to(recorder)
    env = environment(
        PATH=f"{tmp_path}:{os.environ['PATH']}", GPUS="16", PYTHON="python", SRUN_ARGS="-w host1"
    )
    out = arguments(
        run(REPO / "tools/slurm_train.sh", "part", "job", "c.py", "w d", "--amp", env=env)
    )
    assert out[:2] == ["-p", "part"]
    assert {"--job-name=job", "--ntasks=16", "--gres=gpu:8", "--ntasks-per-node=8"} <= set(out)
    assert out[out.index("-w") + 1] == "host1"
    tail = ["c.py", "--work-dir", "w d", "--amp", "--launcher", "slurm"]
    assert out[out.index(str(REPO / "tools" / "train.py")) + 1 : -1] == tail
    out = arguments(run(REPO / "tools/slurm_test.sh", "part", "job", "c.py", "x.pth", env=env))
    tail = ["c.py", "x.pth", "--launcher", "slurm"]
    assert out[out.index(str(REPO / "tools" / "test.py")) + 1 : -1] == tail
