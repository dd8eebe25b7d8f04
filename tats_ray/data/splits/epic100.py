"""EPIC-Kitchens-100 (arXiv 2006.13256): actions in long videos, each of a verb and a noun."""

import re
from typing import Literal

from tats_ray.data.manifest import ManifestError
from tats_ray.data.splits.files import check_label, class_file, numbered, read_table
from tats_ray.data.splits.split import Span, Split, SplitRow

LabelKind = Literal["verb", "noun"]


def read_epic100(place: str, *, label: LabelKind, classes: str | None = None) -> Split:
    """Read a part: a CSV file of actions, each a stretch of ``<video_id>`` from one time stamp to another.

    Actions may overlap. A file called ``<narration_id>`` is taken as the action cut out already. The test part has
    no classes and so no labels.

    Args:
        place: ``EPIC_100_train.csv`` or ``EPIC_100_validation.csv``, a path or a URI.
        label: Which of an action's two classes is its label.
        classes: The CSV file of the 97 verbs or 300 nouns, with ``id`` and ``key``; by default
            ``EPIC_100_verb_classes.csv`` or ``EPIC_100_noun_classes.csv`` beside the part.

    Raises:
        ManifestError: A file is missing or not of this form, or there is no class of a label.
    """
    names = _read_classes(class_file(place, classes, names=(f"EPIC_100_{label}_classes.csv",)))
    column = f"{label}_class"
    rows = []
    for where, row in read_table(
        place, columns=("narration_id", "video_id", "start_timestamp", "stop_timestamp", column)
    ):
        name, video = row["narration_id"].strip(), row["video_id"].strip()
        start, stop = (
            _seconds(row[which], where=f"{where}, {which}") for which in ("start_timestamp", "stop_timestamp")
        )
        if not start < stop:
            raise ManifestError(
                f"{where}: stop_timestamp must be later than start_timestamp, got {stop:g} and {start:g} s"
            )
        number = check_label(row[column], num_classes=len(names), where=f"{where}, {column}")
        rows.append(SplitRow(name, number, video, span=Span(name, start, stop), trimmed=name))
    return Split(rows, names)


def _read_classes(place: str) -> list[str]:
    table = read_table(place, columns=("id", "key"))
    classes: dict[int, str] = {}
    for where, row in table:
        number = check_label(row["id"], num_classes=len(table), where=f"{where}, id")
        if number in classes:
            raise ManifestError(f"{where}: the id {number} is that of {classes[number]!r} already")
        classes[number] = row["key"].strip()
    return numbered(classes, place=place)


def _seconds(stamp: str, *, where: str) -> float:
    """Read ``HH:mm:ss.SS``."""
    found = re.fullmatch(r"(\d+):([0-5]\d):([0-5]\d(?:\.\d+)?)", stamp.strip())
    if found is None:
        raise ManifestError(f"{where} must read HH:mm:ss.SS, got {stamp!r}")
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])
