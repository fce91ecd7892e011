"""Where RabbitMQ and Erlang are installed, and the environment that keeps a private node apart from the system's."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from deploy.local.control import BrokerError

_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin:/opt/homebrew/bin"
# Debian's rabbitmq-server on the PATH changes to the user rabbitmq when root runs it, and refuses everybody else;
# the script that it wraps runs as whoever calls it.
_UNWRAPPED = Path("/usr/lib/rabbitmq/bin")


@dataclass(frozen=True, slots=True)
class Installation:
    """The programs of one RabbitMQ installation."""

    server: Path
    ctl: Path
    epmd: Path


def find_installation() -> Installation | None:
    """Return the RabbitMQ of this machine, looked up on the PATH and in the usual `sbin` folders, or None."""
    server = shutil.which("rabbitmq-server", path=_PATH)
    epmd = _find_epmd()
    if server is None or epmd is None:
        return None
    for folder in (_UNWRAPPED, Path(server).resolve().parent, Path(server).parent):
        if (folder / "rabbitmq-env").exists() and (folder / "rabbitmqctl").exists():
            return Installation(server=folder / "rabbitmq-server", ctl=folder / "rabbitmqctl", epmd=epmd)
    return None


def require_installation() -> Installation:
    """Return the RabbitMQ of this machine.

    Raises:
        BrokerError: there is none.
    """
    found = find_installation()
    if found is None:
        raise BrokerError("no rabbitmq-server on the PATH: install RabbitMQ (Debian: apt install rabbitmq-server)")
    return found


def _find_epmd() -> Path | None:
    """Return the Erlang port mapper; some packages keep it beside `erl` and off the PATH."""
    named = shutil.which("epmd", path=_PATH)
    if named is not None:
        return Path(named)
    erl = shutil.which("erl", path=_PATH)
    beside = Path(erl).resolve().parent / "epmd" if erl is not None else None
    return beside if beside is not None and beside.exists() else None


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """The folders and files of one private node, all below `base`."""

    base: Path

    @property
    def home(self) -> Path:
        return self.base / "home"

    @property
    def data(self) -> Path:
        return self.base / "data"

    @property
    def log(self) -> Path:
        return self.base / "rabbit.log"

    @property
    def config(self) -> Path:
        return self.base / "rabbitmq.conf"

    @property
    def plugins(self) -> Path:
        return self.base / "enabled_plugins"


def node_environment(files: NodeFiles, name: str, amqp_port: int, dist_port: int, epmd_port: int) -> dict[str, str]:
    """Return the environment of a private node's server and tools: nothing of `/etc/rabbitmq` is read.

    Args:
        files: the node's folders.
        name: the Erlang node name.
        amqp_port: where clients connect.
        dist_port: where Erlang's tools connect.
        epmd_port: where the node's own port mapper listens.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RABBITMQ_", "ERL_", "WARREN_"))}
    # With NOTIFY_SOCKET the node would tell our own supervisor that *we* are ready.
    kept.pop("NOTIFY_SOCKET", None)
    no_busy_waiting = "+sbwt none +sbwtdcpu none +sbwtdio none"
    return kept | {
        "PATH": _PATH,
        "HOME": str(files.home),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_CRASH_DUMP_SECONDS": "0",
        # Makes the script exec Erlang instead of waiting for it: the pid that we start is the node's own.
        "RUNNING_UNDER_SYSTEMD": "true",
        "RABBITMQ_NODENAME": name,
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(amqp_port),
        "RABBITMQ_DIST_PORT": str(dist_port),
        "RABBITMQ_CONF_ENV_FILE": str(files.base / "no-rabbitmq-env.conf"),
        "RABBITMQ_CONFIG_FILE": str(files.config),
        "RABBITMQ_CONFIG_FILES": str(files.base / "no-conf.d"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(files.base / "no-advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(files.plugins),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(files.base / "generated"),
        "RABBITMQ_SCHEMA_DIR": str(files.base / "schema"),
        "RABBITMQ_MNESIA_BASE": str(files.data),
        "RABBITMQ_FEATURE_FLAGS_FILE": str(files.data / "feature_flags"),
        "RABBITMQ_LOG_BASE": str(files.base),
        "RABBITMQ_LOGS": "-",  # to its output, which is the log file
        "RABBITMQ_PID_FILE": str(files.base / "rabbit.pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{no_busy_waiting} -kernel inet_dist_use_interface {{127,0,0,1}}",
    }
