"""Sweeps without Ray: what trials left, which of them count, and the page that shows it."""
