"""Lanes, by which what is queued is claimed; quotas, what rates have used up, and what operators have changed;
the task functions that workers have named.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BATCH: Final = 5000
_sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_QUEUED: Final = "state = 'queued'"
_tasks = sa.table(
    "tasks",
    *(sa.column(name) for name in ("seq", "queue", "priority", "task", "key", "state", "lane")),
)


@lru_cache(maxsize=10_000)
def lane_number(queue: str, priority: int, task: str, key: str | None) -> int:
    """The lane of a task of revision 0002, in which nothing required labels; as lanes are numbered at this revision."""
    name = "\x00".join((queue, str(priority), task, key or ""))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) >> 1


def _fill() -> None:
    """Give each unfinished task its lane, in batches: however many there are, few are in memory."""
    connection = op.get_bind()
    columns = _tasks.c
    page = (
        sa.select(columns.seq, columns.queue, columns.priority, columns.task, columns.key)
        .where(columns.seq > sa.bindparam("after"), columns.state.in_(("queued", "scheduled", "dispatched")))
        .order_by(columns.seq)
        .limit(BATCH)
    )
    fill = _tasks.update().where(columns.seq == sa.bindparam("b_seq")).values(lane=sa.bindparam("b_lane"))
    rows = connection.execute(page, {"after": 0}).all()
    while rows:
        found = [{"b_seq": row.seq, "b_lane": lane_number(row.queue, row.priority, row.task, row.key)} for row in rows]
        connection.execute(fill, found)
        rows = connection.execute(page, {"after": rows[-1].seq}).all()


def upgrade() -> None:
    op.add_column(
        "tasks",
        sa.Column(
            "lane", _sequence, comment="number of the lane in which it waits; NULL: it ended before there were lanes"
        ),
    )
    op.add_column(
        "tasks",
        sa.Column(
            "target", sa.String(64), comment="the only worker that the current dispatch went to; NULL: any of its queue"
        ),
    )
    op.add_column(
        "tasks", sa.Column("origin", sa.String(80), comment="queue and priority as submitted, when it was moved since")
    )
    # Filling is faster without the index, and making it afterwards reads what is queued once.
    op.drop_index("ix_tasks_queued", "tasks")
    _fill()
    where = sa.text(_QUEUED)
    op.create_index("ix_tasks_queued", "tasks", ["lane", "seq", "state"], sqlite_where=where, postgresql_where=where)
    op.create_table(
        "functions",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("heard_at", sa.Float, nullable=False),
    )
    op.create_table(
        "quotas",
        sa.Column("scope", sa.String(8), primary_key=True, comment="queue, task, key"),
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("weight", sa.Float, nullable=False),
        sa.Column("rate_count", sa.Integer, comment="how many may be dispatched"),
        sa.Column("rate_per", sa.Float, comment="in so many seconds"),
        sa.Column("concurrency", sa.Integer),
        sa.Column("paused", sa.Boolean(create_constraint=False), nullable=False),
        sa.Column("ageing", sa.Float, comment="seconds of waiting that count as one step of priority"),
    )
    op.create_table(
        "recent",
        sa.Column("scope", sa.String(8), primary_key=True),
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("at", sa.Float, primary_key=True, comment="when, rounded up to a hundredth of the rate's span"),
        sa.Column("count", sa.Integer, nullable=False),
    )
    op.create_table(
        "changes",
        sa.Column("seq", _sequence, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("user", sa.String(255), nullable=False, comment="the broker user"),
        sa.Column("what", sa.String(32), nullable=False, comment="one of a closed set"),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )


def downgrade() -> None:
    for table in ("changes", "recent", "quotas", "functions"):
        op.drop_table(table)
    op.drop_index("ix_tasks_queued", "tasks")
    where = sa.text(_QUEUED)
    columns: list[str | sa.TextClause] = ["queue", sa.text("priority DESC"), "seq"]
    op.create_index("ix_tasks_queued", "tasks", columns, sqlite_where=where, postgresql_where=where)
    op.drop_column("tasks", "origin")
    op.drop_column("tasks", "target")
    op.drop_column("tasks", "lane")
