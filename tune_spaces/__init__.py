"""Runnable search spaces: base recipe, metric, and the domains of dotted paths."""
