"""All settings of the data as one."""

from typing import Literal, Self

from pydantic import Field, field_serializer, field_validator, model_validator

from tats_ray.data.cache import CacheConfig
from tats_ray.data.clips import ClipConfig
from tats_ray.data.manifest import WeightedManifest


class DataConfig(ClipConfig, CacheConfig):
    """Which videos, and how clips are taken from them."""

    manifest: tuple[WeightedManifest, ...] | None = None
    """Manifest of pipelines/index_videos.py, or several: [{path: a.parquet, weight: 2}, {path: b.parquet}]; the weight
    (default 1) is how often each of its videos comes in an epoch."""
    codes: str | None = None
    """Folder of pipelines/encode_clips.py: the run then takes the clips that were encoded, just as they were, one of a
    video's at random, and their codes with them; null draws clips of its own."""
    tokenizer: str | None = None
    """Content hash of the tokenizer that codes must be of; null takes the one that made them, and a resumed run keeps
    to it."""
    held_out: int = Field(default=64, ge=1)
    """Videos never trained on, for validation; at most a fifth of all."""
    max_failed_share: float = Field(default=0.05, ge=0, le=1)
    """The run stops when more than this share of its clips could not be decoded; these are left out and listed."""
    on_error: Literal["skip", "fail"] = "skip"
    """A clip that could not be decoded is left out and listed (skip), or ends the run (fail)."""

    @model_validator(mode="after")
    def _codes_are_of_their_clips(self) -> Self:
        if self.codes is None and self.tokenizer is not None:
            raise ValueError(f"data.tokenizer={self.tokenizer} says whose codes data.codes are, which is not set")
        if self.codes is not None and (self.flip or self.views_per_decode > 1):
            raise ValueError(
                f"data.codes are of clips that were cut before, so data.flip must be false and data.views_per_decode "
                f"1, got {str(self.flip).lower()} and {self.views_per_decode}; encode mirrored clips and more of them "
                f"with pipelines/encode_clips.py data.flip=true data.segments=8 data.crops=3"
            )
        return self

    @field_validator("manifest", mode="before")
    @classmethod
    def _paths_alone(cls, given: object) -> object:
        """A path stands for a list of one, an entry that is a path for one of weight 1."""
        if given is None:
            return None
        entries = [given] if isinstance(given, str) else given
        if not isinstance(entries, list | tuple) or not entries:
            raise ValueError(f"data.manifest must be a path or a list of {{path, weight}}, got {given!r}")
        return [{"path": entry} if isinstance(entry, str) else entry for entry in entries]

    @field_serializer("manifest")
    def _as_given(self, manifest: tuple[WeightedManifest, ...] | None) -> str | list[dict[str, object]] | None:
        if manifest is not None and len(manifest) == 1 and manifest[0].weight == 1:
            return manifest[0].path
        return None if manifest is None else [entry.model_dump() for entry in manifest]
