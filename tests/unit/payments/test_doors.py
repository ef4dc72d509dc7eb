"""The processor could move out tomorrow, and the card number has one room."""

import ast
from pathlib import Path

APPS = Path(__file__).resolve().parents[3] / "apps"
PROCESSOR = APPS / "payments" / "processor"
ALLOWED = ("apps.common.", "apps.messaging.public", "apps.messaging.contracts.", "apps.payments.processor")


def imports(path: Path) -> list[str]:
    """Every module of ours that a file imports."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "apps" else [node.module]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return [name for name in found if name.startswith("apps")]


class TestTheProcessor:
    def test_imports_nothing_of_ours_but_messaging_common_and_itself(self) -> None:
        files = sorted(PROCESSOR.glob("*.py"))
        strangers = [(path.name, name) for path in files for name in imports(path) if not name.startswith(ALLOWED)]
        assert len(files) > 4
        assert strangers == []


class TestTheVault:
    def test_is_the_only_file_of_payments_that_decrypts_or_reads_the_ciphertext(self) -> None:
        words = ("AESGCM", "VAULT_KEYS", ".ciphertext")
        readers = {
            path.name for path in (APPS / "payments").rglob("*.py") if any(word in path.read_text() for word in words)
        }
        assert readers == {"vault.py"}
