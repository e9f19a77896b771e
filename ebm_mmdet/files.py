"""Write results to files, and as a table between two marker comments of a Markdown page.

Every file is written completely or not at all. Only the standard library is used, so that any part
of the package may import this.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "differing_keys",
    "file_digest",
    "fill_section",
    "in_a_new_place",
    "markdown_table",
    "open_atomic",
    "read_json",
    "write_bytes",
    "write_csv",
    "write_json",
    "write_new_text",
    "write_text",
]


PARTIAL = ".partial"
"""Ending of a temporary file ``.<name>.<random>.partial``; only kill -9 can leave one behind."""


@contextmanager
def open_atomic(path: str | Path, sync: bool = True) -> Iterator[BinaryIO]:
    """Open a file for writing that keeps its old content until the new one is complete.

    The content is written to a temporary file in the same folder, which is flushed to the disk and
    renamed to the target when the block ends; if the block raises, it is removed. Folders are
    created as needed, and the target of a symbolic link is replaced, not the link. The temporary
    file has a unique name, so that two threads or processes never write to the same file.

    Args:
        path: file to write. Its permissions are those of any new file (the process's umask).
        sync: False for one of many files that can be made again: a power failure may then leave it
            empty, a killed process cannot.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with partial.open("xb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)  # such as of a full disk, whose message then has it
        raise


@contextmanager
def in_a_new_place(path: str | Path) -> Iterator[Path]:
    """A path for a file that is put at ``path`` when the block ends, if nothing is there.

    Raises:
        FileExistsError: there is something at ``path``, which stays, and the new file is removed.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        yield partial
        try:
            os.link(partial, path)  # a rename would replace a file that somebody has made meanwhile
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            if os.path.lexists(path):
                raise FileExistsError(f"{path} exists") from None
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def file_digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def differing_keys(stored: Mapping, wanted: Mapping) -> list[str]:
    """Keys of two sets of settings whose values differ, or that one of them lacks; sorted."""
    return sorted(key for key in {*stored, *wanted} if stored.get(key) != wanted.get(key))


def write_bytes(path: str | Path, content: bytes | memoryview) -> None:
    """Write a file as :func:`open_atomic` does."""
    with open_atomic(path) as file:
        file.write(content)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8) as :func:`write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_new_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8) that does not exist yet, completely or not at all.

    Raises:
        FileExistsError: the file exists; its content stays.
    """
    with in_a_new_place(path) as partial:
        write_text(partial, text)


def write_json(path: str | Path, value) -> None:
    """Write ``value`` as indented JSON."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: str | Path):
    """The content of a JSON file, or None if the file does not exist.

    Raises:
        ValueError: the file exists but is not JSON. It does not count as absent, because its
            content would then be computed again and overwrite it.
        OSError: the file exists but cannot be read.
    """
    try:
        text = Path(path).read_bytes()
    except FileNotFoundError:
        return None
    try:
        return json.loads(text)
    except ValueError as error:  # includes errors of the text's encoding
        raise ValueError(
            f"{path} is not valid JSON ({error}). It is kept; repair it, or remove it to have it "
            "made again"
        ) from error


def write_csv(path: str | Path, rows: Sequence[dict]) -> None:
    """Write rows, with the keys of all rows as header; a cell is empty where a row lacks one."""
    with tempfile.SpooledTemporaryFile(mode="w+", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(itertools.chain(*rows))))
        writer.writeheader()
        writer.writerows(rows)
        file.seek(0)
        write_text(path, file.read())


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def fill_section(page: str | Path, name: str, content: str) -> None:
    """Replace the text between ``<!-- name:begin -->`` and ``<!-- name:end -->``.

    The rest of the page stays. If the page or the markers do not exist, they are added at the end.

    Raises:
        ValueError: there is only one of the markers, or they are in the wrong order.
    """
    page = Path(page)
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    counts = text.count(begin), text.count(end)
    if counts == (0, 0):
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n".lstrip()
    elif counts != (1, 1) or text.index(begin) > text.index(end):
        raise ValueError(
            f"{page} has {counts[0]} times {begin!r} and {counts[1]} times {end!r}; expected one "
            "of each, in this order. Repair the page, or remove both to have them added again"
        )
    before, after = text[: text.index(begin)], text[text.index(end) :]
    write_text(page, f"{before}{begin}\n{content.strip()}\n{after}")
