"""`make demo`: the main job on real input with real parts, one of which is killed half-way."""
