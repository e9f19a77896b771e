"""The set-up script: it reports what is missing, and does nothing if everything is installed.

The long way, from nothing, is what `make test` itself takes in a fresh clone.
"""

import os
import shlex
import shutil

import pytest

from tests.tools.tools_support import REPO, run

NEEDED = (
    *("bash", "cat", "cut", "dirname", "env", "find", "grep", "mkdir", "nproc", "rm", "sed"),
    *("sha256sum", "sleep", "sort", "tail", "xargs"),
)

# Answers what the script asks a Python; environment variables choose the answers.
FAKE_PYTHON = """#!/bin/bash
case "$*" in
    *"%d.%d"*) echo "${FAKE_VERSION:-3.11}" ;;
    *Python.h*) echo "$FAKE_HEADER" ;;
    *sys.version*) echo fake ;;
    *as_uri*) echo file:///constraints.txt ;;
    *"cache dir"*) echo "$FAKE_CACHE" ;;
    *"m.version('${FAKE_INSTALLED:-nothing}')"*) exit 0 ;;
    *"pip"*"--version"*) [[ -z ${FAKE_NO_PIP:-} ]] ;;
    *"-m venv"*) echo "ensurepip is not available" >&2; exit 1 ;;
    *"pip"*"install torch"*) echo "no matching distribution" >&2; exit 1 ;;
    *) exit 1 ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """The parts of a checkout that the script reads, and a PATH with nothing but core tools."""
    for name in ("requirements", "tools", "ops"):
        ignore = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(REPO / name, tmp_path / "clone" / name, ignore=ignore)
    (tmp_path / "clone" / "ebm_mmdet").mkdir()
    for name in ("setup.py", "pyproject.toml", "ebm_mmdet/version.py"):
        shutil.copy(REPO / name, tmp_path / "clone" / name)
    (tmp_path / "bin").mkdir()
    for name in NEEDED:
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    return tmp_path


def fake_python(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(FAKE_PYTHON)
    path.chmod(0o755)


def set_up(checkout, *options, **variables):
    env = {"PATH": str(checkout / "bin"), "HOME": str(checkout), **variables}
    return run(checkout / "clone" / "tools" / "setup_env.sh", *options, env=env)


def test_no_python(checkout):
    done = set_up(checkout)
    assert done.returncode == 1
    assert "FAILED at: creating the virtual environment" in done.stdout
    assert "no Python 3.11 found" in done.stdout
    assert "apt-get install" in done.stdout


def test_python_without_venv(checkout):
    fake_python(checkout / "bin" / "python3.11")
    done = set_up(checkout)
    assert done.returncode == 1
    assert "python3.11-venv" in done.stdout


def test_no_compiler_and_no_headers(checkout):
    fake_python(checkout / "env" / "bin" / "python")
    env = {"VIRTUAL_ENV": str(checkout / "env"), "FAKE_HEADER": str(checkout / "Python.h")}
    done = set_up(checkout, **env)
    assert done.returncode == 1
    assert "looking for a C++ compiler (g++)" in done.stdout
    assert "apt-get install g++" in done.stdout
    (checkout / "bin" / "g++").symlink_to(shutil.which("true"))
    done = set_up(checkout, **env)
    assert done.returncode == 1
    assert "looking for Python's headers" in done.stdout
    assert "python3.11-dev" in done.stdout


def test_failed_download_names_step_log_and_remedy(checkout):
    fake_python(checkout / "env" / "bin" / "python")
    (checkout / "bin" / "g++").symlink_to(shutil.which("true"))
    (checkout / "Python.h").touch()
    done = set_up(
        checkout,
        VIRTUAL_ENV=str(checkout / "env"),
        FAKE_HEADER=str(checkout / "Python.h"),
        FAKE_CACHE="/proc/not-writable",
    )
    assert done.returncode == 1
    assert "FAILED at: installing torch" in done.stdout
    assert "no matching distribution" in done.stdout
    assert "check the network" in done.stdout
    assert str(checkout / "env" / "ebm-mmdet-setup.log") in done.stdout
    assert "cannot be written: using" in done.stdout


def test_environment_without_python(checkout):
    done = set_up(checkout, VIRTUAL_ENV=str(checkout / "gone"))
    assert done.returncode == 1
    assert "deactivate" in done.stdout


def test_an_active_conda_environment_is_used_unless_it_is_the_base(checkout):
    fake_python(checkout / "conda" / "bin" / "python")
    conda = {"CONDA_PREFIX": str(checkout / "conda")}
    done = set_up(checkout, CONDA_DEFAULT_ENV="project", **conda)
    assert f"using the active environment {checkout / 'conda'}" in done.stdout
    done = set_up(checkout, CONDA_DEFAULT_ENV="base", **conda)
    assert "FAILED at: creating the virtual environment" in done.stdout
    for name, expected in (
        ("project", f"{checkout}/conda/bin/python"),
        ("base", ".venv/bin/python"),
    ):
        assert f'"{expected}" tools/demo.py' in make("demo", CONDA_DEFAULT_ENV=name, **conda)


def test_unknown_option(checkout):
    done = set_up(checkout, "--with-4d")
    assert done.returncode == 2
    assert "--with-4d is unknown; there are --with-3d" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--stack", "mmlab"], '--stack "mmlab" is unknown'),
        (["--stack"], '--stack "" is unknown'),
        (["--stack", "onedl", "--with-3d"], "mmdet3d exists on the line openmmlab only"),
    ],
)
def test_a_line_that_does_not_exist(checkout, options, said):
    done = set_up(checkout, *options)
    assert done.returncode == 2
    assert said in done.stdout


@pytest.mark.parametrize(
    ("stack", "rival", "folder"),
    [("openmmlab", "onedl-mmcv", ".venv"), ("onedl", "mmcv", ".venv-onedl")],
)
def test_one_line_is_never_installed_over_the_other(checkout, stack, rival, folder):
    fake_python(checkout / "env" / "bin" / "python")
    env = {"VIRTUAL_ENV": str(checkout / "env"), "FAKE_INSTALLED": rival}
    done = set_up(checkout, "--stack", stack, **env)
    assert done.returncode == 1
    assert f"holds {rival}, which is not of the line {stack}" in done.stdout
    assert "installing" not in done.stdout
    # Without an active environment each has its own.
    done = set_up(checkout, "--stack", stack)
    assert f"creating the virtual environment {folder} (" in done.stdout


def test_the_operators_alone_need_no_compiler(checkout):
    fake_python(checkout / "env" / "bin" / "python")
    done = set_up(checkout, "--ops-only", VIRTUAL_ENV=str(checkout / "env"))
    assert "FAILED at: installing torch" in done.stdout
    assert "compiler" not in done.stdout


def make(*arguments, **variables):
    """The commands that `make` would run."""
    env = {"PATH": os.environ["PATH"], **variables}
    return run("make", "-n", "-C", REPO, *arguments, env=env).stdout


@pytest.mark.parametrize(
    ("tests", "options"),
    [
        ("ops/tests", "--ops-only"),
        ("ops/tests/test_prroi_pool.py", "--ops-only"),
        ("tests/ebm_mmdet/energy", ""),
        ("ops/tests tests/ebm_mmdet", ""),
        ("tests/packaging", ""),
        ("tests/ebm_mmdet3d/models", "--with-3d"),
        ("tests", "--with-3d"),
        ("tests/ebm_mmdet tests/lab", "--with-3d"),
    ],
)
def test_tests_install_only_what_they_need(tests, options):
    commands = make("test", f"TESTS={tests}").splitlines()
    (set_up_line,) = (line for line in commands if line.startswith("tools/setup_env.sh"))
    assert set_up_line.split()[3:] == options.split()
    assert any("-m pytest" in line and line.endswith(f" {tests}") for line in commands)
    # There is no 3D on the other line.
    assert "--with-3d" not in make("test", f"TESTS={tests}", "STACK=onedl")


def test_the_other_line_has_its_own_environment():
    commands = make("test-fast", "STACK=onedl")
    assert "tools/setup_env.sh --stack onedl\n" in commands
    assert '".venv-onedl/bin/python" -m pytest' in commands
    assert '-m "not slow" tests/ebm_mmdet ops/tests' in commands


@pytest.mark.parametrize(
    "target", ["demo", "demo3d", "test", "test-fast", "lint", "bench", "docs", "clean"]
)
def test_an_environment_may_have_blanks_in_its_name(target):
    commands = make(target, VIRTUAL_ENV="/my folder/venv")
    words = shlex.split(commands.replace("$script", ""))
    assert any(word.startswith("/my folder/venv/") for word in words)
    assert "/my" not in words


@pytest.mark.parametrize("target", ["demo", "demo3d"])
def test_a_demo_leaves_the_page_of_results_alone(target):
    """Several seeds alone must not rewrite a tracked file."""
    assert "--page" not in make(target, "SEEDS=3")
    assert "--seeds 3 --page " in make(target, "SEEDS=3", "PAGE=1")


def part_of_the_script(begin, end):
    text = (REPO / "tools" / "setup_env.sh").read_text()
    return text[text.index(begin) : text.index(end)]


def test_the_sign_of_life_ends_even_when_it_ignores_signals(tmp_path):
    """Just after the fork the loop may take TERM for its own, and go on: then `wait` hung.

    A loop that ignores TERM and INT altogether is the same, every time.
    """
    functions = part_of_the_script("stop_heartbeat() {", "on_exit() {")
    functions += part_of_the_script("logged() {", "pinned() {")
    script = f"""
        say() {{ :; }}; heartbeat=""; log={tmp_path}/log; SECONDS=0
        trap '' TERM INT
        {functions}
        for i in 1 2 3 4 5; do logged true; done
        logged false || echo "status $?"
    """
    done = run("bash", "-c", script, timeout=20)
    assert done.stdout == "status 1\n"


def test_nothing_to_do(checkout):
    """A matching stamp ends the script at once; any change of what is installed does not."""
    fake_python(checkout / "env" / "bin" / "python")
    variables = {"VIRTUAL_ENV": str(checkout / "env")}
    # The fingerprint, by the script's own function.
    function = part_of_the_script("fingerprint() {", "if [[ -z $force")
    header = f"repo={checkout}/clone; cd $repo; stack=openmmlab; python={checkout}/env/bin/python\n"
    printed = run("bash", "-c", header + function + "fingerprint")
    (checkout / "env" / ".ebm-mmdet-ready").write_text(printed.stdout)
    done = set_up(checkout, **variables)
    assert (done.returncode, done.stdout) == (0, "")
    # What 2D needs is not all that 3D needs, but more than the operators do.
    assert set_up(checkout, "--with-3d", **variables).returncode == 1
    assert set_up(checkout, "--ops-only", **variables).returncode == 0
    assert set_up(checkout, "--stack", "onedl", **variables).returncode == 1
    (checkout / "env" / ".ebm-mmdet-3d-ready").write_text(printed.stdout)
    assert set_up(checkout, "--with-3d", **variables).returncode == 0
    with (checkout / "clone" / "requirements" / "runtime.txt").open("a") as file:
        file.write("another-package\n")
    assert set_up(checkout, **variables).returncode == 1
