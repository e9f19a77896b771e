"""Results of families in one file, so that the table can be continued on another machine.

The file has one line of JSON per family, sorted by family: what :func:`.sweep.sweep` returns,
without the trace of an error. A line counts as long as the zoo's config of the family is the same
file; remove a line to try its family again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ebm_mmdet.files import markdown_table, write_text

__all__ = ["add_records", "read_records", "summary", "table"]

RESULTS = {"works": "work", "refused": "are refused", "fails": "fail"}
"""Values of ``result``, in the order of the table, and verbs for a sentence."""


def read_records(path: Path | None, known: Mapping[str, str]) -> list[dict]:
    """The records of families whose config is still the zoo's; none if there is no file.

    Args:
        path: the file, or None.
        known: of :func:`.sweep.families`.

    Raises:
        ValueError: a line is not a record; the message has its number.
    """
    if path is None or not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            family, config, _ = record["family"], record["config"], RESULTS[record["result"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number} is not the result of a family ({error!r}); repair or "
                "remove it"
            ) from error
        if known.get(family) == config:
            records.append(record)
    return records


def add_records(path: Path, records: Sequence[Mapping], results: Sequence[Mapping]) -> list[dict]:
    """Write records and results into the file, of the same family the result; returns all."""
    merged = {each["family"]: dict(each) for each in [*records, *results]}
    for each in merged.values():
        each.pop("trace", None)
    kept = [merged[family] for family in sorted(merged)]
    write_text(path, "".join(f"{json.dumps(each, sort_keys=True)}\n" for each in kept))
    return kept


def summary(results: Sequence[Mapping], known: Collection[str]) -> str:
    """Sentences that count the results, and name the known families without one."""
    counts = {kind: sum(each["result"] == kind for each in results) for kind in RESULTS}
    said = ", ".join(f"{count} {RESULTS[kind]}" for kind, count in counts.items() if count)
    tried = {each["family"] for each in results}
    rest = ", ".join(family for family in known if family not in tried)
    todo = f" Not tried yet: {rest}." if rest else ""
    return f"{len(results)} of {len(known)} families: {said}.{todo}"


def table(results: Sequence[Mapping]) -> str:
    """The results as a Markdown table, those that work first."""
    order = list(RESULTS)
    rows = []
    for each in sorted(results, key=lambda one: (order.index(one["result"]), one["family"])):
        values = ""
        if each["result"] == "works":
            channels = each["in_channels"]
            channels = channels[0] if len(set(channels)) == 1 else channels
            values = f"{' and '.join(each['source'])}: strides {each['strides']}, {channels}"
        notes = ["masks kept" if each.get("masks") else "", *each.get("remarks", ())]
        notes = "; ".join(filter(None, [*notes, each.get("reason", "")]))
        cells = [each["family"], each["config"], each["result"], values, notes]
        rows.append([str(cell).replace("|", "\\|") for cell in cells])
    return markdown_table(["family", "config", "", "maps and channels", "note"], rows)
