"""HMDB51 (Kuehne et al. 2011): a folder of ``<class>_test_split<fold>.txt``, of three folds."""

import re
from typing import Literal

from tats_ray.data.manifest import ManifestError
from tats_ray.data.places import PlaceError, is_folder, walked
from tats_ray.data.splits.files import read_class_names, read_lines
from tats_ray.data.splits.split import Split, SplitRow

NUM_CLASSES = 51
CODES = {"0": None, "1": "train", "2": "test"}  # 0 is in neither part of this fold

Part = Literal["train", "test"]


def read_hmdb51(folder: str, *, fold: int, part: Part, classes: str | None = None) -> Split:
    """Read one part of a fold: files of ``video.avi 1`` a line, where 1 is train, 2 test and 0 neither.

    Labels are the alphabetical order of the 51 classes. Rows are in that order too, and within a class in that of its
    file.

    Args:
        folder: The folder of all folds, a path or a URI.
        fold: 1, 2 or 3.
        part: Which one.
        classes: Class names, one a line, for a folder that does not have the files of all 51.

    Raises:
        ManifestError: Files are missing or not of this form, or a class is unknown.
    """
    files = _files(folder, fold)
    names = sorted(files) if classes is None else read_class_names(classes)
    if classes is None and len(names) != NUM_CLASSES:
        raise ManifestError(
            f"{folder} must hold <class>_test_split{fold}.txt of {NUM_CLASSES} classes, it has those of {len(names)}; "
            f"complete it, or give the names of all classes by --classes, one a line"
        )
    unknown = sorted(set(files) - set(names))
    if unknown:
        raise ManifestError(f"{files[unknown[0]]}: the class {unknown[0]!r} is not in {classes}")
    rows = []
    for name in sorted(files):
        for where, line in read_lines(files[name]):
            found = re.fullmatch(r"(?P<video>\S.*)\.avi\s+(?P<code>[012])", line)
            if found is None:
                raise ManifestError(f"{where} must read 'video.avi' and 0, 1 or 2, got {line!r}")
            if CODES[found["code"]] == part:
                rows.append(SplitRow(f"{name}/{found['video']}.avi", names.index(name), found["video"], name))
    if not rows:
        raise ManifestError(f"{folder} lists no video of the part {part} of fold {fold}")
    return Split(rows, names)


def _files(folder: str, fold: int) -> dict[str, str]:
    """Return the split files of a fold, by class."""
    try:
        if not is_folder(folder):
            raise ManifestError(f"hmdb51 is split by a folder of <class>_test_split<fold>.txt; {folder} is no folder")
        held = [(place, name) for place, _, names in walked(folder) for name in names]
    except PlaceError as error:
        raise ManifestError(str(error)) from error
    files: dict[str, str] = {}
    for place, name in held:
        found = re.fullmatch(rf"(.+)_test_split{fold}\.txt", name)
        if found is None:
            continue
        if found[1] in files:
            raise ManifestError(f"{folder} holds {name} twice: {files[found[1]]} and {place}/{name}; keep one")
        files[found[1]] = f"{place}/{name}"
    if not files:
        raise ManifestError(f"{folder} holds no file <class>_test_split{fold}.txt")
    return files
