"""The shape of a secret."""

import pytest

from apps.identity import credentials
from apps.identity.public import Caller, InvalidCredentials, IssuedSecret, MissingScope, require_scope


class Request:
    def __init__(self, user: object) -> None:
        self.user = user


class TestNewSecret:
    def test_names_its_environment_and_its_public_prefix_and_is_long_enough(self) -> None:
        secret, prefix = credentials.new_secret()
        match = credentials.SECRET.fullmatch(secret)
        assert match is not None
        assert match[1] == prefix
        assert len(secret.rsplit("_", 1)[1]) * 5.95 >= 128

    def test_is_never_the_same(self) -> None:
        assert len({credentials.new_secret()[0] for _ in range(200)}) == 200

    def test_is_stored_as_a_digest_of_the_whole_text(self) -> None:
        assert len(credentials.digest_of("a")) == 32
        assert credentials.digest_of("a") != credentials.digest_of("b")

    def test_is_kept_out_of_reprs(self) -> None:
        issued = IssuedSecret(account_id="acc_1", prefix="p", secret="test_p_hidden", expires_at=None)
        assert "hidden" not in repr(issued)


class TestRequireScope:
    def test_gives_the_caller(self) -> None:
        caller = Caller(account_id="acc_1", name="Shop", scopes=frozenset({"payments:read"}))
        assert require_scope(Request(caller), "payments:read") is caller
        assert caller.is_authenticated

    def test_refuses_a_caller_without_the_scope(self) -> None:
        caller = Caller(account_id="acc_1", name="Shop", scopes=frozenset({"payments:read"}))
        with pytest.raises(MissingScope, match="payments:write") as refusal:
            require_scope(Request(caller), "payments:write")
        assert refusal.value.status == 403

    @pytest.mark.parametrize("user", [None, object()])
    def test_refuses_nobody(self, user: object) -> None:
        with pytest.raises(InvalidCredentials) as refusal:
            require_scope(Request(user), "payments:read")
        assert refusal.value.status == 401
