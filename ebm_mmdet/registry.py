"""Lets any config use `ebm_mmdet::folder/config.py` as a base.

Our types are registered in mmdet's own registries, so they need no prefix. mmengine, however,
treats the package of a base config as a scope: it looks the package up in a fixed list of OpenMMLab
packages, and marks the values inherited from the base with `_scope_='ebm_mmdet'`. Importing this
module (`import ebm_mmdet` does so) adds this package to that list and gives the scope its
registries: empty children of mmdet's, in which every name is found through the parent.
"""

from __future__ import annotations

import mmdet.registry
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import Registry

SCOPE = "ebm_mmdet"

# The name of the module, not of the distribution: mmengine derives a distribution's folder from
# site-packages, where an editable install has no package folder, but it looks up an unknown
# distribution as a module.
MODULE2PACKAGE[SCOPE] = f"{SCOPE}.version"

REGISTRIES = {
    name: Registry(parent.name, parent=parent, scope=SCOPE, locations=[SCOPE])
    for name, parent in vars(mmdet.registry).items()
    if isinstance(parent, Registry)
}
