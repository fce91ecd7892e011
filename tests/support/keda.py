"""The part of KEDA's `ScaledObject` that Warren uses, as JSON schema.

Fields, types and bounds as in KEDA's custom resource definition (`keda.sh_scaledobjects.yaml` of 2.16), its page on the
Prometheus scaler (https://keda.sh/docs/2.16/scalers/prometheus/) and Kubernetes' `HorizontalPodAutoscalerBehavior`.
Anything else is refused: what is misspelt would be ignored by some versions of the API server.
"""

from typing import Any

_COUNT = {"type": "integer", "minimum": 0}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


_POLICY = _object(
    ("type", "value", "periodSeconds"),
    type={"enum": ["Percent", "Pods"]},
    value={"type": "integer", "minimum": 1},
    periodSeconds={"type": "integer", "minimum": 1, "maximum": 1800},
)
_RULES = _object(
    stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600},
    selectPolicy={"enum": ["Max", "Min", "Disabled"]},
    policies={"type": "array", "items": _POLICY, "minItems": 1},
)
_TRIGGER = _object(
    ("type", "metadata"),
    type={"const": "prometheus"},
    name={"type": "string"},
    metricType={"enum": ["AverageValue", "Value"]},
    # Every value is a string, numbers and booleans too: KEDA refuses others.
    metadata=_object(
        ("serverAddress", "query", "threshold"),
        serverAddress={"type": "string", "pattern": "^https?://[a-z0-9.-]+:[0-9]+$"},
        query={"type": "string"},
        threshold={"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"},
        activationThreshold={"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"},
        ignoreNullValues={"enum": ["true", "false"]},
    ),
)

SCALED_OBJECT = _object(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "keda.sh/v1alpha1"},
    kind={"const": "ScaledObject"},
    metadata=_object(("name",), name={"type": "string"}, namespace={"type": "string"}),
    spec=_object(
        ("scaleTargetRef", "triggers"),
        scaleTargetRef=_object(
            ("name",), apiVersion={"type": "string"}, kind={"type": "string"}, name={"type": "string"}
        ),
        minReplicaCount=_COUNT,
        maxReplicaCount=_COUNT,
        pollingInterval=_COUNT,
        cooldownPeriod=_COUNT,
        advanced=_object(
            restoreToOriginalReplicaCount={"type": "boolean"},
            horizontalPodAutoscalerConfig=_object(behavior=_object(scaleUp=_RULES, scaleDown=_RULES)),
        ),
        triggers={"type": "array", "items": _TRIGGER, "minItems": 1},
    ),
)
