"""What the workers load: one module a system, each with the same task."""
