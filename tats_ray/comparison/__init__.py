"""Samplers compared fairly: what is run, who is better by how much, and the page that says it."""
