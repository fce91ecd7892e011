"""The life of a task: delays, expiry, options, history of attempts, aliases, keys, and the work queues ever made."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("failures", sa.Integer, nullable=False, server_default="0", comment="retries that were spent"),
        sa.Column("expires_at", sa.Float, comment="by when it has to be started"),
        sa.Column("options", sa.Text, comment="as submitted, JSON"),
        sa.Column("ttl", sa.Float, comment="seconds for which it is kept after its end; NULL: as the setting says"),
        sa.Column("key", sa.String(128), comment="whose task it is, for fairness"),
        sa.Column("aliased", sa.Boolean(create_constraint=False), nullable=False, server_default=sa.false()),
    ]


_WAITING = "expires_at IS NOT NULL AND state IN ('queued', 'scheduled')"
_INDEXES: tuple[tuple[str, list[str | sa.TextClause], str], ...] = (
    ("ix_tasks_due", ["due_at", "queue"], "state = 'scheduled'"),
    ("ix_tasks_expiring", ["expires_at"], _WAITING),
    ("ix_tasks_failed", ["seq"], "state = 'failed'"),
    ("ix_tasks_ttl", [sa.text("(finished_at + ttl)")], "ttl IS NOT NULL AND finished_at IS NOT NULL"),
)


def upgrade() -> None:
    for column in _columns():
        op.add_column("tasks", column)
    op.drop_index("ix_tasks_due", "tasks")
    for name, columns, condition in _INDEXES:
        where = sa.text(condition)
        op.create_index(name, "tasks", columns, sqlite_where=where, postgresql_where=where)
    op.create_table(
        "attempts",
        sa.Column("seq", _sequence, primary_key=True, autoincrement=True),
        sa.Column("task", _sequence, nullable=False, comment="tasks.seq"),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("worker", sa.String(64)),
        sa.Column("error", sa.Text),
    )
    op.create_index("ix_attempts_task", "attempts", ["task"])
    op.create_table(
        "aliases",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("task", sa.String(36), nullable=False, comment="the id of the task that it stands for"),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("reply_to", sa.String(255)),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_index("ix_aliases_task", "aliases", ["task"])
    op.create_table(
        "keys",
        sa.Column("owner", sa.String(255), primary_key=True),
        sa.Column("kind", sa.String(16), primary_key=True, comment="idempotency, unique, replay"),
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("task", sa.String(36), nullable=False, comment="the id of the task that it stands for"),
        sa.Column("until", sa.Float, comment="when it ends; NULL: with its task"),
    )
    op.create_index("ix_keys_task", "keys", ["task"])
    op.create_table("queues", sa.Column("name", sa.String(64), primary_key=True))


def downgrade() -> None:
    for table in ("queues", "keys", "aliases", "attempts"):
        op.drop_table(table)
    for name, _, _ in _INDEXES:
        op.drop_index(name, "tasks")
    where = sa.text("state = 'scheduled'")
    op.create_index("ix_tasks_due", "tasks", ["due_at"], sqlite_where=where, postgresql_where=where)
    for column in reversed(_columns()):
        op.drop_column("tasks", column.name)
