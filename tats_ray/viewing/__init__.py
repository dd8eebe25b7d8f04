"""How trained checkpoints see a video, as pictures."""
