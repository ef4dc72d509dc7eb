"""``manage.py check --deploy`` as a server would run it: with real settings, and every warning an error."""

import os
import secrets
import subprocess
import sys


def main() -> int:
    """Run the check under a server's environment. The database is not contacted."""
    environment = {
        **os.environ,
        "LASTRO_EMBEDDED": "0",
        "DATABASE_URL": f"postgresql://lastro:{secrets.token_urlsafe(16)}@127.0.0.1:5432/lastro",
        "DATABASE_REPLICA_URL": f"postgresql://lastro:{secrets.token_urlsafe(16)}@127.0.0.2:5432/lastro",
        "CELERY_BROKER_URL": f"redis://:{secrets.token_urlsafe(16)}@127.0.0.1:6379/0",
        "SECRET_KEY": secrets.token_urlsafe(64),
        "VAULT_KEYS": secrets.token_urlsafe(48),
        "ALLOWED_HOSTS": "lastro.example.com",
        "TRUSTED_PROXIES": "10.0.0.0/8",
        "FISCAL_AUTHORITY_URL": "https://authority.example.com",
        "METRICS_TOKEN": secrets.token_urlsafe(32),
        "FISCAL_ISSUER_CNPJ": "11222333000181",
    }
    command = [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603  # our own command


if __name__ == "__main__":
    raise SystemExit(main())
