"""Measures Warren beside Celery, Dramatiq and Taskiq: `python -m tests.bench` (not collected by pytest)."""
