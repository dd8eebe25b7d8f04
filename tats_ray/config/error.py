"""The error of a setting; apart, so that what needs no settings can raise it without loading them all."""


class ConfigError(Exception):
    """A configuration that cannot be used; the message names the knob, shows the value, and says the way out."""
