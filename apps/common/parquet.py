"""Parquet files that are there whole, or not at all: for rows that leave the database."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

READ_BYTES = 1 << 20


@contextmanager
def writing(target: Path, schema: Any) -> Iterator[Any]:
    """A ``pyarrow.parquet.ParquetWriter`` for a file, which is safe on disk under its name when the block ends.

    A file of this name is replaced then. When the block raises, or the process ends, the name is as it was.
    """
    import pyarrow.parquet  # late: it takes a tenth of a second, and only archives need it

    _make(target.parent)
    part = target.with_suffix(".part")
    try:
        with pyarrow.parquet.ParquetWriter(part, schema, compression="zstd") as writer:
            yield writer
        sync(part)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)  # perhaps the disk is full of it
        raise
    sync(target.parent)


def _make(folder: Path) -> None:
    """Make a folder whose name outlives a power cut: rows are deleted for the sake of what lies in it."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names of a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_hash(path: Path) -> bytes:
    """SHA-256 of a file's bytes. Raises OSError when it can't be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
    return digest.digest()
