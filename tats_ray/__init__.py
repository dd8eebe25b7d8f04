"""Pre-train video encoders on Ray: masked autoencoding with a token sampler learnt by PPO."""

__version__ = "0.1.0"
