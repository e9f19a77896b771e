"""Makes `ebm_mmdet::folder/config.py` a base that any config can name.

Our types are registered in mmdet's own registries, so nobody has to prefix them. mmengine, however,
treats the package a base config comes from as a scope: it looks the package up in a fixed list of
OpenMMLab packages, and marks the values taken over from the base with `_scope_='ebm_mmdet'`.
Importing this module (`import ebm_mmdet` does) adds us to that list and gives the scope its
registries: empty children of mmdet's, in which every name is found through the parent.
"""

from __future__ import annotations

import mmdet.registry
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import Registry

SCOPE = "ebm_mmdet"

# A module, not the distribution: mmengine derives a distribution's folder from site-packages, where
# an editable install has no package folder. An unknown distribution it looks up as a module.
MODULE2PACKAGE[SCOPE] = f"{SCOPE}.version"

REGISTRIES = {
    name: Registry(parent.name, parent=parent, scope=SCOPE, locations=[SCOPE])
    for name, parent in vars(mmdet.registry).items()
    if isinstance(parent, Registry)
}
