"""How many workers `make test` starts."""

import os
from pathlib import Path

import pytest

from tests.cores import cores


@pytest.fixture(autouse=True)
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4, 5})


@pytest.mark.parametrize(
    ("quota", "found"),
    [("max 100000\n", 4), ("200000 100000\n", 2), ("150000 100000\n", 2), ("50000 100000\n", 1), ("6400000 100000\n", 4)],
)
def test_are_no_more_than_affinity_and_quota_leave(quota: str, found: int, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert cores(tmp_path / "cpu.max") == found


def test_are_those_of_the_affinity_where_nobody_sets_a_quota(tmp_path: Path) -> None:
    assert cores(tmp_path / "none") == 4
