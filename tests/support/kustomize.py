"""What kustomize makes of `deploy/kubernetes`, without kustomize.

It understands only what the manifests use and refuses all else. Where `kubectl` is installed a test compares the two,
so that this one cannot drift. Names of generated ConfigMaps and Secrets come without the hash that kustomize appends.
"""

import base64
from pathlib import Path
from typing import Any

import yaml

Resource = dict[str, Any]
_UNDERSTOOD = {
    "apiVersion",
    "kind",
    "resources",
    "namespace",
    "replicas",
    "configMapGenerator",
    "secretGenerator",
}


def build(folder: Path) -> list[Resource]:
    """Return the resources of a kustomization.

    Args:
        folder: holds its `kustomization.yaml`.

    Raises:
        FileNotFoundError: it names something that does not exist.
        ValueError: it uses what is not understood here, or reads a file outside its folder.
    """
    kustomization: Resource = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := kustomization.keys() - _UNDERSTOOD:
        raise ValueError(f"{folder}: not understood: {', '.join(sorted(unknown))}")
    found: list[Resource] = []
    for name in kustomization.get("resources", ()):
        path = folder / name
        found += build(path) if path.is_dir() else yaml.safe_load_all(_below(folder, name).read_text())
    found += [_config_map(folder, each) for each in kustomization.get("configMapGenerator", ())]
    found += [_secret(folder, each) for each in kustomization.get("secretGenerator", ())]
    for each in kustomization.get("replicas", ()):
        for resource in found:
            if resource["kind"] in ("Deployment", "StatefulSet") and resource["metadata"]["name"] == each["name"]:
                resource["spec"]["replicas"] = each["count"]
    if namespace := kustomization.get("namespace"):
        for resource in found:
            if resource["kind"] != "Namespace":
                resource["metadata"]["namespace"] = namespace
    return found


def _config_map(folder: Path, generator: Resource) -> Resource:
    data = _files(folder, generator) | dict(literal.split("=", 1) for literal in generator.pop("literals", ()))
    return _generated("ConfigMap", generator) | {"data": data}


def _secret(folder: Path, generator: Resource) -> Resource:
    data = {key: base64.b64encode(text.encode()).decode() for key, text in _files(folder, generator).items()}
    return _generated("Secret", generator) | {"type": "Opaque", "data": data}


def _generated(kind: str, generator: Resource) -> Resource:
    name = generator.pop("name")
    if generator:
        raise ValueError(f"{kind} {name}: not understood: {', '.join(generator)}")
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}


def _files(folder: Path, generator: Resource) -> dict[str, str]:
    named = [entry.rpartition("=") for entry in generator.pop("files", ())]
    return {key or Path(name).name: _below(folder, name).read_text() for key, _, name in named}


def _below(folder: Path, name: str) -> Path:
    """The file; kustomize reads none that is not below the folder."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{folder}: {name} is outside")
    return path
