"""UCF101 (arXiv 1212.0402): ``trainlist0N.txt`` and ``testlist0N.txt``, of three splits."""

import re

from tats_ray.data.manifest import ManifestError
from tats_ray.data.splits.files import class_file, numbered, read_lines
from tats_ray.data.splits.split import Split, SplitRow

CLASS_FILES = ("classInd.txt",)


def read_ucf101(place: str, *, classes: str | None = None) -> Split:
    """Read a list: ``ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1`` a line, the number from 1; test lists have none.

    Args:
        place: The list, a path or a URI.
        classes: ``classInd.txt``, of ``1 ApplyEyeMakeup`` a line; the one beside the list by default.

    Raises:
        ManifestError: A file is missing or not of this form, a class is unknown, or a number is not that of the class.
    """
    class_place = class_file(place, classes, names=CLASS_FILES)
    names = _read_classes(class_place)
    label_of = {name: label for label, name in enumerate(names)}
    rows = []
    for where, line in read_lines(place):
        found = re.fullmatch(r"(?P<folder>[^/]+)/(?P<video>[^/]+)\.avi(\s+(?P<number>\S+))?", line)
        if found is None:
            raise ManifestError(f"{where} must read 'Class/video.avi' and perhaps a number, got {line!r}")
        folder, number = found["folder"], found["number"]
        if folder not in label_of:
            raise ManifestError(f"{where}: the class {folder!r} is not in {class_place}")
        if number is not None and number != str(label_of[folder] + 1):
            raise ManifestError(
                f"{where}: {folder} is number {label_of[folder] + 1} in {class_place}, the line says {number}"
            )
        rows.append(SplitRow(f"{folder}/{found['video']}.avi", label_of[folder], found["video"], folder))
    return Split(rows, names)


def _read_classes(place: str) -> list[str]:
    classes: dict[int, str] = {}
    for where, line in read_lines(place):
        found = re.fullmatch(r"(\d+)\s+(\S+)", line)
        if found is None or int(found[1]) in classes:
            raise ManifestError(f"{where} must read '1 ApplyEyeMakeup', every number once, got {line!r}")
        classes[int(found[1])] = found[2]
    return numbered(classes, place=place, first=1)
