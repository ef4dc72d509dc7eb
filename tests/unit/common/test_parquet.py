"""Files of an archive: safe on disk before anybody relies on them, or not there at all."""

from pathlib import Path

import pyarrow
import pytest

from apps.common import parquet

SCHEMA = pyarrow.schema([("n", pyarrow.int64())])
ROWS = pyarrow.table({"n": [1, 2]}, schema=SCHEMA)


class TestWriting:
    def test_the_names_of_new_folders_are_on_disk_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synced: list[Path] = []
        sync = parquet.sync
        monkeypatch.setattr(parquet, "sync", lambda path: (synced.append(path), sync(path)))
        target = tmp_path / "archive" / "lines" / "month=2026-01" / "lines.parquet"
        with parquet.writing(target, SCHEMA) as file:
            file.write_table(ROWS)
        assert {target.parent, *target.parents[1:4]} <= set(synced)
        assert target.parents[3] == tmp_path

    def test_what_broke_off_takes_no_place(self, tmp_path: Path) -> None:
        def write() -> None:
            with parquet.writing(tmp_path / "lines.parquet", SCHEMA) as file:
                file.write_table(ROWS)
                raise OSError(28, "No space left on device")

        with pytest.raises(OSError, match="No space left"):
            write()
        assert list(tmp_path.iterdir()) == []
