"""Where the local sandbox authority is, and whom it trusts: known in this process, or written down under DATA_DIR."""

from pathlib import Path

from django.conf import settings

_urls: list[str] = []  # sandboxes running in this process, the latest last


def directory() -> Path:
    """The sandbox's own folder: its certificate authority, and the address of the one that runs."""
    return Path(settings.DATA_DIR) / "fiscal"


def _announcement() -> Path:
    return directory() / "sandbox_url"


def announce(url: str, *, to_other_processes: bool) -> None:
    _urls.append(url)
    if to_other_processes:
        directory().mkdir(parents=True, exist_ok=True)
        _announcement().write_text(url)


def withdraw(url: str) -> None:
    """Forget a sandbox that stopped."""
    if url in _urls:
        _urls.remove(url)
    if _announcement().exists() and _announcement().read_text() == url:
        _announcement().unlink(missing_ok=True)


def url() -> str:
    """The running sandbox, or an empty text."""
    if _urls:
        return _urls[-1]
    return _announcement().read_text().strip() if _announcement().exists() else ""


def trust_file() -> Path:
    """The certificate of the sandbox's own certificate authority (PEM)."""
    return directory() / "ca" / "ca.pem"
