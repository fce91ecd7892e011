"""The manifests of `deploy/kubernetes`: what a cluster would refuse, and what does not fit together."""

import base64
import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

from common.sources import ELSEWHERE
from deploy.credentials import State, read_env
from deploy.kubernetes.__main__ import main
from scheduler_service.settings import SchedulerSettings
from tests.support.keda import SCALED_OBJECT
from tests.support.kustomize import Resource, build
from tests.support.manifests import WORKLOADS, Manifests, allowed, files, given, peers, source
from worker_service.settings import WorkerSettings

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
OVERLAYS = ("fixed", "keda")
SHARED = ("prometheus", "rabbitmq", "grafana", "kubernetes")
KUBERNETES = "1.37"
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `deploy/kubernetes` and of what it takes from its neighbours, with secrets of its own."""
    top = tmp_path_factory.mktemp("manifests") / "deploy"
    for name in SHARED:
        shutil.copytree(DEPLOY / name, top / name, ignore=shutil.ignore_patterns("__pycache__", ".env"))
    done = CliRunner().invoke(main, ["--state", str(top / "kubernetes")], catch_exceptions=False)
    assert done.exit_code == 0
    return top / "kubernetes"


@pytest.fixture(params=OVERLAYS, scope="module")
def manifests(request: pytest.FixtureRequest, folder: Path) -> Manifests:
    return Manifests(request.param, build(folder / request.param))


@pytest.fixture(scope="module")
def keda(folder: Path) -> Manifests:
    return Manifests("keda", build(folder / "keda"))


@pytest.fixture(params=WORKLOADS)
def workload(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestSchemas:
    def test_every_resource_is_what_kubernetes_expects(self, manifests: Manifests) -> None:
        for resource in manifests.resources:
            if resource["kind"] == "ScaledObject":
                jsonschema.Draft202012Validator(SCALED_OBJECT).validate(resource)
            else:
                kubernetes_validate.validate(resource, KUBERNETES, strict=True)

    def test_what_is_misspelt_is_found(self, manifests: Manifests) -> None:
        broken = copy.deepcopy(manifests.workload("worker"))
        broken["spec"]["template"]["spec"]["terminationGracePeriod"] = 60
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(broken, KUBERNETES, strict=True)

    def test_each_is_there_once(self, manifests: Manifests) -> None:
        names = [(each["kind"], each["metadata"]["name"]) for each in manifests.resources]
        assert len(set(names)) == len(names)

    def test_all_belongs_to_one_namespace(self, manifests: Manifests) -> None:
        (namespace,) = manifests.of("Namespace")
        others = {each["metadata"].get("namespace") for each in manifests.resources if each is not namespace}
        assert others == {namespace["metadata"]["name"]}

    @needs_kubectl
    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_kustomize_makes_the_same(self, folder: Path, overlay: str) -> None:
        assert _sorted(kustomize(folder / overlay)) == _sorted(build(folder / overlay))

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("resources: [missing.yaml]", "missing.yaml"),
            ("resources: [../outside.yaml]", "outside"),
            ("configMapGenerator: [{name: x, files: [missing]}]", "missing"),
            ("configMapGenerator: [{name: x, behaviour: merge}]", "behaviour"),
            ("patchs: []", "patchs"),
        ],
    )
    def test_the_resolver_finds_what_is_wrong(self, tmp_path: Path, text: str, said: str) -> None:
        (tmp_path / "kustomization.yaml").write_text(text)
        with pytest.raises((FileNotFoundError, ValueError), match=said):
            build(tmp_path)


class TestReferences:
    def test_what_is_mounted_exists_and_is_used(self, manifests: Manifests, workload: str) -> None:
        claims = manifests.workload(workload)["spec"].get("volumeClaimTemplates", ())
        volumes = [each["name"] for each in (*manifests.pod(workload)["volumes"], *[c["metadata"] for c in claims])]
        mounts = manifests.container(workload)["volumeMounts"]
        assert len(set(volumes)) == len(volumes)
        assert {mount["name"] for mount in mounts} == set(volumes)
        assert len({mount["mountPath"] for mount in mounts}) == len(mounts)

    def test_keys_exist(self, manifests: Manifests, workload: str) -> None:
        for volume, keys in given(manifests, workload):
            for item in volume.get("configMap", {}).get("items", ()):
                assert item["key"] in keys
            for mount in manifests.container(workload)["volumeMounts"]:
                if mount["name"] == volume["name"] and "subPath" in mount:
                    assert mount["subPath"] in keys

    def test_files_that_are_named_are_mounted(self, manifests: Manifests, workload: str) -> None:
        """Variables that end in `_FILE`, what rabbitmq.conf and prometheus.yml name, and the page Grafana opens."""
        named = [value for name, value in manifests.environment(workload).items() if re.search("FILE$|_PATH$", name)]
        named += {
            "rabbitmq": [
                "/run/secrets/definitions.json",
                "/etc/rabbitmq/rabbitmq.conf",
                "/etc/rabbitmq/enabled_plugins",
            ],
            "prometheus": ["/etc/prometheus/prometheus.yml", "/etc/prometheus/alerts.yml"],
            "grafana": [
                "/etc/grafana/provisioning/datasources/prometheus.yaml",
                "/etc/grafana/provisioning/dashboards/warren.yaml",
            ],
        }.get(workload, [])
        assert named
        assert set(named) - set(files(manifests, workload)) == set()

    def test_everything_given_is_taken(self, manifests: Manifests) -> None:
        taken = {source(volume) for name in WORKLOADS for volume in manifests.pod(name)["volumes"]}
        taken |= {("ConfigMap", "worker"), ("Secret", "client")}
        made = {(each["kind"], each["metadata"]["name"]) for each in manifests.of("ConfigMap", "Secret")}
        assert taken - {None} == made

    def test_selectors_mean_the_pods_of_their_name(self, manifests: Manifests) -> None:
        for name in WORKLOADS:
            assert manifests.chosen(manifests.workload(name)["spec"]["selector"]) == [name]
            assert manifests.workload(name)["metadata"]["labels"] == manifests.labels()[WORKLOADS.index(name)]
            service = manifests.get("Service", name)["spec"]
            assert manifests.chosen({"matchLabels": service["selector"]}) == [name]
            for port in service["ports"]:
                assert manifests.ports(name)[port["targetPort"]] == port["port"]
        assert manifests.chosen(manifests.get("PodDisruptionBudget", "worker")["spec"]["selector"]) == ["worker"]
        (spread,) = manifests.pod("worker")["topologySpreadConstraints"]
        assert manifests.chosen(spread["labelSelector"]) == ["worker"]
        assert all(each["spec"]["serviceName"] == each["metadata"]["name"] for each in manifests.of("StatefulSet"))

    def test_probes_ask_ports_that_exist(self, manifests: Manifests, workload: str) -> None:
        container = manifests.container(workload)
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            how = container[kind].get("httpGet") or container[kind].get("tcpSocket") or {}
            assert how.get("port", next(iter(manifests.ports(workload)))) in manifests.ports(workload)


class TestNetwork:
    def test_policies_open_ports_that_exist(self, manifests: Manifests) -> None:
        policies = manifests.of("NetworkPolicy")
        for policy in policies:
            spec = policy["spec"]
            targets = manifests.chosen(spec["podSelector"])
            assert targets
            for rule in spec.get("ingress", ()):
                known = {port for name in targets for port in manifests.ports(name).values()}
                assert {port["port"] for port in rule["ports"]} <= known
            for rule in spec.get("egress", ()):
                known = {port for name in peers(manifests, rule, "to") for port in manifests.ports(name).values()}
                assert {port["port"] for port in rule.get("ports", ())} <= known | {53}

    def test_nothing_is_open_that_is_not_named(self, manifests: Manifests) -> None:
        nothing = manifests.get("NetworkPolicy", "nothing-else")["spec"]
        assert manifests.chosen(nothing["podSelector"]) == list(WORKLOADS)
        assert nothing.keys() == {"podSelector", "policyTypes"}
        assert set(nothing["policyTypes"]) == {"Ingress", "Egress"}

    @pytest.mark.parametrize(
        ("client", "server", "port"),
        [
            ("scheduler", "rabbitmq", 5672),
            ("worker", "rabbitmq", 5672),
            ("prometheus", "scheduler", 9464),
            ("prometheus", "worker", 9464),
            ("prometheus", "rabbitmq", 15692),
            ("grafana", "prometheus", 9090),
        ],
    )
    def test_who_needs_whom_reaches_it(self, manifests: Manifests, client: str, server: str, port: int) -> None:
        assert allowed(manifests, client, server, port, "egress", "to")
        assert allowed(manifests, server, client, port, "ingress", "from")

    @pytest.mark.parametrize(
        ("client", "server", "port"),
        [("grafana", "rabbitmq", 15672), ("prometheus", "rabbitmq", 5672), ("scheduler", "worker", 9464)],
    )
    def test_who_does_not_need_whom_does_not(self, manifests: Manifests, client: str, server: str, port: int) -> None:
        assert not allowed(manifests, server, client, port, "ingress", "from")


class TestHardening:
    def test_pod(self, manifests: Manifests, workload: str) -> None:
        pod, container = manifests.pod(workload), manifests.container(workload)
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not any("hostPath" in volume for volume in pod["volumes"])

    def test_user_is_that_of_the_image(self, manifests: Manifests) -> None:
        user = re.search(r"^USER (\d+):(\d+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
        assert user is not None
        for name in ("scheduler", "worker"):
            security = manifests.pod(name)["securityContext"]
            assert (str(security["runAsUser"]), str(security["runAsGroup"])) == user.groups()

    def test_namespace_is_restricted(self, manifests: Manifests) -> None:
        (namespace,) = manifests.of("Namespace")
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"

    def test_secrets_are_read_by_those_who_need_them(self, manifests: Manifests, workload: str) -> None:
        taken = {
            found[1]
            for volume in manifests.pod(workload)["volumes"]
            if (found := source(volume)) and found[0] == "Secret"
        }
        assert taken == {"prometheus": set()}.get(workload, {workload})

    def test_no_password_outside_secrets(self, manifests: Manifests, folder: Path) -> None:
        passwords = [value for name, value in read_env(State(folder)).items() if name.endswith("_PASSWORD")]
        assert len(passwords) == 5
        told = json.dumps([each for each in manifests.resources if each["kind"] != "Secret"])
        assert not any(password in told for password in passwords)

    def test_git_ignores_the_secrets(self) -> None:
        ignored = (DEPLOY.parent / ".gitignore").read_text().splitlines()
        assert {"deploy/kubernetes/.env", "deploy/kubernetes/secrets/*"} <= set(ignored)


class TestLikeCompose:
    def test_image(self, manifests: Manifests, workload: str) -> None:
        image = COMPOSE[workload]["image"]
        assert manifests.container(workload)["image"] == re.sub(r"\$\{\w+:-(.*)\}", r"\1", image)

    def test_arguments(self, manifests: Manifests, workload: str) -> None:
        assert manifests.container(workload).get("args") == COMPOSE[workload].get("command")

    def test_environment(self, manifests: Manifests, workload: str) -> None:
        expected = {
            name: re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", value)
            for name, value in COMPOSE[workload].get("environment", {}).items()
        }
        found = manifests.environment(workload)
        assert found.keys() == expected.keys()
        # The broker's pod has another name, only its data is on the volume, and it learns its limit from Kubernetes.
        own = {"RABBITMQ_NODENAME", "ERL_CRASH_DUMP", "STACK_RABBITMQ_MEMORY"}
        assert [(name, found[name]) for name in found.keys() - own if found[name] != expected[name]] == []

    def test_the_broker_is_named_after_its_pod(self, manifests: Manifests) -> None:
        assert manifests.environment("rabbitmq")["RABBITMQ_NODENAME"] == "rabbit@rabbitmq-0"

    def test_memory(self, manifests: Manifests, workload: str) -> None:
        limit = re.sub(r"\$\{\w+:-(\d+)([MG])B\}", r"\1\2i", COMPOSE[workload]["mem_limit"])
        assert manifests.container(workload)["resources"]["limits"]["memory"] == limit

    def test_patience_with_a_pod_that_stops(self, manifests: Manifests, workload: str) -> None:
        expected = int(COMPOSE[workload]["stop_grace_period"].removesuffix("s"))
        assert manifests.pod(workload)["terminationGracePeriodSeconds"] == expected

    def test_secrets_come_under_the_same_names(self, manifests: Manifests, workload: str) -> None:
        for name in COMPOSE[workload].get("secrets", ()):
            assert f"/run/secrets/{name}" in files(manifests, workload)

    def test_configuration_comes_from_the_samefiles(self, manifests: Manifests) -> None:
        given = {key: text for each in manifests.of("ConfigMap") for key, text in each["data"].items()}
        for file in ("prometheus/prometheus.yml", "prometheus/alerts.yml", "rabbitmq/rabbitmq.conf"):
            assert given[Path(file).name] == (DEPLOY / file).read_text()
        assert given["warren.json"] == (DEPLOY / "grafana" / "dashboards" / "warren.json").read_text()

    def test_hosts_in_the_configuration_are_services(self, manifests: Manifests) -> None:
        text = "".join(
            manifests.get("ConfigMap", name)["data"][key]
            for name, key in (("prometheus", "prometheus.yml"), ("grafana", "datasource.yaml"))
        )
        hosts = set(re.findall(r"names: \[(\w+)\]", text)) | set(re.findall(r"(?:\"|//)([a-z]+):\d+", text))
        services = {each["metadata"]["name"] for each in manifests.of("Service")}
        assert hosts - {"localhost", "alertmanager"} == {"scheduler", "worker", "rabbitmq", "prometheus"}
        assert hosts - {"localhost", "alertmanager"} <= services


class TestRules:
    def test_health(self, manifests: Manifests) -> None:
        for name in ("scheduler", "worker"):
            container = manifests.container(name)
            paths = {
                kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")
            }
            assert paths == {"startup": "/healthz", "readiness": "/readyz", "liveness": "/healthz"}

    def test_stopping_takes_less_than_the_grace_period(self, manifests: Manifests) -> None:
        drains = {
            "scheduler": SchedulerSettings().drain_timeout,
            "worker": float(manifests.environment("worker")["WARREN_DRAIN_TIMEOUT"]),
        }
        for name, drain in drains.items():
            assert manifests.pod(name)["terminationGracePeriodSeconds"] >= drain + 15

    def test_environment_is_known_to_the_settings(self, manifests: Manifests) -> None:
        fields = {*SchedulerSettings.__struct_fields__, *WorkerSettings.__struct_fields__, *ELSEWHERE}
        for name in ("scheduler", "worker"):
            variables = [variable.removesuffix("_FILE") for variable in manifests.environment(name)]
            assert {variable.removeprefix("WARREN_").lower() for variable in variables} <= fields

    def test_never_two_schedulers(self, manifests: Manifests) -> None:
        assert manifests.get("StatefulSet", "scheduler")["spec"]["replicas"] == 1

    def test_data_is_on_volumes(self, manifests: Manifests) -> None:
        claims = {
            each["metadata"]["name"] for each in manifests.of("StatefulSet") if each["spec"]["volumeClaimTemplates"]
        }
        assert claims == {"rabbitmq", "scheduler", "prometheus", "grafana"}

    def test_queues_are_declared(self, manifests: Manifests) -> None:
        told = json.loads(base64.b64decode(manifests.get("Secret", "rabbitmq")["data"]["definitions.json"]))
        queues = manifests.environment("worker")["WARREN_QUEUES"].split(",")
        assert {f"warren.work.{name}" for name in queues} <= {queue["name"] for queue in told["queues"]}

    def test_clients_are_told_the_name_that_other_namespaces_know(self, folder: Path) -> None:
        assert (folder / "secrets" / "client_url").read_text().endswith("@rabbitmq.warren:5672/warren")

    def test_a_fixed_number_of_workers(self, folder: Path) -> None:
        fixed = Manifests("fixed", build(folder / "fixed"))
        assert fixed.workload("worker")["spec"]["replicas"] == 2
        assert not fixed.of("ScaledObject")

    def test_keda_s_number_is_not_overwritten(self, folder: Path) -> None:
        assert "replicas" not in Manifests("keda", build(folder / "keda")).workload("worker")["spec"]


class TestKeda:
    @pytest.fixture
    def spec(self, keda: Manifests) -> Resource:
        found: Resource = keda.get("ScaledObject", "worker")["spec"]
        return found

    def test_scales_the_workers(self, keda: Manifests, spec: Resource) -> None:
        target = keda.get(spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"])
        assert target is keda.workload("worker")
        assert 1 <= spec["minReplicaCount"] < spec["maxReplicaCount"]

    def test_asks_for_the_queues_that_the_workers_serve(self, keda: Manifests, spec: Resource) -> None:
        (trigger,) = spec["triggers"]
        asked = re.search(r'warren_recommended_workers\{queue=~"([^"]*)"\}', trigger["metadata"]["query"])
        assert asked is not None
        assert asked[1].split("|") == keda.environment("worker")["WARREN_QUEUES"].split(",")
        assert (trigger["metricType"], trigger["metadata"]["threshold"]) == ("AverageValue", "1")

    def test_asks_prometheus_and_reaches_it(self, keda: Manifests, spec: Resource) -> None:
        host, port = spec["triggers"][0]["metadata"]["serverAddress"].removeprefix("http://").split(":")
        service = keda.get("Service", host.split(".")[0])
        assert host == f"prometheus.{service['metadata']['namespace']}.svc"
        assert int(port) in {each["port"] for each in service["spec"]["ports"]}
        policy = keda.get("NetworkPolicy", "keda")["spec"]
        assert keda.chosen(policy["podSelector"]) == ["prometheus"]
        assert policy["ingress"][0]["from"] == [
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}
        ]

    @pytest.mark.parametrize(
        "change",
        [
            {"minReplicas": 1},
            {"triggers": []},
            {
                "triggers": [
                    {"type": "prometheus", "metadata": {"serverAddress": "http://p:1", "query": "x", "threshold": 1}}
                ]
            },
        ],
    )
    def test_the_schema_refuses_what_keda_would(self, keda: Manifests, change: Resource) -> None:
        scaled = keda.get("ScaledObject", "worker")
        broken = scaled | {"spec": scaled["spec"] | change}
        assert list(jsonschema.Draft202012Validator(SCALED_OBJECT).iter_errors(broken))


def kustomize(folder: Path) -> list[Resource]:
    """What `kubectl kustomize` makes, without the hashes in generated names."""
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    hashed = {
        each["metadata"]["name"] for each in yaml.safe_load_all(done.stdout) if each["kind"] in ("ConfigMap", "Secret")
    }
    text = done.stdout
    for name in hashed:
        text = text.replace(f"ame: {name}\n", f"ame: {name.rpartition('-')[0]}\n")
    resources = list(yaml.safe_load_all(text))
    for secret in (each for each in resources if each["kind"] == "Secret"):
        secret["data"] = {key: value.replace("\n", "") for key, value in secret["data"].items()}  # it breaks long lines
    return resources


def _sorted(resources: list[Resource]) -> list[Resource]:
    return sorted(resources, key=lambda each: (each["kind"], each["metadata"]["name"]))
