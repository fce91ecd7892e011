"""The Grafana dashboard, from top to bottom in the order in which one looks for trouble.

python -m deploy.dashboard      writes grafana/dashboards/warren.json; a test compares the two
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from deploy.panels import (
    GREEN,
    ORANGE,
    RED,
    YELLOW,
    Panel,
    Query,
    graph,
    mean,
    number,
    quantiles,
    rate,
    rows,
    source_variable,
    variable,
)

FILE: Final = Path(__file__).parent / "grafana" / "dashboards" / "warren.json"
_Q: Final = 'queue=~"$queue"'
_UP: Final = {"0": "down", "1": "up"}
_BAD_AT_0: Final = ((None, RED), (1, GREEN))
_BAD_ABOVE_0: Final = ((None, GREEN), (1, RED))


def now() -> list[Panel]:
    """Whether all is well, at one glance."""
    failed = rate("warren_tasks_completed_total", matchers=f'{_Q}, status="failed"')
    completed = rate("warren_tasks_completed_total", matchers=_Q)
    return [
        number("Completed", completed, unit="ops", about="Tasks that reached a terminal state, per second."),
        number("Waiting", f'sum(warren_tasks{{{_Q}, state="queued"}})', about="The backlog, kept in the store."),
        number("In flight", f"sum(warren_in_flight_tasks{{{_Q}}})", about="Dispatched and not finished."),
        number(
            "Failed",
            f"({failed} or vector(0)) / ({completed} > 0)",
            unit="percentunit",
            thresholds=((None, GREEN), (0.01, YELLOW), (0.1, RED)),
            about="The share of failures among the tasks that ended.",
        ),
        number("Live workers", "max(warren_live_workers)", thresholds=_BAD_AT_0, about="Those whose beat is heard."),
        number(
            "Parked, 24 h",
            "sum(increase(warren_parked_total[24h])) or vector(0)",
            thresholds=_BAD_ABOVE_0,
            about="Messages refused and kept in the store with their reason.",
        ),
        number("Store", "min(warren_store_up)", thresholds=_BAD_AT_0, words=_UP),
        number("Broker", "min(warren_broker_connected)", thresholds=_BAD_AT_0, words=_UP, about="All connections."),
    ]


def flow() -> list[Panel]:
    """How much comes in, goes out and waits."""
    return [
        graph(
            "Throughput",
            [
                Query(rate("warren_tasks_submitted_total", matchers=_Q), "submitted"),
                Query(rate("warren_tasks_dispatched_total", matchers=_Q), "dispatched"),
                Query(rate("warren_tasks_completed_total", matchers=_Q), "completed"),
            ],
            unit="ops",
            about="Dispatched above completed for long: tasks come back (see Trouble).",
        ),
        graph(
            "Ends by status",
            [Query(rate("warren_tasks_completed_total", "status", _Q), "{{status}}")],
            unit="ops",
            stacked=True,
            colours=(("succeeded", GREEN), ("failed", RED), ("expired", ORANGE), ("cancelled", YELLOW)),
        ),
        graph(
            "Tasks by state",
            [Query(f"sum by (state) (warren_tasks{{{_Q}}})", "{{state}}")],
            stacked=True,
            about="Only states before the end. `queued` that grows and grows: too few slots.",
        ),
        graph(
            "Completed by queue", [Query(rate("warren_tasks_completed_total", "queue", _Q), "{{queue}}")], unit="ops"
        ),
        graph(
            "Completed by task",
            [Query(f"topk(10, {rate('warren_tasks_completed_total', 'task', _Q)})", "{{task}}")],
            unit="ops",
        ),
        graph("Waiting by queue", [Query(f'sum by (queue) (warren_tasks{{{_Q}, state="queued"}})', "{{queue}}")]),
    ]


def latency() -> list[Panel]:
    """How long tasks take, and where."""
    by_task = f"sum by (le, task) (rate(warren_task_run_seconds_bucket{{{_Q}}}[$__rate_interval]))"
    return [
        graph(
            "Wait in the queue",
            quantiles("warren_task_queue_wait_seconds", _Q),
            unit="s",
            about="From the submission until it is dispatched.",
        ),
        graph("Run", quantiles("warren_task_run_seconds", _Q), unit="s", about="The task function itself."),
        graph("Whole path", quantiles("warren_task_total_seconds", _Q), unit="s", about="Submission to stored result."),
        graph(
            "Slowest tasks (p95 of the run)",
            [Query(f"topk(10, histogram_quantile(0.95, {by_task}))", "{{task}}")],
            unit="s",
        ),
        graph(
            "Wait for a slot, in the worker",
            quantiles("warren_worker_slot_wait_seconds", _Q),
            unit="s",
            about="Near 100 ms and more: workers are handed more than they have slots for.",
        ),
        graph(
            "Late by the clock",
            quantiles("warren_due_late_seconds"),
            unit="s",
            about="From when a delayed or retried task was due until it was queued.",
        ),
    ]


def dispatch() -> list[Panel]:
    """Whether workers are kept busy, and how well hops share."""
    return [
        graph(
            "Window and in flight",
            [
                Query(f"sum by (queue) (warren_window_tasks{{{_Q}}})", "{{queue}} window"),
                Query(f"sum by (queue) (warren_in_flight_tasks{{{_Q}}})", "{{queue}} in flight"),
            ],
            about="In flight at the window with tasks waiting is full load; below it the dispatcher is the limit.",
        ),
        graph(
            "Slots and running",
            [
                Query("sum(warren_worker_slots)", "slots"),
                Query("sum(warren_worker_running)", "running"),
                Query("sum(warren_worker_waiting)", "waiting for a slot"),
            ],
            about="Running near slots while tasks wait: add workers.",
        ),
        graph(
            "Shared per hop (mean)",
            [
                mean("warren_intake_batch_tasks", "tasks a commit, intake"),
                mean("warren_bundle_tasks", "tasks a bundle"),
                mean("warren_worker_reply_tasks", "outcomes a reply"),
                mean("warren_reply_batch_tasks", "outcomes a commit, collector"),
            ],
            about="What one message or transaction carries. Near 1 on an idle system.",
        ),
    ]


def scaling() -> list[Panel]:
    """Whether there are as many workers as it takes, and what waits for something else than a worker."""
    recommended = f"max by (queue) (warren_recommended_workers{{{_Q}}})"
    return [
        graph(
            "Workers, recommended and live",
            [
                Query(recommended, "{{queue}}"),
                Query(f"sum({recommended})", "all queues"),
                Query("max(warren_live_workers)", "live"),
            ],
            about="Live below the sum for long: the autoscaler is at its bound, or does not run.",
        ),
        graph(
            "In and out, by queue",
            [
                Query(rate("warren_tasks_submitted_total", "queue", _Q), "{{queue}} in"),
                Query(rate("warren_tasks_completed_total", "queue", _Q), "{{queue}} out"),
            ],
            unit="ops",
        ),
        graph(
            "Oldest that waits, by queue",
            [Query(f"max by (queue) (warren_queue_oldest_seconds{{{_Q}}})", "{{queue}}")],
            unit="s",
            about="Says more than how many wait: a line that rises with the clock is a queue from which nothing goes.",
        ),
        graph(
            "Time to drain, by queue",
            [Query(f"max by (queue) (warren_queue_drain_seconds{{{_Q}}}) < +Inf", "{{queue}}")],
            unit="s",
            about="No line: it is never done as it is now. Nobody serves it, nobody can run it, or it is paused.",
        ),
        graph(
            "Held back, by queue",
            [
                Query(f"sum by (queue) (warren_tasks_unrunnable{{{_Q}}})", "{{queue}}: nobody can run it"),
                Query(f"sum by (queue) (warren_tasks_limited{{{_Q}}})", "{{queue}}: paused or limited"),
            ],
            about="Queued tasks that more workers of the same kind would not help. `warren queues` says why.",
        ),
        graph(
            "Workers by state",
            [Query("max by (state) (warren_workers)", "{{state}}")],
            stacked=True,
            colours=(("alive", GREEN), ("lost", RED), ("silent", ORANGE), ("paused", YELLOW)),
            about="Lost: died without a word in the last ten minutes. Scaling down does not show here.",
        ),
    ]


def workers() -> list[Panel]:
    """One line for each worker process."""
    return [
        graph("Running by worker", [Query("sum by (instance) (warren_worker_running)", "{{instance}}")], stacked=True),
        graph("Live slots by queue", [Query(f"sum by (queue) (warren_live_slots{{{_Q}}})", "{{queue}}")]),
        graph(
            "Slots taken away by load",
            [Query("max by (instance) (warren_worker_capacity - warren_worker_slots)", "{{instance}}")],
            about="Memory or loop lag is above the worker's settings, so it takes fewer tasks; its log says which.",
        ),
        graph(
            "Event loop lag",
            [Query("max by (instance) (warren_worker_loop_lag_seconds)", "{{instance}}")],
            unit="s",
            about="A coroutine function that blocks keeps all others of its worker waiting.",
        ),
        graph(
            "Memory",
            [Query('process_resident_memory_bytes{job=~"scheduler|worker"}', "{{job}} {{instance}}")],
            unit="bytes",
        ),
        graph(
            "CPU",
            [
                Query(
                    'rate(process_cpu_seconds_total{job=~"scheduler|worker"}[$__rate_interval])', "{{job}} {{instance}}"
                )
            ],
            unit="percentunit",
        ),
        graph(
            "Versions and draining",
            [
                Query("sum by (service, version) (warren_build_info)", "{{service}} {{version}}"),
                Query("sum(warren_worker_draining)", "draining"),
            ],
        ),
    ]


def trouble() -> list[Panel]:
    """What should be flat at zero on a good day."""
    window = "$__rate_interval"
    return [
        graph(
            "Returned, by reason",
            [Query(rate("warren_tasks_returned_total", "reason", _Q), "{{reason}}")],
            unit="ops",
            about="Handed back unrun. `busy` is balance, `redelivered` follows a crash or a lost connection.",
        ),
        graph(
            "Crashes",
            [
                Query(f"sum(increase(warren_redelivered_total{{{_Q}}}[{window}]))", "redelivered"),
                Query(f"sum(increase(warren_suspects_total{{{_Q}}}[{window}]))", "suspects"),
                Query(f"sum(increase(warren_tasks_lost_total{{{_Q}}}[{window}]))", "lost and rescued"),
                Query(f"sum(increase(warren_tasks_held_total{{{_Q}}}[{window}]))", "held"),
            ],
            about="A suspect is a task whose worker died with it; it runs again in a process of its own.",
        ),
        graph(
            "Refused and late",
            [
                Query(
                    f"sum by (origin, reason) (increase(warren_parked_total[{window}]))", "parked {{origin}} {{reason}}"
                ),
                Query(f"sum(increase(warren_replies_stale_total[{window}]))", "stale replies"),
                Query(f"sum(increase(warren_told_unroutable_total[{window}]))", "client gone"),
                Query(f"sum(increase(warren_worker_undecodable_total{{{_Q}}}[{window}]))", "undecodable work"),
                Query(f"sum(increase(warren_store_failed_total[{window}]))", "failed commits"),
            ],
        ),
        graph(
            "Failed attempts",
            [Query(rate("warren_attempts_failed_total", "kind, then", _Q), "{{kind}}, {{then}}")],
            unit="ops",
            stacked=True,
            about="By reason, and what became of the task: `retried` later, or `failed` for good.",
        ),
        graph(
            "Ended by force",
            [
                Query(f"sum(increase(warren_worker_given_up_total{{{_Q}}}[{window}]))", "given up, still going on"),
                Query(
                    f"sum by (task) (increase(warren_worker_loop_blocked_total[{window}]))", "{{task}} blocked the loop"
                ),
                Query(
                    f"sum by (reason) (increase(warren_worker_process_ends_total[{window}]))", "processes {{reason}}"
                ),
                Query(f"sum by (task) (increase(warren_worker_slow_total[{window}]))", "{{task}} far beyond its time"),
            ],
            about="`recycled` is routine. Given up: task functions that did not end after their hard timeout.",
        ),
        graph(
            "Forgotten",
            [
                Query(rate("warren_tasks_pruned_total"), "tasks"),
                Query(rate("warren_parked_pruned_total"), "parked messages"),
            ],
            unit="ops",
            about="After `result_ttl`. Below completed for days: the store grows.",
        ),
    ]


def costs() -> list[Panel]:
    """What broker and disk take."""
    return [
        graph(
            "Publish to confirm, scheduler",
            quantiles("warren_publish_confirm_seconds", 'job="scheduler"'),
            unit="s",
            about="The broker's disk. Seconds: it is blocked by an alarm, or its disk is slow.",
        ),
        graph("Publish to confirm, workers", quantiles("warren_publish_confirm_seconds", 'job="worker"'), unit="s"),
        graph(
            "Commit of the store", quantiles("warren_store_commit_seconds"), unit="s", about="The scheduler's own disk."
        ),
    ]


def broker() -> list[Panel]:
    """RabbitMQ's own numbers."""
    queues = 'job="rabbitmq-queues"'
    return [
        graph(
            "Messages ready",
            [Query(f"sum by (queue) (rabbitmq_detailed_queue_messages_ready{{{queues}}})", "{{queue}}")],
            about="Not the backlog: that is in the store. Here is only what is about to be read.",
        ),
        graph(
            "Messages unacknowledged",
            [Query(f"sum by (queue) (rabbitmq_detailed_queue_messages_unacked{{{queues}}})", "{{queue}}")],
        ),
        graph(
            "Memory",
            [
                Query("sum(rabbitmq_process_resident_memory_bytes)", "used"),
                Query("sum(rabbitmq_resident_memory_limit_bytes)", "publishers are blocked above"),
            ],
            unit="bytes",
            colours=(("publishers are blocked above", RED),),
        ),
        graph(
            "Disk",
            [
                Query("sum(rabbitmq_disk_space_available_bytes)", "free"),
                Query("sum(rabbitmq_disk_space_available_limit_bytes)", "publishers are blocked below"),
            ],
            unit="bytes",
            colours=(("publishers are blocked below", RED),),
        ),
        graph(
            "Connections and channels",
            [
                Query("sum(rabbitmq_connections)", "connections"),
                Query("sum(rabbitmq_channels)", "channels"),
                Query("sum(rabbitmq_consumers)", "consumers"),
            ],
        ),
        graph(
            "Alarms and lost connections",
            [
                Query("max(rabbitmq_alarms_memory_used_watermark)", "memory alarm"),
                Query("max(rabbitmq_alarms_free_disk_space_watermark)", "disk alarm"),
                Query(
                    "sum by (connection) (increase(warren_broker_lost_total[$__rate_interval]))", "lost {{connection}}"
                ),
                Query(
                    "sum by (reason) (increase(warren_publish_failed_total[$__rate_interval]))",
                    "unconfirmed {{reason}}",
                ),
            ],
        ),
    ]


def dashboard() -> dict[str, Any]:
    """The whole dashboard in Grafana's JSON model."""
    sections = [
        ("Now", now()),
        ("Flow", flow()),
        ("Latency", latency()),
        ("Dispatch", dispatch()),
        ("Scaling and limits", scaling()),
        ("Workers", workers()),
        ("Trouble", trouble()),
        ("Costs", costs()),
        ("Broker", broker()),
    ]
    alerts = {
        "name": "Alerts",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "enable": True,
        "iconColor": RED,
        "expr": 'ALERTS{alertstate="firing", alertname=~"Warren.*"}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{severity}}",
        "step": "15s",
    }
    return {
        "uid": "warren",
        "title": "Warren",
        "description": "Made by deploy/dashboard.py: change it there.",
        "tags": ["warren"],
        "schemaVersion": 41,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [source_variable(), variable("queue", "label_values(warren_tasks, queue)", "Queue")]},
        "annotations": {"list": [alerts]},
        "panels": rows(sections),
    }


def text() -> str:
    """The content of the file."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
