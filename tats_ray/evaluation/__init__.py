"""Probes on frozen features: tensors in, scores and numbers out. No videos, no encoders, no files."""
