"""Which implementation serves, and how the extension is described and built."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys

import pytest
import torch

from ebm_ops import backend_info, backends
from surroundings import COMPILER, HAS_CPP, PROJECT, load_build_extension, run_python

build = load_build_extension()


def test_import_needs_nothing_but_torch():
    script = (
        "import sys\n"
        "for name in ('mmcv', 'mmengine', 'mmdet', 'triton', 'numpy'): sys.modules[name] = None\n"
        "import torch, ebm_ops\n"
        "print(ebm_ops.prroi_pool(torch.ones(1, 1, 4, 4), torch.tensor([[0, 0., 0, 2, 2]]), 1, 1.))"
    )
    done = run_python(script)
    assert "1." in done.stdout, done.stderr


def test_backend_info_names_and_explains():
    info = backend_info()
    assert set(info) == {"cpu", "cuda"}
    assert info["cpu"].name in ("cpp", "reference")
    assert info["cuda"].name in ("triton", "reference")
    assert all(backend.why for backend in info.values())


def test_a_gpu_without_a_compiler_is_served_by_the_reference(monkeypatch, caplog):
    """As decided when the package is imported; the operators say so in one line, once."""
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    find = backends._cuda.__wrapped__
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    found = find()
    assert found.name == "reference"
    assert "install gcc" in found.why
    backends.warn_slow.cache_clear()
    for _ in range(2):
        backends.warn_slow("cuda", found.why)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "\n" not in caplog.text.strip()
    for compiler in ("/no/such/compiler", "no-such-compiler -O2", "'half", " "):
        monkeypatch.setenv("CC", compiler)
        assert find().name == "reference"
    for compiler in (sys.executable, f"{shlex.quote(sys.executable)} -x"):  # may have blanks
        monkeypatch.setenv("CC", compiler)
        assert find().name == "triton"


def test_build_can_be_skipped(monkeypatch, capsys):
    monkeypatch.setenv("EBM_OPS_BUILD", "0")
    assert build.extensions() == []
    assert capsys.readouterr().out.count("\n") == 1
    monkeypatch.delenv("EBM_OPS_BUILD")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    assert build.extensions() == []
    assert "no C++ compiler found" in capsys.readouterr().out


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_build_lists_existing_files():
    (extension,) = build.extensions()
    assert extension.name == "ebm_ops._C"
    assert extension.optional
    assert all((PROJECT / name).is_file() for name in [*extension.sources, *extension.depends])


@pytest.mark.skipif(not HAS_CPP, reason="no C++ backend")
def test_threads_of_torch_are_used():
    """Compiled without OpenMP, at::parallel_for is a plain loop and nothing else tells so."""
    import ebm_ops._C

    if not build._openmp():
        pytest.skip("torch or the compiler has another kind of threads")
    assert ebm_ops._C.threaded
    if shutil.which("readelf"):  # torch's runtime is the only one: no second pool of threads
        dynamic = subprocess.run(["readelf", "-d", ebm_ops._C.__file__], capture_output=True)
        assert b"gomp" not in dynamic.stdout


@pytest.mark.skipif(not HAS_CPP, reason="no C++ backend")
def test_an_extension_from_older_sources_is_noticed():
    """Sources updated without a rebuild: the operator is missing, and the reference steps in."""
    library = torch.library.Library("ebm_ops", "FRAGMENT")
    library.define("an_operator_of_tomorrow(Tensor x) -> Tensor")
    assert backends.extension_lacks("an_operator_of_tomorrow")
    assert not backends.extension_lacks("prroi_pool")
