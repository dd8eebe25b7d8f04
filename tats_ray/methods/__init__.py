"""A method: modules and the order of one training step."""
