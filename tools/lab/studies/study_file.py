"""Study files, which list the configs to compare, each as a row with its changes.

    rounds: 6                                  # settings of the study, see `SETTINGS`
    rows:
    - name: Faster R-CNN                       # its name in the table
      config: faster_rcnn.py                   # relative to the study file
    - name: Faster R-CNN, soft-NMS
      config: faster_rcnn.py
      cfg_options:                             # dotted keys, as for --cfg-options
        model.test_cfg.rcnn.nms: {_delete_: true, type: soft_nms, iou_threshold: 0.5}
      trained_as: Faster R-CNN                 # the row whose training gives the weights
      note: why, or where unusual numbers come from

A study of one config needs no file: the config itself is read as a study with one row.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mmdet.registry
import yaml
from mmengine.config import Config
from mmengine.registry import Registry

from ebm_mmdet.engine.config_options import UsageError, merge_options

__all__ = [
    "Row",
    "Study",
    "StudyFileError",
    "apply_options",
    "folder_name",
    "move_data",
    "read_study",
]

SETTINGS = {"rounds", "boxes", "prior_k", "resamples", "shapes"}
"""Keys of a study file: those of `StudySettings`, and a config of generated images."""
KEYS = SETTINGS | {"rows", "cfg_options"}
ROW_KEYS = {"name", "config", "cfg_options", "trained_as", "note"}


class StudyFileError(ValueError):
    """A study file is not as expected; the message names the file, the row and the key."""


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    name: str
    """Its name in the table."""
    trained_as: str = ""
    """Name of the row whose training gives the weights, if it is another one. For an
    ``EBMDetector``, that row is its detector, on which the energy head is trained."""

    @property
    def detector(self) -> str:
        """Name of the row that is trained."""
        return self.trained_as or self.name


@dataclass(frozen=True)
class Study:
    """The content of a study file."""

    rows: list[Row]
    """The rows of the table."""
    cfgs: dict[str, Config]
    """Configs, by name, of these rows and of those in ``trained_as``, with options applied."""
    settings: dict
    """Some of `SETTINGS`."""


def folder_name(name: str) -> str:
    """Return the folder of a row, for example ``kl-loss_voting`` for ``KL-Loss, voting``."""
    return re.sub(r"[^a-z0-9.+-]+", "_", name.lower()).strip("_")


def read_study(
    path: str | Path,
    only: Collection[str] = (),
    cfg_options: Mapping[str, object] | None = None,
    data_root: str | Path | None = None,
) -> Study:
    """Read a study file, or a config as a study with one row.

    Args:
        path: YAML file of a study, or a config.
        only: Names of the rows to keep; empty for all.
        cfg_options: Dotted keys and values for every config, after those of the file.
        data_root: Folder with the data, in place of the configs' `data_root`.

    Raises:
        StudyFileError: A key is unknown or missing, two rows have the same name, no row has a given
            name, or a config does not have the key of an option.
    """
    path = Path(path)
    if not path.is_file():
        raise StudyFileError(f"there is no file {path}; expected a study file or a config")
    if path.suffix == ".py":
        content = {"rows": [{"name": path.stem, "config": path.name}]}
    else:
        content = _load(path)
    _known_keys(content, KEYS, {"rows"}, str(path))
    rows, by_name = [], {}
    for entry in content["rows"]:
        where = f"{path}, row {entry.get('name', len(rows) + 1)!r}"
        _known_keys(entry, ROW_KEYS, {"name", "config"}, where)
        rows.append(Row(entry["name"], entry.get("trained_as", "")))
        by_name[entry["name"]] = entry
    folders = [folder_name(row.name) for row in rows]
    if twice := {folder for folder in folders if folders.count(folder) > 1}:
        raise StudyFileError(f"{path}: two rows share the folder {sorted(twice)[0]!r}; rename one")
    for asked, by in [(name, "--rows") for name in only] + [
        (row.trained_as, f"trained_as of row {row.name!r}") for row in rows if row.trained_as
    ]:
        if asked not in by_name:
            raise StudyFileError(f"{path}: {by} is {asked!r}{_instead(asked, by_name)}")
    rows = [row for row in rows if not only or row.name in only]
    cfgs = {}
    for name in dict.fromkeys(name for row in rows for name in (row.name, row.detector)):
        cfgs[name] = Config.fromfile(path.parent / by_name[name]["config"])
        for options, where in (
            (content.get("cfg_options"), f"{path}, for every row"),
            (by_name[name].get("cfg_options"), f"{path}, row {name!r}"),
            (cfg_options, "--cfg-options"),
        ):
            apply_options(cfgs[name], options or {}, where)
        if data_root is not None:
            move_data(cfgs[name], data_root)
    return Study(rows, cfgs, {key: content[key] for key in SETTINGS if key in content})


def move_data(cfg: Config, data_root: str | Path) -> None:
    """Let a config read its data from another folder, in place.

    When a config is read, the value of its variable `data_root` is copied into its data sets and
    metrics, so all paths that begin with this value are replaced.

    Raises:
        StudyFileError: The config has no variable `data_root`.
    """
    if not isinstance(cfg.get("data_root"), str):
        raise StudyFileError(
            f"{cfg.filename} has no variable data_root, so --data-root {data_root} has no effect; "
            "set train_dataloader.dataset.data_root and the like with --cfg-options"
        )
    old, new = cfg.data_root.rstrip("/"), str(data_root).rstrip("/")

    def moved(value: object) -> object:
        if isinstance(value, str) and (value == old or value.startswith(f"{old}/")):
            return new + value[len(old) :]
        if isinstance(value, dict):
            return {key: moved(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(moved(item) for item in value)
        return value

    for key, value in cfg.to_dict().items():
        cfg[key] = moved(value)


def apply_options(cfg: Config, options: Mapping[str, object], where: str = "cfg_options") -> None:
    """Merge dotted options into a config, in place, if the config has what they change.

    A key must exist already, or be an argument of the part (a dictionary with a ``type``) that gets
    it; a value that replaces a whole part (``_delete_: true``) may have any keys. At the top
    level it must be one that a runner reads, as for ``--cfg-options`` of the other tools.

    Raises:
        StudyFileError: A key is neither; then nothing is changed.
    """
    for option, value in options.items():
        _check(cfg, option.split("."), value, [], where)
    # Deep copies one by one, because merging removes `_delete_` even from values shared by anchors.
    try:
        merge_options(
            cfg, {key: copy.deepcopy(value) for key, value in options.items()}, {"fit_dataset"}
        )
    except UsageError as error:  # a variable of the config file that nothing reads
        raise StudyFileError(f"{where}: {error}") from error


def _check(node: object, keys: Sequence[str], value: object, path: list[str], where: str) -> None:
    """Follow ``keys``, then descend into ``value`` if it is merged and does not replace a part."""
    full = ".".join([*path, *keys])
    for position, key in enumerate(keys):
        known = _children(node)
        if key not in known:
            known = {**known, **dict.fromkeys(_arguments(node), _ARGUMENT)}
        if key not in known:
            if not path:
                return  # `merge_options` knows which keys a runner reads
            parent = ".".join(path)
            raise StudyFileError(f"{where}: {full}: {parent} has no {key!r}{_instead(key, known)}")
        path, node = [*path, key], known[key]
        if node is _ARGUMENT:
            return
        merged = isinstance(value, Mapping) and not value.get("_delete_")
        if position == len(keys) - 1 and merged and isinstance(node, Mapping):
            for name, part in value.items():
                _check(node, [name], part, path, where)


_ARGUMENT = object()
"""Stands for the value of an argument that a config leaves at its default."""


def _children(node: object) -> dict[str, object]:
    """The values below a node that may be changed, by key."""
    if isinstance(node, (list, tuple)):
        return {str(index): item for index, item in enumerate(node)}
    if not isinstance(node, (Mapping, Config)):
        return {}
    return dict(node.items())


def _arguments(node: object) -> Iterator[str]:
    """Names of the arguments of a part's registered type, including those of its bases."""
    kind = node.get("type") if isinstance(node, Mapping) else None
    registries = (item for item in vars(mmdet.registry).values() if isinstance(item, Registry))
    found = (registry.get(kind) for registry in registries) if isinstance(kind, str) else ()
    cls = next((cls for cls in found if inspect.isclass(cls)), None)
    for base in inspect.getmro(cls) if cls else ():
        if "__init__" in vars(base) and base is not object:
            parameters = inspect.signature(base.__init__).parameters.values()
            yield from (
                p.name
                for p in list(parameters)[1:]
                if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
            )
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                return


def _load(path: Path) -> dict:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise StudyFileError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise StudyFileError(f"{path} has no list of rows; expected what {__file__} describes")
    return content


def _instead(wrong: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(wrong, known, 1)
    meant = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{meant} Known: {', '.join(sorted(known)) or 'nothing'}"


def _known_keys(entry: Mapping, known: set[str], needed: set[str], where: str) -> None:
    for key in entry:
        if key not in known:
            raise StudyFileError(f"{where} has a key {key!r}{_instead(key, known)}")
    for key in sorted(needed - set(entry)):
        raise StudyFileError(f"{where} has no {key!r}, which it needs")
