"""The tables.

Text and numbers only, and no type that needs work for each value: a task is written once and updated once on the
fast path. Times are seconds since the epoch (UTC) by the scheduler's clock. The partial indexes hold only what is
unfinished, so a large history costs the hot path nothing.
"""

from __future__ import annotations

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
    text,
)

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
)
Index(
    "ix_tasks_queued",
    tasks.c.queue,
    tasks.c.priority.desc(),
    tasks.c.seq,
    sqlite_where=text("state = 'queued'"),
    postgresql_where=text("state = 'queued'"),
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
    sqlite_where=text("state = 'scheduled'"),
    postgresql_where=text("state = 'scheduled'"),
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
