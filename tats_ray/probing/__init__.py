"""What the features of a frozen encoder are worth: extraction, probes on them, their record."""
