"""Diving48 (Li, Li and Vasconcelos 2018), whose labels of version 2 are the corrected ones."""

from tats_ray.data.manifest import ManifestError
from tats_ray.data.splits.files import check_label, class_file, distinct, read_entries, read_json
from tats_ray.data.splits.split import Split, SplitRow

CLASS_FILES = ("Diving48_vocab.json",)


def read_diving48(place: str, *, classes: str | None = None) -> Split:
    """Read a part: a list of ``{"vid_name": "js2ub3aTJwI_00174", "label": 39, "start_frame": 0, "end_frame": 123}``.

    The file of a dive holds that dive alone, so its frames are all taken.

    Args:
        place: ``Diving48_V2_train.json`` or ``Diving48_V2_test.json``, a path or a URI.
        classes: The JSON list of classes, each a list of takeoff, somersaults, twists and position; by default
            ``Diving48_vocab.json`` beside the part.

    Raises:
        ManifestError: A file is missing or not of this form, or there is no class of a label.
    """
    names = _read_classes(class_file(place, classes, names=CLASS_FILES))
    rows = []
    for where, entry in read_entries(place, keys=("vid_name", "label")):
        label = check_label(entry["label"], num_classes=len(names), where=where)
        rows.append(SplitRow(str(entry["vid_name"]), label, str(entry["vid_name"])))
    return Split(rows, names)


def _read_classes(place: str) -> list[str]:
    given = read_json(place)
    if not isinstance(given, list) or not given or not all(isinstance(parts, list | str) and parts for parts in given):
        raise ManifestError(f'{place} must be a JSON list of classes, [["Back", "15som", "05Twis", "FREE"], ...]')
    return distinct([parts if isinstance(parts, str) else " ".join(map(str, parts)) for parts in given], place=place)
