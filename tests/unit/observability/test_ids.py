"""Ids travel with the work, and only with it."""

import threading

import pytest

from apps.observability import ids


class TestBound:
    def test_adds_inside_and_takes_away_outside(self) -> None:
        with ids.bound(global_id="g"):
            with ids.bound(run_id="r", global_id="h"):
                assert ids.current() == {"global_id": "h", "run_id": "r"}
            assert ids.current() == {"global_id": "g"}
        assert ids.current() == {}

    def test_takes_away_after_an_error_too(self) -> None:
        with pytest.raises(RuntimeError), ids.bound(run_id="r"):
            raise RuntimeError
        assert ids.current() == {}

    def test_does_not_leak_into_another_thread(self) -> None:
        seen: list[dict[str, str]] = []
        with ids.bound(run_id="r"):
            thread = threading.Thread(target=lambda: seen.append(ids.current()))
            thread.start()
            thread.join()
        assert seen == [{}]


class TestIsSafe:
    @pytest.mark.parametrize("value", ["a", "018f-7:x_y.z", "A" * 128])
    def test_lets_plain_ids_in(self, value: str) -> None:
        assert ids.is_safe(value)

    @pytest.mark.parametrize("value", ["", "a b", "a\nb", "a\n", "é", '"', "A" * 129, "\x00"])
    def test_keeps_the_rest_out(self, value: str) -> None:
        assert not ids.is_safe(value)
