"""Cached codes as runs read them: row by row, and of the very clip that is asked for."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tats_ray.data.clips import ClipConfig
from tats_ray.data.code_rows import GROUP, VERSION, Coded, CodesAbout, CodesError, Cut, pixels_of
from tats_ray.data.manifest import Manifest, VideoRecord
from tats_ray.data.part_files import part_file
from tats_ray.data.scaling import Crop

_KEY = ("video", "start", "crop", "flip", "tokenizer", "reason")
_GROUPS_KEPT = 64


class CodeCache:
    """The codes of a folder, read row by row as they are asked for.

    Example:
        >>> cache = CodeCache.open(Path("codes"), tokenizer=digest, clip=run.data)
        >>> [cut] = cache.cuts(record)
        >>> coded = cache.read(record, cut)
    """

    def __init__(self, folder: Path, about: CodesAbout) -> None:
        """Index the rows of a folder that is known to be complete; :meth:`open` checks that."""
        self.folder = folder
        self.about = about
        self._places: dict[str, dict[Cut, tuple[int, int]]] = {}
        self._lost: dict[str, str] = {}
        for number in range(about.parts):
            self._index(number)
        self._group = lru_cache(_GROUPS_KEPT)(self._read_group)

    @classmethod
    def open(cls, folder: Path, *, clip: ClipConfig, tokenizer: str | None = None) -> "CodeCache":
        """Open a folder for a run.

        Args:
            folder: What pipelines/encode_clips.py wrote.
            clip: The clips of the run.
            tokenizer: Content hash of the tokenizer that the run names, if it names any.

        Raises:
            CodesError: The codes are of another tokenizer or of other clips, or a part is missing or damaged.
        """
        about = CodesAbout.read(folder)
        if about.version != VERSION:
            raise CodesError(f"{folder} is of version {about.version}, this is {VERSION}; encode the clips again")
        if tokenizer is not None and tokenizer != about.tokenizer:
            raise CodesError(
                f"the codes of {folder} are of the tokenizer {about.tokenizer[:12]}, not of {tokenizer[:12]}; name the "
                f"tokenizer that made them, or encode the clips again"
            )
        wanted = pixels_of(clip)
        if differing := [
            f"data.{name} is {wanted[name]!r}, was {about.clip[name]!r}"
            for name in wanted
            if wanted[name] != about.clip[name]
        ]:
            raise CodesError(f"the codes of {folder} are of other clips: {'; '.join(differing)}; encode these clips")
        missing = [number for number in range(about.parts) if not part_file(folder, number).exists()]
        if missing:
            raise CodesError(
                f"{len(missing)} of {about.parts} parts are missing in {folder}, the first is "
                f"{part_file(folder, missing[0]).name}; the same pipelines/encode_clips.py makes the missing ones"
            )
        return cls(folder, about)

    @property
    def lost(self) -> Mapping[str, str]:
        """Ids of the videos that could not be decoded, and why."""
        return self._lost

    @property
    def num_videos(self) -> int:
        """Videos with codes."""
        return len(self._places)

    @property
    def num_clips(self) -> int:
        """Clips with codes."""
        return sum(map(len, self._places.values()))

    def cuts(self, record: VideoRecord) -> Sequence[Cut]:
        """Return the clips of a video that are there, in order.

        Raises:
            CodesError: The video has no rows, or did not decode when it was to be encoded.
        """
        return list(self._of(record))

    def middle(self, record: VideoRecord) -> Cut:
        """Return the clip in the middle of those of a video that are not mirrored.

        Raises:
            CodesError: As :meth:`cuts`.
        """
        plain = [cut for cut in self.cuts(record) if not cut.flip]
        return plain[len(plain) // 2]

    def check(self, manifest: Manifest) -> None:
        """See that every video of a manifest has codes, or did not decode when it was to be encoded.

        Raises:
            CodesError: Some have neither.
        """
        ids = manifest.table["id"].to_pylist()
        without = [row for row, video in enumerate(ids) if video not in self._places and video not in self._lost]
        if without:
            raise CodesError(
                f"{self.folder} has no codes of {len(without)} of the {len(ids)} videos of {manifest.name}, the first "
                f"is {manifest.record(without[0]).source.name}; encode this manifest with pipelines/encode_clips.py"
            )

    def read(self, record: VideoRecord, cut: Cut) -> Coded:
        """Return what was made of a clip.

        Raises:
            CodesError: There is no row of this very clip, or it does not hold what it should.
        """
        places = self._of(record)
        if cut not in places:
            near = min(places, key=lambda one: _distance(one, cut))
            raise CodesError(
                f"{self.folder} has no codes of {record.source.name} for {cut}; the nearest is {near}. Codes are of "
                f"the pixels that were encoded, so take one of its clips, or encode this one"
            )
        number, row = places[cut]
        found = self._group(number, row // GROUP)[row % GROUP]
        codes, importance = np.asarray(found["codes"], np.int32), np.asarray(found["importance"], np.float16)
        tokens, size = self.about.tokens, int(np.prod(self.about.levels))
        fits = len(codes) == len(importance) == tokens and 0 <= codes.min() <= codes.max() < size
        if not fits or not np.isfinite(importance).all():
            raise CodesError(
                f"{part_file(self.folder, number)} is damaged: row {row} does not hold {tokens} codes below {size} and "
                f"as many finite importances; remove the file and encode the clips again, which makes the missing part"
            )
        return Coded(codes, importance)

    def _of(self, record: VideoRecord) -> dict[Cut, tuple[int, int]]:
        if record.id in self._lost:
            raise CodesError(f"{record.source.name} could not be encoded: {self._lost[record.id]}")
        if record.id not in self._places:
            raise CodesError(
                f"{self.folder} has no codes of {record.source.name} (id {record.id}); encode the manifest it is in"
            )
        return self._places[record.id]

    def _index(self, number: int) -> None:
        file = part_file(self.folder, number)
        try:
            rows = pq.read_table(file, columns=list(_KEY)).to_pylist()
        except (OSError, pa.ArrowException, KeyError) as error:
            raise CodesError(f"{file} cannot be read ({error}); remove it and encode the clips again") from error
        for place, row in enumerate(rows):
            if row["tokenizer"] != self.about.tokenizer:
                raise CodesError(
                    f"{file} holds codes of the tokenizer {row['tokenizer'][:12]} among those of "
                    f"{self.about.tokenizer[:12]}; remove it and encode the clips again"
                )
            if row["reason"]:
                self._lost[row["video"]] = row["reason"]
            else:
                cut = Cut(row["start"], Crop(*row["crop"]), row["flip"])
                self._places.setdefault(row["video"], {})[cut] = (number, place)

    def _read_group(self, number: int, group: int) -> list[dict[str, Any]]:
        file = part_file(self.folder, number)
        try:
            return pq.ParquetFile(file).read_row_group(group, columns=["codes", "importance"]).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise CodesError(f"{file} cannot be read ({error}); remove it and encode the clips again") from error


def _distance(one: Cut, other: Cut) -> tuple[float, int, bool]:
    sides = zip(vars(one.crop).values(), vars(other.crop).values(), strict=True)
    return abs(one.start - other.start), sum(abs(a - b) for a, b in sides), one.flip != other.flip
