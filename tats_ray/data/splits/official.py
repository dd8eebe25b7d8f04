"""Which official split is meant: a labelled set, its split file, and what else that set asks for."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from tats_ray.data.places import settled
from tats_ray.data.splits.diving48 import read_diving48
from tats_ray.data.splits.epic100 import LabelKind, read_epic100
from tats_ray.data.splits.hmdb51 import Part, read_hmdb51
from tats_ray.data.splits.kinetics400 import read_kinetics400
from tats_ray.data.splits.split import Split
from tats_ray.data.splits.ssv2 import read_ssv2
from tats_ray.data.splits.ucf101 import read_ucf101

LabelledSet = Literal["ucf101", "hmdb51", "kinetics400", "ssv2", "diving48", "epic100"]

READERS: dict[LabelledSet, Callable[..., Split]] = {
    "ucf101": read_ucf101,
    "hmdb51": read_hmdb51,
    "kinetics400": read_kinetics400,
    "ssv2": read_ssv2,
    "diving48": read_diving48,
    "epic100": read_epic100,
}
ASKS = {"fold": ("hmdb51", (1, 2, 3)), "part": ("hmdb51", get_args(Part)), "label": ("epic100", get_args(LabelKind))}
"""Settings of one set alone, which must have them, and their values."""


@dataclass(frozen=True)
class OfficialSplit:
    """A split file of a labelled set.

    Example:
        >>> OfficialSplit("hmdb51", "testTrainMulti_7030_splits", fold=1, part="test").read().classes[0]
        'brush_hair'

    Raises:
        ValueError: A setting is none, belongs to another set, or is missing.
    """

    dataset: LabelledSet
    place: str | os.PathLike[str]
    """The split file, or for hmdb51 the folder of all; a path or a URI."""
    classes: str | os.PathLike[str] | None = None
    """The file of classes, a path or a URI; by default the official one beside the split file."""
    fold: int | None = None
    """Of hmdb51: 1, 2 or 3."""
    part: Part | None = None
    """Of hmdb51; the other sets have a file of each part."""
    label: LabelKind | None = None
    """Of epic100."""

    def __post_init__(self) -> None:
        if self.dataset not in READERS:
            raise ValueError(f"the set of a split must be one of {', '.join(READERS)}, got {self.dataset!r}")
        for name, (dataset, values) in ASKS.items():
            value, choices = getattr(self, name), "|".join(map(str, values))
            if self.dataset != dataset and value is not None:
                raise ValueError(f"--{name} {value} is for {dataset}, the split is of {self.dataset}; leave it out")
            if self.dataset == dataset and value is None:
                raise ValueError(f"a split of {dataset} needs --{name} {choices}")
            if value is not None and value not in values:
                raise ValueError(f"--{name} must be {choices}, got {value}")

    def read(self) -> Split:
        """Read the rows and the class names.

        Raises:
            ManifestError: A file is missing or not of the official form.
        """
        asked = {name: getattr(self, name) for name in ASKS if getattr(self, name) is not None}
        classes = None if self.classes is None else settled(self.classes)
        return READERS[self.dataset](settled(self.place), classes=classes, **asked)
