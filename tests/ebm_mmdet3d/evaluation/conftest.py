"""Types without a scope in their name are mmdet3d's here, whichever tests ran before."""

import pytest


@pytest.fixture(autouse=True)
def default_scope():
    try:
        import mmdet3d  # noqa: F401
    except ImportError:
        return
    from mmengine.registry import init_default_scope

    init_default_scope("mmdet3d")
