"""Accounts and secrets on the database."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import IntegrityError, transaction

from apps.identity import credentials, operations
from apps.identity import public as identity
from apps.identity.models import Account, Secret

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def account(code: str | None = None) -> identity.AccountView:
    with transaction.atomic():
        return identity.create_account(name="Shop", scopes=["payments:write", "payments:read"], now=NOW, code=code)


def issue(account_id: str, expires_at: datetime | None = None) -> identity.IssuedSecret:
    with transaction.atomic():
        return identity.issue_secret(account_id=account_id, now=NOW, expires_at=expires_at)


def revoke(account_id: str, prefix: str, now: datetime = NOW) -> None:
    with transaction.atomic():
        identity.revoke_secret(account_id=account_id, prefix=prefix, now=now)


def enter(account_id: str, secret: str, now: datetime = NOW) -> identity.Caller:
    return credentials.authenticate(account_id=account_id, secret=secret, address="192.0.2.1", now=now)


class TestCreateAccount:
    def test_makes_a_code_of_its_own_or_takes_one(self) -> None:
        assert account().account_id.startswith("acc_")
        assert account("acc_demo").account_id == "acc_demo"

    def test_refuses_a_code_that_is_taken(self) -> None:
        account("acc_demo")
        with pytest.raises(identity.AccountExists):
            account("acc_demo")

    @pytest.mark.parametrize("code", ["demo", "acc_", "acc_a b", "acc_ä23", "acc_" + "x" * 41])
    def test_refuses_a_malformed_code(self, code: str) -> None:
        with pytest.raises(identity.InvalidAccount):
            account(code)

    @pytest.mark.parametrize("scopes", [["payments"], ["Payments:write"], [f"a:{'b' * 41}"]])
    def test_refuses_malformed_scopes(self, scopes: list[str]) -> None:
        with pytest.raises(identity.InvalidAccount), transaction.atomic():
            identity.create_account(name="Shop", scopes=scopes, now=NOW)

    def test_the_database_refuses_a_malformed_code_too(self) -> None:
        with pytest.raises(IntegrityError), transaction.atomic():
            Account.objects.create(code="demo", name="Shop", created_at=NOW)


class TestSecrets:
    def test_several_live_at_once(self) -> None:
        code = account().account_id
        for secret in [issue(code).secret, issue(code).secret]:
            assert enter(code, secret).scopes == {"payments:read", "payments:write"}

    def test_are_not_stored(self) -> None:
        code = account().account_id
        secret = issue(code).secret
        row = Secret.objects.get()
        assert secret.rsplit("_", 1)[1].encode() not in bytes(row.digest) + row.prefix.encode()

    def test_end_when_revoked_and_revoking_twice_keeps_the_first_moment(self) -> None:
        code = account().account_id
        issued = issue(code)
        revoke(code, issued.prefix)
        revoke(code, issued.prefix, NOW + timedelta(days=1))
        assert Secret.objects.get().revoked_at == NOW
        with pytest.raises(identity.InvalidCredentials):
            enter(code, issued.secret)

    def test_of_another_account_cannot_be_revoked(self) -> None:
        mine, theirs = account().account_id, account().account_id
        issued = issue(theirs)
        with pytest.raises(identity.UnknownSecret):
            revoke(mine, issued.prefix)

    def test_end_at_their_moment(self) -> None:
        code = account().account_id
        secret = issue(code, NOW + timedelta(hours=1)).secret
        enter(code, secret, NOW + timedelta(minutes=59))
        with pytest.raises(identity.InvalidCredentials):
            enter(code, secret, NOW + timedelta(hours=1))

    def test_have_a_limit_that_revoking_makes_room_in(self) -> None:
        code = account().account_id
        issued = [issue(code) for _ in range(operations.SECRETS_LIVE_MAX)]
        with pytest.raises(identity.TooManySecrets):
            issue(code)
        revoke(code, issued[0].prefix)
        issue(code)

    def test_of_nobody_are_refused(self) -> None:
        with pytest.raises(identity.UnknownAccount):
            issue("acc_nobody")


class TestAuthenticate:
    def test_a_blocked_account_is_answered_like_an_unknown_one(self) -> None:
        code = account().account_id
        secret = issue(code).secret
        Account.objects.update(active=False)
        with pytest.raises(identity.InvalidCredentials):
            enter(code, secret)

    def test_a_secret_opens_its_own_account_alone(self) -> None:
        mine, theirs = account().account_id, account().account_id
        with pytest.raises(identity.InvalidCredentials):
            enter(mine, issue(theirs).secret)

    def test_a_right_prefix_with_a_wrong_rest_is_refused(self) -> None:
        code = account().account_id
        secret = issue(code).secret
        with pytest.raises(identity.InvalidCredentials):
            enter(code, secret[:-1] + ("a" if secret[-1] != "a" else "b"))

    def test_every_refusal_does_the_same_work(self, django_assert_num_queries: pytest.FixtureRequest) -> None:
        code = account().account_id
        right = issue(code).secret
        wrong = right[:-1] + ("a" if right[-1] != "a" else "b")
        for account_id, secret in [(code, wrong), ("acc_nobody", wrong), (code, "short"), ("", ""), ("acc_nobody", right)]:
            # Looked for, then counted: the savepoint is the test's for a commit.
            with django_assert_num_queries(5), pytest.raises(identity.InvalidCredentials):  # type: ignore[operator]
                enter(account_id, secret)

    def test_the_last_use_is_written_at_most_once_a_minute(self, django_assert_num_queries: pytest.FixtureRequest) -> None:
        code = account().account_id
        secret = issue(code).secret
        with django_assert_num_queries(2):  # type: ignore[operator]
            enter(code, secret)
        with django_assert_num_queries(1):  # type: ignore[operator]
            enter(code, secret, NOW + timedelta(seconds=60))
        with django_assert_num_queries(2):  # type: ignore[operator]
            enter(code, secret, NOW + timedelta(seconds=61))
        assert Secret.objects.get().last_used_at == NOW + timedelta(seconds=61)
