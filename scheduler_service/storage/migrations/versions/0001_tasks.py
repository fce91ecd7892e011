"""Tasks, parked messages, marks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "tasks",
        sa.Column("seq", _sequence, primary_key=True, autoincrement=True, comment="store order"),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("task", sa.String(128), nullable=False),
        sa.Column("queue", sa.String(64), nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("args", sa.Text, nullable=False),
        sa.Column("kwargs", sa.Text, nullable=False),
        sa.Column("owner", sa.String(255), nullable=False, comment="the broker user who submitted it"),
        sa.Column("reply_to", sa.String(255), comment="where the owner is told"),
        sa.Column("submitted_at", sa.Float, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("lease", sa.String(22), nullable=False),
        sa.Column("isolation", sa.String(5), nullable=False),
        sa.Column("crashes", sa.Integer, nullable=False),
        sa.Column("held", sa.Boolean(create_constraint=False), nullable=False),
        sa.Column("unknown_since", sa.Float),
        sa.Column("due_at", sa.Float),
        sa.Column("dispatch", _sequence, nullable=False, comment="number of the current dispatch"),
        sa.Column("dispatched_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        sa.Column("worker", sa.String(64), comment="who answered last"),
        sa.Column("result", sa.Text),
        sa.Column("error", sa.Text),
        sa.UniqueConstraint("id", name="uq_tasks_id"),
    )
    indexes: tuple[tuple[str, list[str | sa.TextClause], str], ...] = (
        ("ix_tasks_queued", ["queue", sa.text("priority DESC"), "seq"], "queued"),
        ("ix_tasks_dispatched", ["dispatch"], "dispatched"),
        ("ix_tasks_due", ["due_at"], "scheduled"),
    )
    for name, columns, state in indexes:
        where = sa.text(f"state = '{state}'")
        op.create_index(name, "tasks", columns, sqlite_where=where, postgresql_where=where)
    op.create_table(
        "parked",
        sa.Column("seq", _sequence, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("origin", sa.String(64), nullable=False, comment="the queue it came from"),
        sa.Column("reason", sa.String(32), nullable=False, comment="one of a closed set; a metrics label"),
        sa.Column("detail", sa.Text, nullable=False, comment="what was wrong, and where"),
        sa.Column("owner", sa.String(255)),
        sa.Column("headers", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
    )
    marks = op.create_table(
        "marks",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", _sequence, nullable=False),
    )
    op.bulk_insert(marks, [{"name": "dispatch.confirmed", "value": 0}])


def downgrade() -> None:
    for table in ("marks", "parked", "tasks"):
        op.drop_table(table)
