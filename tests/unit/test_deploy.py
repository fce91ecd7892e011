"""The deployment files: what is promised about them, without an engine or a broker."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.metrics import CollectorRegistry, new_registry
from common.settings import BrokerSettings, CommonSettings
from common.sources import ELSEWHERE
from common.telemetry import Telemetry
from common.topology import Topology
from deploy import dashboard
from deploy.compose import main
from deploy.credentials import State, prepare, read_env, variable, write_client_url
from deploy.definitions import NOTHING, Role, definitions, password_hash, permissions, same_password
from scheduler_service.fleet.backlog import Backlog
from scheduler_service.fleet.capability import Capability
from scheduler_service.fleet.directory import Directory
from scheduler_service.fleet.quotas import Ledger
from scheduler_service.fleet.reasons import Reasons
from scheduler_service.fleet.traffic import Traffic
from scheduler_service.metrics import SchedulerMetrics
from scheduler_service.queue_reporter import QueueReporter
from scheduler_service.settings import SchedulerSettings
from scheduler_service.worker_reporter import WorkerReporter
from tests.support.rooms import flights_and_rooms
from worker_service.metrics import WorkerMetrics
from worker_service.settings import WorkerSettings

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OUR_SERVICES = ("scheduler", "worker")
TOPOLOGY = Topology("warren")
PASSWORDS = {role: f"secret of {role}" for role in Role}

PROMETHEUS = "prom/prometheus:v3.5.3"


@cache
def promtool_command() -> list[str]:
    """An installed promtool, or that of the image in the compose file when Docker has it; empty without either."""
    if shutil.which("promtool"):
        return ["promtool"]
    known = ["docker", "image", "inspect", PROMETHEUS]
    if shutil.which("docker") is None or subprocess.run(known, capture_output=True).returncode:
        return []
    run = ["docker", "run", "--rm", "--interactive", "--entrypoint", "promtool", "--workdir", "/rules"]
    return [*run, "--volume", f"{DEPLOY / 'prometheus'}:/rules:ro", PROMETHEUS]


needs_promtool = pytest.mark.skipif(not promtool_command(), reason="neither promtool nor its image is here")


class TestDefinitions:
    def test_hash_is_that_of_rabbitmq_s_guide(self) -> None:
        # https://www.rabbitmq.com/docs/passwords#computing-password-hash
        assert password_hash("test12", bytes.fromhex("908dc60a")) == "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"

    def test_hashes_are_salted(self) -> None:
        one, other = password_hash("same"), password_hash("same")
        assert one != other
        assert same_password("same", one)
        assert not same_password("other", one)

    def test_known_hashes_are_kept_while_they_fit(self) -> None:
        first = definitions(PASSWORDS)
        known = {user["name"]: user["password_hash"] for user in first["users"]}
        assert definitions(PASSWORDS, known_hashes=known) == first
        second = definitions(PASSWORDS | {Role.WORKER: "new"}, known_hashes=known)
        changed = {new["name"] for new, old in zip(second["users"], first["users"], strict=True) if new != old}
        assert changed == {"worker"}

    def test_users_are_the_roles_and_no_other(self) -> None:
        found = definitions(PASSWORDS)
        assert {user["name"] for user in found["users"]} == {"scheduler", "worker", "client", "monitoring"}
        assert {user["name"]: user["tags"] for user in found["users"] if user["tags"]} == {"monitoring": ["monitoring"]}
        assert not any(password in json.dumps(found) for password in PASSWORDS.values())

    def test_queues_and_exchanges_are_those_of_the_topology(self) -> None:
        found = definitions(PASSWORDS, queues=("default", "email"))
        queues = [*TOPOLOGY.durable_queues(), TOPOLOGY.work_queue("default"), TOPOLOGY.work_queue("email")]
        assert {queue["name"]: queue["arguments"] for queue in found["queues"]} == {
            queue.name: queue.arguments for queue in queues
        }
        assert {e["name"]: e["type"] for e in found["exchanges"]} == {e.name: e.kind for e in TOPOLOGY.exchanges()}
        bound = {(b["source"], b["routing_key"], b["destination"]) for b in found["bindings"]}
        assert ("warren.work", "email", "warren.work.email") in bound
        assert len(bound) == len(queues)

    @pytest.mark.parametrize("role", Role)
    def test_patterns_are_anchored(self, role: Role) -> None:
        for pattern in vars(permissions(role, role)).values():
            assert all(part.startswith("^") and part.endswith("$") for part in re.split(r"(?<=\$)\|", pattern))

    def test_each_role_may_use_its_own_names(self) -> None:
        beat, control = TOPOLOGY.beat_queue("scheduler", "abc").name, TOPOLOGY.control_queue("w" * 64, "n" * 16).name
        told = TOPOLOGY.client_queue("client", "abc").name
        scheduler, worker, client = (permissions(role, role) for role in (Role.SCHEDULER, Role.WORKER, Role.CLIENT))
        everything = [queue.name for queue in TOPOLOGY.durable_queues()] + [e.name for e in TOPOLOGY.exchanges()]
        for name in (*everything, beat, TOPOLOGY.lock.name, TOPOLOGY.work_queue("a.b-c_D").name):
            assert all(re.search(pattern, name) for pattern in vars(scheduler).values())
        assert re.search(scheduler.write, "amq.default")
        assert all(re.search(pattern, control) for pattern in vars(worker).values())
        assert re.search(client.configure, told)
        assert re.search(client.read, told)
        assert not re.search(client.configure, TOPOLOGY.client_queue("client2", "abc").name)
        assert set(vars(permissions(Role.MONITORING, "x")).values()) == {NOTHING}

    def test_another_namespace_is_another_world(self) -> None:
        assert not re.search(permissions(Role.CLIENT, "c", "other").write, TOPOLOGY.submit_exchange.name)


class TestCredentials:
    @pytest.fixture
    def state(self, tmp_path: Path) -> State:
        return State(tmp_path / "state")

    def test_made_once(self, state: State) -> None:
        assert prepare(state, {}) is False
        before = {file: file.read_text() for file in [state.env_file, *state.secrets.iterdir()]}
        assert prepare(state, {}) is False
        assert {file: file.read_text() for file in [state.env_file, *state.secrets.iterdir()]} == before

    def test_for_the_owner_only(self, state: State) -> None:
        prepare(state, {})
        client = write_client_url(state, "127.0.0.1:5672")
        modes = {path.name: path.stat().st_mode & 0o777 for path in (state.env_file, state.secrets, client)}
        assert modes == {".env": 0o600, "secrets": 0o700, "client_url": 0o600}

    def test_passwords_differ(self, state: State) -> None:
        prepare(state, {})
        passwords = [value for name, value in read_env(state).items() if name.endswith("_PASSWORD")]
        assert len(set(passwords)) == len(Role) + 1
        assert min(map(len, passwords)) >= 32

    def test_a_changed_password_changes_what_containers_are_given(self, state: State) -> None:
        prepare(state, {})
        old = read_env(state)[variable(Role.WORKER)]
        state.env_file.write_text(state.env_file.read_text().replace(old, "p@ss/word"))
        assert prepare(state, {}) is True
        assert (state.secrets / "worker_url").read_text() == "amqp://worker:p%40ss%2Fword@rabbitmq:5672/warren"
        users = json.loads((state.secrets / "definitions.json").read_text())["users"]
        assert same_password("p@ss/word", next(user["password_hash"] for user in users if user["name"] == "worker"))

    def test_a_missing_password_is_added(self, state: State) -> None:
        state.folder.mkdir()
        state.env_file.write_text("STACK_AMQP_PORT=5673\nSTACK_CLIENT_PASSWORD=mine\n")
        prepare(state, {})
        assert state.env_file.read_text().startswith("STACK_AMQP_PORT=5673\nSTACK_CLIENT_PASSWORD=mine\n")
        assert write_client_url(state, "h:1").read_text() == "amqp://client:mine@h:1/warren"

    @pytest.mark.parametrize("environ", [{}, {"WARREN_QUEUES": "default, email"}])
    def test_the_queues_that_workers_serve_are_declared(self, state: State, environ: dict[str, str]) -> None:
        prepare(state, {})
        if not environ:
            state.env_file.write_text(state.env_file.read_text() + "WARREN_QUEUES=default,email\n")
        assert prepare(state, environ) is True
        queues = json.loads((state.secrets / "definitions.json").read_text())["queues"]
        assert {"warren.work.default", "warren.work.email"} < {queue["name"] for queue in queues}

    def test_the_build_is_given_this_machine_s_pip_settings_only_when_named(self, state: State, tmp_path: Path) -> None:
        prepare(state, {})
        assert (state.secrets / "pip.conf").read_text() == ""
        settings = tmp_path / "pip.conf"
        settings.write_text("[global]\n")
        prepare(state, {"PIP_CONFIG_FILE": str(settings)})
        assert (state.secrets / "pip.conf").read_text() == "[global]\n"

    def test_the_defaults_named_in_the_file_are_those_of_the_compose_file(self, state: State) -> None:
        prepare(state, {})
        named = dict(re.findall(r"^#((?:STACK|WARREN)_\w+)=(.*)$", state.env_file.read_text(), re.MULTILINE))
        used = dict(re.findall(r"\$\{((?:STACK|WARREN)_\w+):-([^}]*)\}", (DEPLOY / "compose.yaml").read_text()))
        internal = {"STACK_SECRETS", "STACK_REVISION"}
        assert named == {name: default for name, default in used.items() if name not in internal}
        queues = json.loads((state.secrets / "definitions.json").read_text())["queues"]
        served = {f"warren.work.{name}" for name in used["WARREN_QUEUES"].split(",")}
        assert {queue["name"] for queue in queues if ".work." in queue["name"]} == served


class TestComposeFile:
    @pytest.fixture(params=SERVICES)
    def service(self, request: pytest.FixtureRequest) -> dict[str, Any]:
        return SERVICES[request.param]

    def test_hardened(self, service: dict[str, Any]) -> None:
        assert service["cap_drop"] == ["ALL"]
        assert "cap_add" not in service
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["read_only"] is True
        assert service["init"] is True
        assert service["mem_limit"]
        assert service["pids_limit"] <= 1024
        assert not service.keys() & {"privileged", "network_mode", "pid", "devices"}
        assert service.get("user") not in ("root", "0", 0)

    def test_watched_and_restarted(self, service: dict[str, Any]) -> None:
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        assert service["restart"] == "unless-stopped"
        assert service["logging"]["options"]["max-size"]

    def test_published_to_this_machine_only(self, service: dict[str, Any]) -> None:
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))

    def test_no_password_in_sight(self, service: dict[str, Any]) -> None:
        secretive = re.compile("PASS|SECRET|TOKEN|URL")
        named = [name for name in service.get("environment", {}) if secretive.search(name)]
        assert all(name.endswith("_FILE") for name in named)

    def test_images(self) -> None:
        assert SERVICES["rabbitmq"]["image"] == "rabbitmq:4.3-management"
        assert SERVICES["prometheus"]["image"] == "prom/prometheus:v3.5.3"
        assert not any(service["image"].endswith(":latest") for service in SERVICES.values())

    def test_workers_can_be_scaled(self) -> None:
        assert not SERVICES["worker"].keys() & {"container_name", "ports", "hostname"}

    def test_stopping_takes_less_than_the_grace_period(self) -> None:
        drains = {
            "scheduler": SchedulerSettings().drain_timeout,
            "worker": float(SERVICES["worker"]["environment"]["WARREN_DRAIN_TIMEOUT"]),
        }
        for name, drain in drains.items():
            assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) >= drain + 15

    def test_environment_is_known_to_the_settings(self) -> None:
        fields = {*SchedulerSettings.__struct_fields__, *WorkerSettings.__struct_fields__, *ELSEWHERE}
        for name in OUR_SERVICES:
            variables = [variable.removesuffix("_FILE") for variable in SERVICES[name]["environment"]]
            assert {variable.removeprefix("WARREN_").lower() for variable in variables} <= fields

    def test_data_is_on_named_volumes(self) -> None:
        assert COMPOSE["volumes"].keys() == {"rabbitmq", "store", "prometheus", "grafana"}

    def test_grafana_can_be_left_out(self) -> None:
        assert SERVICES["grafana"]["profiles"] == ["grafana"]
        assert not any("profiles" in service for name, service in SERVICES.items() if name != "grafana")

    def test_the_commands_explain_themselves(self) -> None:
        assert set(main.commands) == {"up", "down", "logs", "status"}


class TestDockerfile:
    LINES = (DEPLOY / "Dockerfile").read_text().splitlines()

    def test_final_stage(self) -> None:
        last = self.LINES[max(i for i, line in enumerate(self.LINES) if line.startswith("FROM")) :]
        assert re.fullmatch(r"USER [1-9]\d*:[1-9]\d*", next(line for line in last if line.startswith("USER")))
        assert any(re.match(r'HEALTHCHECK .*CMD \["warren", "health"\]', line) for line in last)
        assert 'ENTRYPOINT ["warren"]' in last
        assert "org.opencontainers.image.title" in "\n".join(last)

    def test_variables_are_settings(self) -> None:
        names = set(re.findall(r"\bWARREN_(\w+)=", "\n".join(self.LINES)))
        assert {name.lower() for name in names} <= {
            *SchedulerSettings.__struct_fields__,
            *CommonSettings.__struct_fields__,
        }

    def test_context_is_an_allow_list(self) -> None:
        rules = [
            line for line in (DEPLOY.parent / ".dockerignore").read_text().splitlines() if line[:1] not in ("", "#")
        ]
        assert rules[0] == "*"
        kept = {rule[1:] for rule in rules if rule.startswith("!")}
        assert kept == {"common", "scheduler_service", "worker_service", "pyproject.toml", "README.md", "LICENSE"}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """Title and PromQL of everything on the dashboard, with Grafana's variables filled in."""
    board = json.loads(dashboard.FILE.read_text())
    queries = [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel.get("targets", ())]
    queries += [(annotation["name"], annotation["expr"]) for annotation in board["annotations"]["list"]]
    for title, query in queries:
        yield title, query.replace("$queue", ".*").replace("$__rate_interval", "1m")


