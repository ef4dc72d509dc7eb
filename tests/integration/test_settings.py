"""What stops the start outside the embedded mode, and what it says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
GOOD = {
    "LASTRO_EMBEDDED": "0",
    "DATABASE_URL": "postgresql://lastro:correct-horse-battery@127.0.0.1:1/lastro",
    "CELERY_BROKER_URL": "redis://:correct-horse-battery@127.0.0.1:1/0",
    "SECRET_KEY": "a-key-of-more-than-fifty-characters-that-nobody-has-seen-before",
    "VAULT_KEYS": "another-key-of-more-than-fifty-characters-that-nobody-has-seen",
    "FISCAL_AUTHORITY_URL": "https://authority.example.com",
    "FISCAL_ISSUER_CNPJ": "11222333000181",
    "ALLOWED_HOSTS": "lastro.example.com",
}


def start(what: str = "s.ORDERS_ALLOW_ANONYMOUS, s.DEBUG", **changes: str) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
    environment |= {name: value for name, value in {**GOOD, **changes}.items() if value}
    done = subprocess.run(
        [sys.executable, "-c", f"import config.settings as s; print({what})"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).strip().splitlines()[-1]


class TestServerMode:
    def test_starts_with_everything_set_and_lets_nobody_in_without_credentials(self) -> None:
        assert start() == (0, "False False")

    def test_waits_seconds_for_a_replica_whose_host_vanished(self) -> None:
        names = ("connect_timeout", "tcp_user_timeout", "keepalives_idle")
        what = ", ".join(f"s.DATABASES['replica']['OPTIONS']['{name}']" for name in names)
        url = "postgresql://lastro:correct-horse-battery@replica/lastro?tcp_user_timeout=9000"
        assert start(what, DATABASE_REPLICA_URL=url) == (0, "2 9000 3")
        assert start(what, DATABASE_REPLICA_URL=url.partition("?")[0]) == (0, "2 3000 3")

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"SECRET_KEY": ""}, "SECRET_KEY is missing"),
            ({"TRUSTED_PROXIES": "10.0.0.0/8,proxy"}, "TRUSTED_PROXIES holds 'proxy'"),
            ({"TRUSTED_PROXIES": "10.0.0.1/8"}, "TRUSTED_PROXIES holds '10.0.0.1/8'"),
            ({"SECRET_KEY": "short"}, "SECRET_KEY is too short"),
            ({"VAULT_KEYS": ""}, "VAULT_KEYS is missing"),
            ({"VAULT_KEYS": f",{GOOD['VAULT_KEYS']}"}, "VAULT_KEYS is too short"),
            ({"VAULT_KEYS": f"{GOOD['VAULT_KEYS']},short"}, "VAULT_KEYS is too short"),
            ({"SECRET_KEY_FALLBACKS": f"{GOOD['SECRET_KEY']},short"}, "SECRET_KEY_FALLBACKS is too short"),
            ({"CELERY_BROKER_URL": ""}, "CELERY_BROKER_URL is missing"),
            ({"OUTBOX_READER": "somebody"}, "OUTBOX_READER is 'somebody'"),
            ({"OUTBOX_READER": "debezium"}, "set KAFKA_BOOTSTRAP_SERVERS"),
            (
                {
                    "OUTBOX_READER": "debezium",
                    "KAFKA_BOOTSTRAP_SERVERS": "k:1",
                    "SCHEMA_REGISTRY_URL": "https://r.example.com",
                },
                "SCHEMA_REGISTRY_URL wants OUTBOX_READER=relay",
            ),
            ({"DATABASE_URL": ""}, "DATABASE_URL is missing"),
            ({"DATABASE_URL": "mysql://u:p@h/d"}, "DATABASE_URL begins with postgresql://"),
            ({"DATABASE_URL": "postgresql://lastro:postgres@h/d"}, "DATABASE_URL carries a default password"),
            ({"DATABASE_REPLICA_URL": "http://h/d"}, "DATABASE_REPLICA_URL begins with postgresql://"),
            ({"DATABASE_REPLICA_URL": "postgresql://lastro:postgres@h/d"}, "DATABASE_REPLICA_URL carries a default"),
            ({"DATABASE_REPLICA_LAG_MAX_S": "0"}, "DATABASE_REPLICA_LAG_MAX_S is a whole number of at least 1"),
            ({"LEDGER_BANK_ID": "1234567890"}, "LEDGER_BANK_ID is one to nine"),
            ({"SAGA_FOUR_EYES": "retry, all"}, "SAGA_FOUR_EYES holds 'all', which is not an action or an amount"),
            ({"LEDGER_FOUR_EYES": "1000"}, "LEDGER_FOUR_EYES is an amount with two decimals"),
            ({"CELERY_BROKER_URL": "amqp://guest:guest@h//"}, "CELERY_BROKER_URL carries a default password"),
            ({"FISCAL_AUTHORITY_URL": ""}, "FISCAL_AUTHORITY_URL is missing"),
            ({"LASTRO_EMBEDDED": "perhaps"}, "LASTRO_EMBEDDED is 1 or 0"),
            ({"PORT": "eighty"}, "PORT is a whole number"),
        ],
    )
    def test_says_what_is_missing_or_guessable(self, changes: dict[str, str], says: str) -> None:
        code, last = start(**changes)
        assert code != 0
        assert says in last

    def test_keys_that_were_replaced_are_still_known_and_spaces_between_keys_say_nothing(self) -> None:
        old, new = GOOD["SECRET_KEY"], f"newer-{GOOD['SECRET_KEY']}"
        look = "s.SECRET_KEY_FALLBACKS, s.VAULT_KEYS[0] == s.VAULT_KEYS[1]"
        code, last = start(look, SECRET_KEY=new, SECRET_KEY_FALLBACKS=old, VAULT_KEYS=f"{old}, {old}")
        assert (code, last) == (0, f"['{old}'] True")


class TestEmbeddedMode:
    def test_says_that_its_folder_has_a_blank_in_its_name(self, tmp_path: Path) -> None:
        """The wheel hands the folder to a shell as it is: PostgreSQL would say that there is no such command."""
        status, said = start(LASTRO_EMBEDDED="", DATABASE_URL="", DATA_DIR=str(tmp_path / "a folder"))
        assert (status, "set DATA_DIR to a folder whose path has neither" in said) == (1, True), said
