"""The command line of config.services."""

import argparse
import os
import re
import sys

from config.services import BY_DEFAULT, SERVICES, Daemon, ServiceFailed
from config.services.daemon import services_dir


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def write_environment() -> dict[str, str]:
    """What the running servers want in the environment, also written to ``services/env`` for ``set -a; . <file>``."""
    found = {"SERVICES_DIR": str(services_dir())}
    for kind in SERVICES.values():
        service = kind()
        if service.pid() is not None:
            found.update(service.environment())
    path = services_dir() / "env"
    # Passwords are inside, so the file is its owner's alone.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.writelines(f"{name}={value}\n" for name, value in found.items())
    return found


def _shown(name: str, value: str) -> str:
    """The value without its password: what is printed ends in somebody's log."""
    if name.endswith("PASSWORD"):
        return "***"
    return re.sub(r":[^:@/]*@", ":***@", value)


def _start(services: list[Daemon]) -> None:
    for service in services:
        started = service.start()
        _say(f"{service.name}: {'started' if started else 'was running'} (pid {service.pid()}, log {service.log_path})")
    for name, value in write_environment().items():
        _say(f"{name}={_shown(name, value)}")
    _say(f"With the passwords: set -a; . {services_dir() / 'env'}; set +a")


def _stop(services: list[Daemon]) -> None:
    for service in services:
        _say(f"{service.name}: {'stopped' if service.stop() else 'was not running'}")
    write_environment()


def _status(services: list[Daemon]) -> None:
    for service in services:
        pid = service.pid()
        _say(f"{service.name}: {f'running (pid {pid})' if pid else 'stopped'}")


def main(arguments: list[str] | None = None) -> int:
    """Start, stop or list servers. Safe to repeat; 1 when a server could not be started."""
    parser = argparse.ArgumentParser(prog="python -m config.services", description="Servers for development and tests.")
    parser.add_argument("action", choices=["start", "stop", "status"])
    known = f"{', '.join(SERVICES)}; without a name: start {', '.join(BY_DEFAULT)}, or stop and list all"
    parser.add_argument("names", nargs="*", metavar="name", help=known)
    chosen = parser.parse_args(arguments)
    if unknown := sorted(set(chosen.names) - set(SERVICES)):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(SERVICES)}")
    services_dir().mkdir(parents=True, exist_ok=True)
    names = chosen.names or (BY_DEFAULT if chosen.action == "start" else SERVICES)
    services = [SERVICES[name]() for name in names]
    try:
        {"start": _start, "stop": _stop, "status": _status}[chosen.action](services)
    except ServiceFailed as failure:
        sys.stderr.write(f"{failure}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