def series_names(registry: CollectorRegistry) -> set[str]:
    """Every name under which `registry` exposes values, also those that have none yet."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return {family.name + suffix for family in registry.collect() for suffix in suffixes.get(family.type, ("",))}


@pytest.fixture(scope="module")
def exported() -> set[str]:
    """The names that scheduler and worker expose."""
    scheduler = SchedulerMetrics(Telemetry())
    directory = Directory(15.0)
    flights, rooms = flights_and_rooms(directory)
    ledger, capability = Ledger(), Capability(directory)
    scheduler.watch(flights, rooms, directory, dict, dict, lambda: True)
    queues = QueueReporter(
        backlog=Backlog(),
        scheduled=dict,
        flights=flights,
        rooms=rooms,
        directory=directory,
        capability=capability,
        ledger=ledger,
        reasons=Reasons(capability, ledger, ()),
        traffic=Traffic(Telemetry()),
        target=60.0,
    )
    scheduler.watch_fleet(queues, WorkerReporter(directory, flights), directory)
    worker = new_registry("worker")
    nothing: list[str] = []
    WorkerMetrics(
        worker,
        Telemetry(),
        queues=nothing,
        functions=nothing,
        slots=lambda: 1.0,
        capacity=lambda: 1.0,
        memory=lambda: 0.0,
        running=lambda: 0.0,
        waiting=lambda: 0.0,
        draining=lambda: 0.0,
        paused=lambda: 0.0,
        loop_lag=lambda: 0.0,
        processes=lambda: 0.0,
        given_up=lambda: 0.0,
    )
    return series_names(scheduler.registry) | series_names(worker)


class TestMonitoring:
    def test_dashboard_is_what_the_builder_makes(self) -> None:
        assert dashboard.FILE.read_text() == dashboard.text(), "run python -m deploy.dashboard"

    def test_panels_do_not_overlap(self) -> None:
        taken: set[tuple[int, int]] = set()
        for panel in dashboard.dashboard()["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert at["x"] + at["w"] <= 24
            assert not cells & taken
            taken |= cells

    def test_each_alert_is_tried_and_explained(self) -> None:
        names = [rule["alert"] for rule in rules()]
        tries = yaml.safe_load((DEPLOY / "prometheus" / "alerts_test.yml").read_text())["tests"]
        fired = {try_["alertname"] for test in tries for try_ in test["alert_rule_test"] if try_.get("exp_alerts")}
        guide = (DEPLOY.parent / "docs" / "operations.md").read_text()
        assert sorted(set(names)) == sorted(names)
        assert fired == set(names)
        assert [name for name in names if f"`{name}`" not in guide] == []

    def test_each_metric_is_one_that_a_service_exports(self, exported: set[str]) -> None:
        queries = [query for _, query in dashboard_queries()] + [rule["expr"] for rule in rules()]
        used = {name for query in queries for name in re.findall(r"\b(?:warren|process|python)_[a-z_]+\b", query)}
        assert len(used) > 30
        assert used - exported == set()

    def test_the_guide_lists_each_metric(self, exported: set[str]) -> None:
        guide = (DEPLOY.parent / "docs" / "operations.md").read_text()
        listed = set(re.findall(r"`(warren_[a-z_]+[a-z])", guide))
        families = {re.sub("_(bucket|sum|count)$", "", name) for name in exported if name.startswith("warren_")}
        assert families - listed == set()
        assert listed - families == set()

    @pytest.mark.parametrize("settings", [BrokerSettings, CommonSettings, SchedulerSettings, WorkerSettings])
    def test_the_guide_lists_each_setting(self, settings: type[BrokerSettings]) -> None:
        guide = (DEPLOY.parent / "docs" / "operations.md").read_text()
        assert [name for name in settings.__struct_fields__ if f"| `{name}` |" not in guide] == []

    @needs_promtool
    def test_rules(self) -> None:
        promtool("check", "rules", "alerts.yml")
        promtool("test", "rules", "alerts_test.yml")

    @needs_promtool
    def test_configuration(self) -> None:
        promtool("check", "config", "--syntax-only", "prometheus.yml")

    @needs_promtool
    def test_dashboard_queries_parse(self) -> None:
        recorded = [{"record": f"q{index}", "expr": query} for index, (_, query) in enumerate(dashboard_queries())]
        promtool("check", "rules", read=yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))


def promtool(*arguments: str, read: str = "") -> None:
    command = [*promtool_command(), *arguments]
    done = subprocess.run(command, cwd=DEPLOY / "prometheus", input=read, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
