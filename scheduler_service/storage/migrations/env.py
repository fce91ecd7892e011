"""Run by Alembic; the connection comes from `scheduler_service.storage.migrate`."""

from alembic import context

from scheduler_service.storage.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
