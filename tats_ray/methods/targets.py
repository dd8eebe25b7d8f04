"""What the decoder predicts of a target token, and how wrong it is: normalised pixels, or the code of a tokenizer."""

from typing import Annotated, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from tats_ray.data.batches import ClipBatch
from tats_ray.methods.reconstruction import token_error
from tats_ray.nn.patches import normalized_patches, take_tokens
from tats_ray.tokenizer.fsq import FSQ


class PixelsConfig(BaseModel):
    """The token's pixels, normalised by their own mean and variance (VideoMAE)."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["pixels"] = "pixels"
    """What the decoder predicts."""


class CodesConfig(BaseModel):
    """The token's code by a frozen tokenizer (LVMAE), which ``data.codes`` has of every clip."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["codes"] = "codes"
    """What the decoder predicts."""
    levels: tuple[Annotated[int, Field(ge=2)], ...] = Field(default=(8, 8, 8, 8, 8, 8), min_length=1)
    """Levels of the tokenizer's codes in each dimension."""
    loss: Literal["mse", "cross-entropy"] = "mse"
    """Squared distance to the code, whose dimensions lie in [-1, 1]; or each dimension's level as a class."""


PredictionConfig = Annotated[PixelsConfig | CodesConfig, Field(discriminator="kind")]


class Prediction(Protocol):
    """What is predicted of a token."""

    shows_pixels: bool
    """Whether a prediction can be put back into a picture."""

    def outputs(self, patch_pixels: int) -> int:
        """Return how many numbers the decoder gives for a token."""
        ...

    def error(self, prediction: Tensor, batch: ClipBatch, patches: Tensor, target_idx: Tensor) -> Tensor:
        """Return each token's error, ``[batch, target]`` float32.

        Args:
            prediction: ``[batch, target, outputs]`` with gradient.
            batch: The clips.
            patches: Their pixels cut into tokens, uint8 ``[batch, tokens, pixels]``.
            target_idx: ``[batch, target]``.
        """
        ...


class PixelPrediction:
    """Mean squared error of normalised pixels."""

    shows_pixels = True

    def outputs(self, patch_pixels: int) -> int:
        """Return the pixels of a token."""
        return patch_pixels

    def error(self, prediction: Tensor, batch: ClipBatch, patches: Tensor, target_idx: Tensor) -> Tensor:
        """Return each token's error, in squared standard deviations of its patch."""
        return token_error(prediction, normalized_patches(take_tokens(patches, target_idx)))


class CodePrediction:
    """Mean over a code's dimensions of the squared error, or of the cross-entropy of its level in nats."""

    shows_pixels = False

    def __init__(self, config: CodesConfig) -> None:
        self.config = config
        with torch.device("cpu"):  # constants, of which there is one whatever the model is built on
            self.quantizer = FSQ(config.levels)

    def outputs(self, patch_pixels: int) -> int:
        """Return the dimensions of a code, or the levels of all of them."""
        return len(self.config.levels) if self.config.loss == "mse" else sum(self.config.levels)

    def error(self, prediction: Tensor, batch: ClipBatch, patches: Tensor, target_idx: Tensor) -> Tensor:
        """Return each token's error.

        Raises:
            ValueError: The clips come without codes, or with those of other levels.
        """
        if batch.codes is None:
            raise ValueError("model.prediction.kind=codes needs the codes of every clip; set data.codes")
        index = batch.codes.gather(1, target_idx)
        quantizer = self.quantizer.to(index.device)
        if self.config.loss == "mse":
            return token_error(prediction, quantizer.code(index))
        levels = quantizer.level(index)
        parts = prediction.float().split(list(self.config.levels), dim=-1)
        each = [
            F.cross_entropy(part.flatten(0, 1), levels[..., number].flatten(), reduction="none")
            for number, part in enumerate(parts)
        ]
        return torch.stack(each).mean(0).unflatten(0, index.shape)


def prediction_of(config: PixelsConfig | CodesConfig) -> Prediction:
    """Return what a configuration describes."""
    return CodePrediction(config) if isinstance(config, CodesConfig) else PixelPrediction()
