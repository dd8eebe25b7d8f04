"""Reward into gradient: tensors only, no video."""
