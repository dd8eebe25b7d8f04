"""From pixels to tokens: the one place that fixes the token order, time first, then rows, then columns."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenGrid:
    """How many tokens a clip has along each axis.

    Token ``n`` lies at time slot ``n // slot_tokens``, row ``n % slot_tokens // width`` and column ``n % width``.

    Example:
        >>> TokenGrid.of(num_frames=16, crop_size=224, tubelet_size=2, patch_size=16)
        TokenGrid(time=8, height=14, width=14)
    """

    time: int
    height: int
    width: int

    @property
    def slot_tokens(self) -> int:
        """Tokens of one time slot."""
        return self.height * self.width

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole clip."""
        return self.time * self.slot_tokens

    @staticmethod
    def of(*, num_frames: int, crop_size: int, tubelet_size: int, patch_size: int) -> "TokenGrid":
        """Divide a square clip into tokens.

        Raises:
            ValueError: A tubelet does not divide the frames, or a patch does not divide the crop.
        """
        if num_frames % tubelet_size:
            raise ValueError(
                f"num_frames must be a multiple of tubelet_size, got {num_frames} frames, tubelets of {tubelet_size}:"
                f" try {max(tubelet_size, num_frames // tubelet_size * tubelet_size)}"
            )
        if crop_size % patch_size:
            raise ValueError(
                f"crop_size must be a multiple of patch_size, got {crop_size} pixels and patches of {patch_size}; "
                f"try {max(patch_size, crop_size // patch_size * patch_size)}"
            )
        side = crop_size // patch_size
        return TokenGrid(time=num_frames // tubelet_size, height=side, width=side)
