"""Passwords of a deployment: made once, kept in an ignored file, handed to the containers as secret files.

::

    .env  (0600, the one truth) ──> secrets/  (0700)
                                      ├ definitions.json   hashes only, for the broker
                                      ├ scheduler_url      one AMQP URL for each service
                                      ├ worker_url
                                      ├ grafana_password
                                      └ pip.conf           for the build; a copy of $PIP_CONFIG_FILE, else empty

Compose mounts a secret file as it is, owner and mode included, and the users in the containers are not the user out
here. So the files can be read by all, and the directory by its owner alone: nobody else on this machine reaches them,
and a container sees only those that are mounted into it.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from deploy.definitions import Role, definitions

VHOST: Final = "warren"
_BROKER: Final = "rabbitmq:5672"
_GRAFANA: Final = "STACK_GRAFANA_PASSWORD"
_PASSWORD_BYTES: Final = 24
_QUEUES: Final = "default,math"
"""Those of `examples.tasks`, as in `compose.yaml`."""

_HEADER: Final = """\
# Made by `{command}`, and kept out of git. Change what you like and run `{command}` again.
"""
COMPOSE_SETTINGS: Final = """
# What else can be set, with its default:
#STACK_AMQP_PORT=5672
#STACK_MANAGEMENT_PORT=15672
#STACK_PROMETHEUS_PORT=9090
#STACK_GRAFANA_PORT=3000
#WARREN_MODULES=examples.tasks
#STACK_CODE=../examples
#STACK_PACKAGE=examples
#WARREN_QUEUES=default,math
#WARREN_SLOTS=50
#WARREN_LOG_LEVEL=info
#STACK_IMAGE=warren
#STACK_RABBITMQ_MEMORY=1GB
#STACK_SCHEDULER_MEMORY=512MB
#STACK_WORKER_MEMORY=512MB
#STACK_PROMETHEUS_MEMORY=512MB
#STACK_GRAFANA_MEMORY=512MB
"""


@dataclass(frozen=True)
class State:
    """Where the passwords of one deployment are.

    Attributes:
        folder: holds `.env` and `secrets/`.
        command: what makes them, for the heading of `.env`.
        settings: a comment at its end: what else can be set there.
    """

    folder: Path
    command: str = "make up"
    settings: str = COMPOSE_SETTINGS

    @property
    def env_file(self) -> Path:
        """The file that holds the passwords."""
        return self.folder / ".env"

    @property
    def secrets(self) -> Path:
        """The directory of what the containers are given."""
        return self.folder / "secrets"


def variable(role: Role) -> str:
    """The name of the variable in `.env` that holds the password of `role`."""
    return f"STACK_{role.name}_PASSWORD"


def prepare(state: State, environ: Mapping[str, str]) -> bool:
    """Make the passwords that are missing and everything that follows from them.

    Args:
        state: where they are.
        environ: `PIP_CONFIG_FILE` in it names a pip.conf for the build of the image; `WARREN_QUEUES`, also in `.env`,
            are the work queues to declare: a worker may not, and would wait for the first task of each.

    Returns:
        Whether files that running containers have been given are different now.
    """
    values = read_env(state)
    state.secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    state.secrets.chmod(0o700)
    brokers = {role: values[variable(role)] for role in Role}
    found = definitions(
        brokers,
        vhost=VHOST,
        queues=served_queues(state, environ),
        known_hashes=_hashes(state.secrets / "definitions.json"),
    )
    changed = [
        _write(state.secrets / "definitions.json", json.dumps(found, indent=2) + "\n"),
        *(
            _write(state.secrets / f"{role}_url", amqp_url(role, brokers[role], _BROKER))
            for role in (Role.SCHEDULER, Role.WORKER)
        ),
        _write(state.secrets / "grafana_password", values[_GRAFANA]),
    ]
    pip_file = environ.get("PIP_CONFIG_FILE", "")
    _write(state.secrets / "pip.conf", Path(pip_file).read_text() if pip_file else "")
    return any(changed)


def served_queues(state: State, environ: Mapping[str, str]) -> list[str]:
    """The queues that the workers serve: `WARREN_QUEUES` of `environ`, else of `.env`, else those of the examples."""
    queues = environ.get("WARREN_QUEUES") or read_env(state).get("WARREN_QUEUES") or _QUEUES
    return [name.strip() for name in queues.split(",")]


def write_client_url(state: State, address: str) -> Path:
    """Write the URL with which a client on this machine connects.

    Args:
        state: where the passwords are.
        address: host and port of the broker as seen from this machine.

    Returns:
        The file: for `WARREN_AMQP_URL_FILE`, so that the password appears on no screen and in no process list.
    """
    password = read_env(state)[variable(Role.CLIENT)]
    file = state.secrets / "client_url"
    _write(file, amqp_url(Role.CLIENT, password, address), mode=0o600)
    return file


def amqp_url(role: Role, password: str, address: str) -> str:
    """The AMQP URL of one role's user."""
    return f"amqp://{role}:{quote(password, safe='')}@{address}/{VHOST}"


def read_env(state: State) -> dict[str, str]:
    """The variables of `.env`, after adding the passwords that it lacks."""
    file = state.env_file
    text = file.read_text() if file.exists() else _HEADER.format(command=state.command)
    found = dict(_assignments(text))
    missing = [name for name in (*map(variable, Role), _GRAFANA) if not found.get(name)]
    if missing:
        made = {name: secrets.token_urlsafe(_PASSWORD_BYTES) for name in missing}
        found |= made
        text += "".join(f"{name}={value}\n" for name, value in made.items())
        text += "" if state.settings in text else state.settings
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(file, text, mode=0o600)
    return found


def _assignments(text: str) -> list[tuple[str, str]]:
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#"))
    return [(name.strip(), value.strip().strip("'\"")) for name, value in pairs]


def _hashes(file: Path) -> dict[str, str]:
    if not file.exists():
        return {}
    known: dict[str, Any] = json.loads(file.read_text())
    return {user["name"]: user["password_hash"] for user in known.get("users", ())}


def _write(file: Path, text: str, mode: int = 0o444) -> bool:
    """Write `file` unless that is its content already; return whether an existing one was different."""
    before = file.read_text() if file.exists() else None
    if before == text:
        return False
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as output:
        output.write(text)
    file.chmod(mode)
    return before is not None
