"""Metrics and health over HTTP (`common.health.server`), and the command that asks for it (`common.health.cli`)."""
