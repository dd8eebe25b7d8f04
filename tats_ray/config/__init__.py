"""A run's configuration: composed, read, changed by dotted path, written."""
