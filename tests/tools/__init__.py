"""Tests of what people work with beside the services: the demo, README's code, the pytest plugin, the benchmark."""
