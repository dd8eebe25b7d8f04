"""Kinetics-400 (arXiv 1705.06950): a CSV file of YouTube clips; many of them can no longer be had."""

from tats_ray.data.manifest import ManifestError
from tats_ray.data.splits.files import read_class_names, read_table
from tats_ray.data.splits.split import Split, SplitRow

NUM_CLASSES = 400
COLUMNS = ("label", "youtube_id", "time_start", "time_end")


def read_kinetics400(place: str, *, classes: str | None = None) -> Split:
    """Read a part: ``label,youtube_id,time_start,time_end,split`` a line.

    The file of a clip is called ``<youtube_id>_<start>_<end>``, the seconds by six digits. Labels are the alphabetical
    order of the 400 classes, whose blanks may be underscores.

    Args:
        place: The CSV file of one part, a path or a URI.
        classes: Class names, one a line, in the order of their labels; needed for a file that lacks some of the 400.

    Raises:
        ManifestError: A file is missing or not of this form, mixes parts, or names an unknown class.
    """
    table = read_table(place, columns=COLUMNS)
    parts = sorted({row["split"] for _, row in table if row.get("split")})
    if len(parts) > 1:
        raise ManifestError(f"{place} mixes the parts {', '.join(parts)}; give a file of one of them")
    held = sorted({_class_name(row["label"]) for _, row in table})
    names = held if classes is None else [_class_name(name) for name in read_class_names(classes)]
    if classes is None and len(names) != NUM_CLASSES:
        raise ManifestError(
            f"{place} must hold all {NUM_CLASSES} classes for labels to be the same in every part, it has "
            f"{len(names)}; give the names of all by --classes, one a line"
        )
    label_of = {name: label for label, name in enumerate(names)}
    return Split([_row(where, row, label_of) for where, row in table], names)


def _row(where: str, row: dict[str, str], label_of: dict[str, int]) -> SplitRow:
    name = _class_name(row["label"])
    if name not in label_of:
        raise ManifestError(f"{where}: the class {name!r} is not among the {len(label_of)} of --classes")
    try:
        start, end = (int(float(row[column])) for column in ("time_start", "time_end"))
    except (ValueError, OverflowError):
        given = f"{row['time_start']!r} and {row['time_end']!r}"
        raise ManifestError(f"{where}: time_start and time_end must be seconds, got {given}") from None
    video = f"{row['youtube_id'].strip()}_{start:06d}_{end:06d}"
    return SplitRow(f"{name}/{video}", label_of[name], video, name)


def _class_name(label: str) -> str:
    return label.strip().strip('"').replace("_", " ")
