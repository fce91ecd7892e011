"""Building blocks of a Grafana dashboard: plain dictionaries in Grafana's JSON model (schema 41)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

Panel = dict[str, Any]

WIDTH: Final = 24
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, ORANGE, RED, BLUE = "green", "yellow", "orange", "red", "blue"


@dataclass(frozen=True)
class Query:
    """One PromQL query.

    Attributes:
        expression: PromQL, with Grafana's variables.
        legend: the name of each line, with labels as `{{label}}`.
    """

    expression: str
    legend: str = ""


def rate(metric: str, by: str = "", matchers: str = "") -> str:
    """The rate of a counter over all replicas, per second."""
    inner = f"rate({metric}{{{matchers}}}[$__rate_interval])"
    return f"sum by ({by}) ({inner})" if by else f"sum({inner})"


def quantiles(metric: str, matchers: str = "", by: str = "") -> tuple[Query, ...]:
    """p50, p95 and p99 of a histogram over all replicas."""
    labels = f"le, {by}" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    return tuple(
        Query(
            f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{{{matchers}}}[$__rate_interval])))",
            f"{legend}p{share * 100:.0f}",
        )
        for share in (0.5, 0.95, 0.99)
    )


def mean(metric: str, legend: str, matchers: str = "") -> Query:
    """The mean of a histogram over all replicas."""
    return Query(f"{rate(metric + '_sum', matchers=matchers)} / {rate(metric + '_count', matchers=matchers)}", legend)


def graph(
    title: str,
    queries: Sequence[Query],
    *,
    unit: str = "short",
    about: str = "",
    stacked: bool = False,
    width: int = 8,
    colours: Iterable[tuple[str, str]] = (),
) -> Panel:
    """Lines over time.

    Args:
        title: what is shown, in a few words.
        queries: the lines.
        unit: Grafana's unit, such as `s`, `bytes`, `ops`.
        about: what to see in it, and what to do when it looks bad.
        stacked: add the lines up.
        width: columns of 24.
        colours: fixed colours, by the line's name.
    """
    custom = {
        "lineWidth": 2,
        "fillOpacity": 30 if stacked else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }
    panel = _panel("timeseries", title, queries, about, width, 8)
    panel["fieldConfig"] = {
        "defaults": {"unit": unit, "min": 0, "custom": custom, "color": {"mode": "palette-classic"}},
        "overrides": [
            {
                "matcher": {"id": "byName", "options": name},
                "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
            }
            for name, colour in colours
        ],
    }
    panel["options"] = {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"], "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel


def number(
    title: str,
    expression: str,
    *,
    unit: str = "short",
    about: str = "",
    thresholds: Sequence[tuple[float | None, str]] = ((None, BLUE),),
    words: dict[str, str] | None = None,
) -> Panel:
    """One number with a spark line.

    Args:
        title: what is shown, in a few words.
        expression: PromQL with one result.
        unit: Grafana's unit.
        about: what to see in it.
        thresholds: from which value on it has which colour; the first is None.
        words: text to show instead of a value.
    """
    panel = _panel("stat", title, (Query(expression),), about, 3, 4)
    mappings = [
        {"type": "value", "options": {value: {"text": text, "index": index}}}
        for index, (value, text) in enumerate((words or {}).items())
    ]
    panel["fieldConfig"] = {
        "defaults": {
            "unit": unit,
            "mappings": mappings,
            "noValue": "no data",
            "color": {"mode": "thresholds"},
            "thresholds": {"mode": "absolute", "steps": [{"value": at, "color": colour} for at, colour in thresholds]},
        },
        "overrides": [],
    }
    panel["options"] = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "background",
        "graphMode": "none" if words else "area",
        "textMode": "auto",
    }
    return panel


def rows(sections: Sequence[tuple[str, Sequence[Panel]]]) -> list[Panel]:
    """Place panels: each section under a title, from left to right, wrapping at the right edge."""
    placed: list[Panel] = []
    y = 0
    for title, panels in sections:
        placed.append({"type": "row", "title": title, "collapsed": False, "panels": []} | _at(0, y, WIDTH, 1))
        y += 1
        x = height = 0
        for panel in panels:
            size = panel["gridPos"]
            if x + size["w"] > WIDTH:
                x, y, height = 0, y + height, 0
            placed.append(panel | _at(x, y, size["w"], size["h"]))
            x, height = x + size["w"], max(height, size["h"])
        y += height
    return [panel | {"id": number_} for number_, panel in enumerate(placed, 1)]


def variable(name: str, query: str, label: str) -> dict[str, Any]:
    """A choice of label values, all by default."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def source_variable() -> dict[str, Any]:
    """A choice of the Prometheus server."""
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1}


def _panel(kind: str, title: str, queries: Sequence[Query], about: str, width: int, height: int) -> Panel:
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": _SOURCE,
            "expr": query.expression,
            "legendFormat": query.legend or "__auto",
        }
        for index, query in enumerate(queries)
    ]
    return {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": _SOURCE,
        "targets": targets,
        **_at(0, 0, width, height),
    }


def _at(x: int, y: int, width: int, height: int) -> dict[str, Any]:
    return {"gridPos": {"x": x, "y": y, "w": width, "h": height}}
