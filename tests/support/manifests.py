"""The manifests of one overlay, and the questions that tests ask about them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.support.kustomize import Resource

WORKLOADS = ("rabbitmq", "scheduler", "worker", "prometheus", "grafana")
_NO_POD: Resource = {"matchLabels": {"no": "pod"}}


class Manifests(NamedTuple):
    """What one overlay makes."""

    overlay: str
    resources: list[Resource]

    def get(self, kind: str, name: str) -> Resource:
        """The only resource of this kind and name."""
        (found,) = (each for each in self.of(kind) if each["metadata"]["name"] == name)
        return found

    def of(self, *kinds: str) -> list[Resource]:
        return [each for each in self.resources if each["kind"] in kinds]

    def workload(self, name: str) -> Resource:
        return self.get("Deployment" if name == "worker" else "StatefulSet", name)

    def pod(self, name: str) -> Resource:
        found: Resource = self.workload(name)["spec"]["template"]["spec"]
        return found

    def container(self, name: str) -> Resource:
        (found,) = self.pod(name)["containers"]
        result: Resource = found
        return result

    def labels(self) -> list[dict[str, str]]:
        """The labels of each workload's pods."""
        return [self.workload(name)["spec"]["template"]["metadata"]["labels"] for name in WORKLOADS]

    def chosen(self, selector: Resource) -> list[str]:
        """The workloads whose pods a selector means."""
        wanted = selector.get("matchLabels", {}).items()
        return [name for name, labels in zip(WORKLOADS, self.labels(), strict=True) if wanted <= labels.items()]

    def ports(self, name: str) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.container(name)["ports"]}

    def environment(self, name: str) -> dict[str, Any]:
        found = {each["name"]: each.get("value") for each in self.container(name).get("env", ())}
        for source in self.container(name).get("envFrom", ()):
            found |= self.get("ConfigMap", source["configMapRef"]["name"])["data"]
        return found


def source(volume: Resource) -> tuple[str, str] | None:
    """Kind and name of what a volume shows; None for one that starts empty."""
    if "configMap" in volume:
        return "ConfigMap", volume["configMap"]["name"]
    return ("Secret", volume["secret"]["secretName"]) if "secret" in volume else None


def given(manifests: Manifests, workload: str) -> Iterator[tuple[Resource, list[str]]]:
    """The volumes of a workload that hold given files, and the keys of each."""
    for volume in manifests.pod(workload)["volumes"]:
        if found := source(volume):
            yield volume, list(manifests.get(*found)["data"])


def files(manifests: Manifests, workload: str) -> Iterator[str]:
    """The paths of the files that a workload is given."""
    for volume, keys in given(manifests, workload):
        items = volume.get("configMap", {}).get("items") or [{"key": key, "path": key} for key in keys]
        for mount in manifests.container(workload)["volumeMounts"]:
            if mount["name"] == volume["name"]:
                whole = [f"{mount['mountPath']}/{item['path']}" for item in items]
                yield from [mount["mountPath"]] if "subPath" in mount else whole


def peers(manifests: Manifests, rule: Resource, key: str) -> list[str]:
    """The workloads that a rule of a network policy names under `key`, `from` or `to`."""
    selectors = [peer.get("podSelector", _NO_POD) for peer in rule.get(key, ())]
    return [name for selector in selectors for name in manifests.chosen(selector)]


def allowed(manifests: Manifests, subject: str, peer: str, port: int, direction: str, key: str) -> bool:
    """Whether a policy about `subject` lets it talk to, or be talked to by, `peer`."""
    policies = [each["spec"] for each in manifests.of("NetworkPolicy")]
    rules = [
        rule
        for policy in policies
        if subject in manifests.chosen(policy["podSelector"])
        for rule in policy.get(direction, ())
    ]
    return any(
        (key not in rule or peer in peers(manifests, rule, key))
        and ("ports" not in rule or port in {each["port"] for each in rule["ports"]})
        for rule in rules
    )
