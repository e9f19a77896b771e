"""The kernels of the fused climb compile."""

from __future__ import annotations

import pytest

KERNELS = {
    "advance": (
        ["*fp32"] * 6
        + ["*i32"] * 3
        + ["*fp32"] * 2
        + ["*i64", ("fp32",) * 3, ("fp32",) * 4]
        + ["fp32"] * 4
        + ["i32"],
        [
            dict(BEGIN=begin, BB=not begin, STOPS=not begin, LEVELS=4, LAST_PIXEL=begin, BLOCK=64)
            for begin in (True, False)
        ],
    ),
    "accept": (
        ["*fp32"] * 10 + ["*i32"] * 3 + ["*fp32", "*i64", "back"] + ["fp32"] * 2 + ["i32"] * 2,
        [
            dict(BEGIN=begin, BB=not begin, HALVES=halves, BLOCK=1024)
            for begin, halves in ((True, 1), (False, 1), (False, 2))
        ],
    ),
    "activate": (
        ["*fp32"] * 3 + ["back"] + ["i32"] * 2,
        [
            dict(ACTION="relu", HALVES=1, OUT_HALVES=1, BLOCK=1024),
            dict(ACTION="relu", HALVES=2, OUT_HALVES=2, BLOCK=1024),
            dict(ACTION="mask", HALVES=2, OUT_HALVES=2, BLOCK=1024),
            dict(ACTION="copy", HALVES=1, OUT_HALVES=2, BLOCK=1024),
            dict(ACTION="copy", HALVES=2, OUT_HALVES=1, BLOCK=1024),
        ],
    ),
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_for_real_gpus(name, capability, tmp_path, monkeypatch):
    """To machine code, which needs no GPU."""
    triton = pytest.importorskip("triton")
    compiler = pytest.importorskip("triton.backends.compiler")
    from triton.compiler import ASTSource

    from ebm_mmdet.models.fused_climb import kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    types, variants = KERNELS[name]
    function, target = getattr(kernels, name), compiler.GPUTarget("cuda", capability, 32)
    for constants in variants:
        halves = constants.get("OUT_HALVES", constants.get("HALVES"))
        kinds = ["*bf16" if halves == 2 else "*fp32" if kind == "back" else kind for kind in types]
        kinds = [new if old == "back" else old for new, old in zip(kinds, types)]
        signature = dict(
            zip(function.arg_names, [*kinds, *["constexpr"] * len(constants)], strict=True)
        )
        source = ASTSource(function, signature, constexprs=constants)
        options = {"num_warps": 4 if name == "activate" else 1}
        assert triton.compile(source, target=target, options=options).asm["cubin"]
