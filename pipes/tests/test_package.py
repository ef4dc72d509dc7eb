"""The package stands alone: no Django, nothing of the monolith, no broker's client where none is used."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "lastro_pipes"
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """The top-level packages that a module imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).split(".")[0])
    return found


def readme_example(number: int) -> str:
    """The Python of the README."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[number]


class TestImports:
    @pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
    def test_only_the_standard_library_and_each_client_in_its_place(self, path: Path) -> None:
        allowed = {"lastro_pipes", *sys.stdlib_module_names}
        if path.name.startswith("kafka"):
            allowed.add("kafka")
        if path.name.startswith("rabbitmq"):
            allowed |= {"amqp", "kombu"}
        if path.name == "postgres.py":
            allowed.add("psycopg")
        assert imports(path) <= allowed

    def test_importing_it_loads_no_client(self) -> None:
        clients = "{'kafka', 'kombu', 'psycopg', 'django'}"
        code = f"import sys, lastro_pipes, lastro_pipes.cli; print(sorted({clients} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"

    def test_is_not_called_as_a_module_of_python_s_own(self) -> None:
        assert PACKAGE.name not in sys.stdlib_module_names
        assert not (ROOT / "__init__.py").exists(), "a package here would hide Python's own module pipes"


class TestSize:
    @pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
    def test_of_a_file_is_at_most_four_hundred_lines(self, path: Path) -> None:
        assert len(path.read_text().splitlines()) <= 400


class TestWheel:
    def test_holds_every_module_the_types_and_the_command(self, tmp_path: Path) -> None:
        pytest.importorskip("setuptools")
        code = (
            "import os, sys; os.chdir(sys.argv[1]);"
            "from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[2]))"
        )
        source = tmp_path / "source"
        source.mkdir()
        for path in [*MODULES, PACKAGE / "py.typed", ROOT / "pyproject.toml", ROOT / "README.md"]:
            target = source / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
        done = subprocess.run(
            [sys.executable, "-c", code, str(source), str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
            names = set(wheel.namelist())
            entry = next(name for name in names if name.endswith("entry_points.txt"))
            assert "pipes = lastro_pipes.cli:main" in wheel.read(entry).decode()
        wanted = {str(path.relative_to(ROOT)) for path in MODULES} | {"lastro_pipes/py.typed"}
        assert wanted <= names
        self.installs(next(tmp_path.glob("*.whl")), tmp_path / "venv")

    def installs(self, wheel: Path, venv: Path) -> None:
        """In an environment of its own, with nothing else: the command is there, and says what is missing."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
        # Ours puts it there: a pip of its own takes longer to install than everything else here.
        pip = [sys.executable, "-m", "pip", "--python", str(venv), "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", "--no-index", str(wheel)], check=True)
        target = venv.parent / "stock.py"
        target.write_text(readme_example(0))
        environment = {"PATH": "/usr/bin:/bin", "PIPES_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
        done = subprocess.run(
            [str(venv / "bin" / "pipes"), "check", "stock:Reserve"],
            cwd=target.parent,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert "pip install 'lastro-pipes[kafka]'" in done.stderr

    def test_each_client_is_an_extra(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert project["dependencies"] == []
        assert set(project["optional-dependencies"]) == {"kafka", "rabbitmq", "postgres"}


class TestDocuments:
    def test_every_setting_is_in_the_readme(self) -> None:
        source = (PACKAGE / "settings.py").read_text()
        names = set(re.findall(r'"(PIPES_[A-Z_]+)"', source))
        names |= {f"PIPES_{name}" for name in re.findall(r'env.shared\("([A-Z_]+)"', source)}
        readme = (ROOT / "README.md").read_text()
        assert len(names) > 15
        assert [name for name in sorted(names) if name not in readme] == []

    def test_every_code_is_in_the_protocol(self) -> None:
        from lastro_pipes.errors import Code

        protocol = (ROOT / "PROTOCOL.md").read_text()
        assert [code for code in Code if code not in protocol] == []
