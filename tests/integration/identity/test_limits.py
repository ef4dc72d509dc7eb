"""Who is refused again and again has to wait, at the API and at the back office; and nobody can make others wait."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, connections, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from apps.backoffice import login
from apps.identity import limits
from apps.identity.models import FailedLogin, Secret
from apps.identity.tasks import forget_failed_logins
from tests.integration.payments.world import basic, merchant

pytestmark = pytest.mark.django_db
HERE, ELSEWHERE, PROXY = "203.0.113.7", "198.51.100.9", "10.1.2.3"
PASSWORD = "a long enough one"
WAIT_S = 90  # for a thread: a limit for a broken build, it decides nothing


@pytest.fixture(autouse=True)
def _small_limits(settings: Settings) -> None:
    settings.LOGIN_FAILURES_MAX, settings.LOGIN_FAILURES_OF_ADDRESS_MAX = 3, 5
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


def age(seconds: float) -> None:
    """Time goes by."""
    for row in FailedLogin.objects.all():
        FailedLogin.objects.filter(pk=row.pk).update(until=row.until - timedelta(seconds=seconds))


# --- The API ------------------------------------------------------------------------------------------------------------
def call(authorization: str, address: str = HERE, **more: str) -> Any:
    return Client().get("/payments", HTTP_AUTHORIZATION=authorization, REMOTE_ADDR=address, **more)


def wrong(address: str = HERE, times: int = 1, **more: str) -> list[int]:
    return [call(basic("acc_victim", f"no{number}"), address, **more).status_code for number in range(times)]


@pytest.fixture
def shop() -> str:
    """A merchant's credentials."""
    client, _ = merchant("payments:read", code="acc_victim")
    return str(client._credentials["HTTP_AUTHORIZATION"])


class TestApi:
    def test_says_how_long_to_wait_when_an_address_was_refused_too_often(self, shop: str) -> None:
        assert wrong(times=5) == [401] * 5
        answer = call(basic("acc_victim", "no"))
        assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (429, "R008", True)
        assert 880 < int(answer["Retry-After"]) <= 900
        assert wrong(ELSEWHERE) == [401]
        age(901)
        assert wrong() == [401]

    def test_refuses_what_cannot_be_read_as_often(self) -> None:
        assert [call("Basic %%%").status_code for _ in range(6)] == [401] * 5 + [429]

    def test_stops_whoever_tries_stolen_secrets_also_at_the_right_one(self, shop: str) -> None:
        wrong(times=5)
        assert call(shop).status_code == 429
        assert not Secret.objects.exclude(last_used_at=None).exists()

    def test_never_makes_a_merchant_wait_whose_neighbour_is_refused(self, shop: str) -> None:
        assert call(shop).status_code == 200
        wrong(times=9)
        assert call(shop).status_code == 200
        assert call(shop, ELSEWHERE).status_code == 200, "nor is the account closed anywhere else"

    def test_knows_all_the_addresses_that_a_merchant_calls_from(self, shop: str) -> None:
        for number, address in enumerate([HERE, ELSEWHERE, HERE, *(f"192.0.2.{n}" for n in range(6))]):
            Secret.objects.update(last_used_at=timezone.now() - timedelta(minutes=2))
            assert call(shop, address).status_code == 200, number
        assert Secret.objects.get().addresses == [*(f"192.0.2.{n}" for n in (5, 4, 3, 2, 1, 0)), HERE, ELSEWHERE]
        wrong(ELSEWHERE, times=9)
        assert call(shop, ELSEWHERE).status_code == 200

    def test_costs_a_good_request_nothing(self, shop: str) -> None:
        call(shop)
        with CaptureQueriesContext(connection) as asked:
            assert call(shop).status_code == 200
        assert len(asked) == 2, "who calls, and what was asked for"
        assert not FailedLogin.objects.exists()

    def test_writes_nothing_more_once_it_refuses(self) -> None:
        wrong(times=6)
        before = FailedLogin.objects.values()[0]
        with CaptureQueriesContext(connection) as asked:
            wrong(times=3)
        assert all(query["sql"].lstrip().startswith("SELECT") for query in asked)
        assert FailedLogin.objects.values()[0] == before

    def test_counts_a_network_of_ipv6_as_one_address(self) -> None:
        for number in range(5):
            wrong(f"2001:db8:1:2::{number:x}")
        assert wrong("2001:db8:1:2:ffff::1") == [429]
        assert wrong("2001:db8:1:3::1") == [401]
        assert wrong("::ffff:203.0.113.7") == [401]
        assert FailedLogin.objects.filter(key="api 203.0.113.7").exists(), "an IPv4 address however it is written"


