"""LVMAE's adaptive tokenizer: video to discrete codes, and which of them matter."""

from tats_ray.tokenizer.fsq import FSQ
from tats_ray.tokenizer.model import AdaptiveTokenizer, Reconstruction, TokenizerConfig, check_window
from tats_ray.tokenizer.scorer import check_importance

__all__ = ["FSQ", "AdaptiveTokenizer", "Reconstruction", "TokenizerConfig", "check_importance", "check_window"]
