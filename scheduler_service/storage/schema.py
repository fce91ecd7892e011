"""The tables.

Text and numbers only, and no type that needs work for each value: a task is written once and updated once on the
fast path. Times are seconds since the epoch (UTC) by the scheduler's clock. The partial indexes hold only what is
unfinished, so a large history costs the hot path nothing.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    false,
    text,
)

REVISION: Final = "0003"
"""The newest migration, which leads to these tables."""
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
    }
)
_Sequence = BigInteger().with_variant(Integer, "sqlite")

tasks = Table(
    "tasks",
    metadata,
    Column("seq", _Sequence, primary_key=True, autoincrement=True, comment="store order"),
    Column("id", String(36), nullable=False, unique=True),
    Column("task", String(128), nullable=False),
    Column("queue", String(64), nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("state", String(10), nullable=False),
    Column("args", Text, nullable=False),
    Column("kwargs", Text, nullable=False),
    Column("owner", String(255), nullable=False, comment="the broker user who submitted it"),
    Column("reply_to", String(255), comment="where the owner is told"),
    Column("submitted_at", Float, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("lease", String(22), nullable=False),
    Column("isolation", String(5), nullable=False),
    Column("crashes", Integer, nullable=False),
    Column("held", Boolean(create_constraint=False), nullable=False),
    Column("unknown_since", Float),
    Column("due_at", Float),
    Column("dispatch", _Sequence, nullable=False, comment="number of the current dispatch"),
    Column("dispatched_at", Float),
    Column("finished_at", Float),
    Column("worker", String(64), comment="who answered last"),
    Column("result", Text),
    Column("error", Text),
    Column("failures", Integer, nullable=False, server_default="0", comment="retries that were spent"),
    Column("expires_at", Float, comment="by when it has to be started"),
    Column("options", Text, comment="as submitted, JSON"),
    Column("ttl", Float, comment="seconds for which it is kept after its end; NULL: as the setting says"),
    Column("key", String(128), comment="whose task it is, for fairness"),
    Column("aliased", Boolean(create_constraint=False), nullable=False, server_default=false()),
    Column("lane", _Sequence, comment="number of the lane in which it waits; NULL: it ended before there were lanes"),
    Column("target", String(64), comment="the only worker that the current dispatch went to; NULL: any of its queue"),
    Column("origin", String(80), comment="queue and priority as submitted, when it was moved since"),
)
QUEUED = "state = 'queued'"
"""Tasks whose turn may come. A query says it in these words, or the partial index is not used."""
# With the state, so that SQLite looks at no row of the table to see that it is queued.
Index(
    "ix_tasks_queued",
    tasks.c.lane,
    tasks.c.seq,
    tasks.c.state,
    sqlite_where=text(QUEUED),
    postgresql_where=text(QUEUED),
)
Index(
    "ix_tasks_dispatched",
    tasks.c.dispatch,
    sqlite_where=text("state = 'dispatched'"),
    postgresql_where=text("state = 'dispatched'"),
)
Index(
    "ix_tasks_due",
    tasks.c.due_at,
    tasks.c.queue,
    sqlite_where=text("state = 'scheduled'"),
    postgresql_where=text("state = 'scheduled'"),
)
EXPIRING = "expires_at IS NOT NULL AND state IN ('queued', 'scheduled')"
"""Tasks that may expire where they wait. A query says it in these words, or the partial index is not used."""
Index(
    "ix_tasks_expiring",
    tasks.c.expires_at,
    sqlite_where=text(EXPIRING),
    postgresql_where=text(EXPIRING),
)
Index(
    "ix_tasks_failed",
    tasks.c.seq,
    sqlite_where=text("state = 'failed'"),
    postgresql_where=text("state = 'failed'"),
)
OWN_TTL = "ttl IS NOT NULL AND finished_at IS NOT NULL"
"""Finished tasks with a time of their own for which they are kept."""
Index(
    "ix_tasks_ttl",
    text("(finished_at + ttl)"),
    _table=tasks,
    sqlite_where=text(OWN_TTL),
    postgresql_where=text(OWN_TTL),
)

attempts = Table(
    "attempts",
    metadata,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
    Column("task", _Sequence, nullable=False, index=True, comment="tasks.seq"),
    Column("attempt", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("worker", String(64)),
    Column("error", Text),
)

aliases = Table(
    "aliases",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("task", String(36), nullable=False, index=True, comment="the id of the task that it stands for"),
    Column("owner", String(255), nullable=False),
    Column("reply_to", String(255)),
    Column("at", Float, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("owner", String(255), primary_key=True),
    Column("kind", String(16), primary_key=True, comment="idempotency, unique, replay"),
    Column("name", String(128), primary_key=True),
    Column("task", String(36), nullable=False, index=True, comment="the id of the task that it stands for"),
    Column("until", Float, comment="when it ends; NULL: with its task"),
)

queues = Table("queues", metadata, Column("name", String(64), primary_key=True))

functions = Table(
    "functions",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("heard_at", Float, nullable=False),
)
"""The task functions that workers have named, so that their tasks wait while none of those workers is there."""

quotas = Table(
    "quotas",
    metadata,
    Column("scope", String(8), primary_key=True, comment="queue, task, key"),
    Column("name", String(128), primary_key=True),
    Column("weight", Float, nullable=False),
    Column("rate_count", Integer, comment="how many may be dispatched"),
    Column("rate_per", Float, comment="in so many seconds"),
    Column("concurrency", Integer),
    Column("paused", Boolean(create_constraint=False), nullable=False),
    Column("ageing", Float, comment="seconds of waiting that count as one step of priority"),
)

recent = Table(
    "recent",
    metadata,
    Column("scope", String(8), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("at", Float, primary_key=True, comment="when, rounded up to a hundredth of the rate's span"),
    Column("count", Integer, nullable=False),
)
"""What was dispatched lately where a rate limits it, so that a restart does not exceed the limit."""

changes = Table(
    "changes",
    metadata,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("user", String(255), nullable=False, comment="the broker user"),
    Column("what", String(32), nullable=False, comment="one of a closed set"),
    Column("name", String(128), nullable=False),
    Column("detail", Text, nullable=False),
)

parked = Table(
    "parked",
    metadata,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("origin", String(64), nullable=False, comment="the queue it came from"),
    Column("reason", String(32), nullable=False, comment="one of a closed set; a metrics label"),
    Column("detail", Text, nullable=False, comment="what was wrong, and where"),
    Column("owner", String(255)),
    Column("headers", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
)

marks = Table(
    "marks",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", _Sequence, nullable=False),
)