class TestBehindAProxy:
    def test_believes_nobody_who_is_no_proxy(self) -> None:
        for number in range(5):
            wrong(HTTP_X_FORWARDED_FOR=f"192.0.2.{number}")
        assert wrong(HTTP_X_FORWARDED_FOR="192.0.2.77") == [429]

    def test_counts_the_last_address_that_the_proxy_itself_has_seen(self, settings: Settings) -> None:
        settings.TRUSTED_PROXIES = ["10.0.0.0/8"]
        for number in range(5):  # the caller makes the first ones up
            wrong(PROXY, HTTP_X_FORWARDED_FOR=f"192.0.2.{number}, {HERE}, 10.9.9.9")
        assert wrong(PROXY, HTTP_X_FORWARDED_FOR=f"192.0.2.9, {HERE}") == [429]
        assert wrong(PROXY, HTTP_X_FORWARDED_FOR=ELSEWHERE) == [401]
        assert wrong(HERE) == [429], "the same caller, without the proxy"

    @pytest.mark.parametrize("said", ["", "unknown", "_hidden", f"{HERE}, ", "x" * 5000, "999.1.1.1"])
    def test_takes_the_proxy_for_the_caller_when_it_says_nothing_of_use(self, said: str, settings: Settings) -> None:
        settings.TRUSTED_PROXIES = ["10.0.0.0/8"]
        wrong(PROXY, HTTP_X_FORWARDED_FOR=said)
        assert FailedLogin.objects.get().key == f"api {PROXY}"

    @pytest.mark.parametrize("said", [f"{HERE}:1234", f" {HERE} "])
    def test_reads_an_address_with_a_port(self, said: str, settings: Settings) -> None:
        settings.TRUSTED_PROXIES = [PROXY]
        wrong(PROXY, HTTP_X_FORWARDED_FOR=said)
        assert FailedLogin.objects.get().key == f"api {HERE}"


# --- The back office ----------------------------------------------------------------------------------------------------
@pytest.fixture
def staff() -> User:
    return User.objects.create_superuser("ana", password=PASSWORD)


def log_in(password: str = PASSWORD, name: str = "ana", address: str = HERE, browser: Client | None = None) -> Any:
    form = {"username": name, "password": password, "next": "/admin/"}
    return (browser or Client()).post("/admin/login/", form, REMOTE_ADDR=address)


def guess(times: int, **more: Any) -> list[int]:
    return [log_in(f"wrong {number}", **more).status_code for number in range(times)]


