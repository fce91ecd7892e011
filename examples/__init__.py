"""Task functions to try Warren with."""