class TestBackOffice:
    def test_says_when_to_try_again(self, staff: User) -> None:
        assert guess(3) == [200] * 3
        answer = log_in()
        assert answer.status_code == 429
        assert 880 < int(answer["Retry-After"]) <= 900
        assert "Too many failed logins. Try again in 15 minutes." in answer.content.decode()
        age(901)
        assert log_in().status_code == 302

    def test_lets_in_whoever_errs_less_often(self, staff: User) -> None:
        for _ in range(4):  # what succeeded does not count
            assert log_in().status_code == 302
        guess(2)
        assert log_in().status_code == 302

    def test_one_good_login_does_not_make_room_for_more_guesses(self, staff: User) -> None:
        User.objects.create_superuser("eve", password=PASSWORD)
        guess(2)
        log_in(name="eve")
        assert guess(2) == [200, 429]

    def test_limits_an_address_that_tries_many_names(self, staff: User) -> None:
        assert [log_in("wrong", name=f"name{number}").status_code for number in range(6)] == [200] * 5 + [429]
        assert log_in(address=ELSEWHERE).status_code == 302

    def test_limits_a_name_that_is_tried_from_many_addresses(self, staff: User) -> None:
        assert [log_in("wrong", address=f"192.0.2.{number}").status_code for number in range(4)] == [200] * 3 + [429]

    def test_treats_names_that_there_are_not_alike(self) -> None:
        assert guess(4, name="nobody") == [200] * 3 + [429]

    def test_a_stranger_cannot_lock_out_whoever_has_logged_in_on_a_device_before(self, staff: User) -> None:
        browser = Client()
        log_in(browser=browser)
        browser.post("/admin/logout/")
        guess(9, address=ELSEWHERE)
        guess(9)
        assert log_in(address=ELSEWHERE).status_code == 429
        assert log_in(browser=browser).status_code == 302

    def test_limits_a_known_device_by_itself(self, staff: User) -> None:
        browser = Client()
        log_in(browser=browser)
        browser.post("/admin/logout/")
        assert guess(4, browser=browser) == [200] * 3 + [429]
        assert guess(1, browser=browser, name="eve") == [200], "it is known for one name alone"
        assert log_in().status_code == 302, "and takes nothing from others"

    def test_takes_no_forged_device_for_known(self, staff: User) -> None:
        browser = Client()
        browser.cookies["lastro_device"] = "eyJuIjoiYW5hIn0:1:forged"
        guess(3)
        assert log_in(browser=browser).status_code == 429

    def test_refused_attempts_do_not_count_against_the_name(self, staff: User) -> None:
        for number in range(6):
            log_in("wrong", name=f"name{number}")
        guess(9)
        assert log_in(address=ELSEWHERE).status_code == 302

    def test_hashes_nothing_for_whoever_has_to_wait(self, staff: User, monkeypatch: pytest.MonkeyPatch) -> None:
        guess(3)
        monkeypatch.setattr("django.contrib.auth.authenticate", _never)
        monkeypatch.setattr("django.contrib.auth.forms.authenticate", _never)
        assert guess(1) == [429]

    def test_an_attempt_whose_password_was_not_looked_at_is_no_failure(
        self, staff: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Strangers who keep all places busy had closed the names of those who tried meanwhile. The address has a limit."""
        monkeypatch.setattr(login, "LOOKS", places := threading.BoundedSemaphore(1))
        places.acquire()
        for _ in range(4):
            answer = log_in()
            assert (answer.status_code, answer["Retry-After"]) == (429, "5")
            assert "Too many are logging in just now. Try again in a few seconds." in answer.content.decode()
        places.release()
        assert log_in().status_code == 302
        places.acquire()
        waits = [int(log_in(address=ELSEWHERE)["Retry-After"]) for _ in range(6)]
        assert waits[:5] == [5] * 5
        assert waits[5] > 800

    def test_keeps_no_name_in_clear(self, staff: User) -> None:
        guess(1, name="hunter2 typed into the wrong field")
        assert not [key for key in FailedLogin.objects.values_list("key", flat=True) if "hunter2" in key]


def _never(*_args: Any, **_named: Any) -> None:
    raise AssertionError("a password was looked at")


class TestForget:
    def test_forgets_what_is_over(self) -> None:
        wrong()
        forget_failed_logins()
        assert FailedLogin.objects.count() == 1
        age(901)
        forget_failed_logins()
        assert not FailedLogin.objects.exists()


def _somebody_waits() -> bool:
    """For us, that is: other tests have databases on the same server."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))")
        return bool(cursor.fetchone()[0])


@pytest.mark.django_db(transaction=True)
class TestAtOnce:
    @pytest.mark.parametrize("other", ["succeed", "forget"])
    def test_nobody_meets_a_count_in_a_circle(self, transactional_db: None, other: str) -> None:
        """Keys are counted in their order; an address that was counted for another name before lies first in the table."""
        web, name = f"{limits.WEB} {HERE}", f"{limits.NAME} ana"
        now = timezone.now()
        limits.count([web], now=now)
        limits.count([name], now=now)
        work = {
            "succeed": lambda: limits.succeed(limits.Attempt("ana", (web, name), on_known_device=False)),
            "forget": lambda: limits.forget(now=now + timedelta(days=1)),
        }[other]

        def run() -> None:
            try:
                work()
            finally:
                connections.close_all()

        with ThreadPoolExecutor(1) as pool:
            with transaction.atomic():
                FailedLogin.objects.select_for_update().get(pk=name)
                done = pool.submit(run)
                while not done.done() and not _somebody_waits():
                    pass
                FailedLogin.objects.filter(pk=web).update(failures=3)
            done.result(WAIT_S)

    def test_no_more_passwords_are_looked_at_than_the_limit_says(self, transactional_db: None) -> None:
        User.objects.create_superuser("ana", password=PASSWORD)

        def one(number: int) -> int:
            try:
                return int(log_in(f"wrong {number}", address=f"192.0.2.{number}").status_code)
            finally:
                connections.close_all()

        with ThreadPoolExecutor(8) as threads:
            said = list(threads.map(one, range(16)))
        assert said.count(200) <= 3, "looked at, and wrong"
        assert set(said) == {200, 429}
