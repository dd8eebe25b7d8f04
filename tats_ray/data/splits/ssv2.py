"""Something-Something V2 (arXiv 1706.04261): JSON files of entries whose template is their class."""

from tats_ray.data.manifest import ManifestError
from tats_ray.data.splits.files import check_label, class_file, numbered, read_entries, read_json
from tats_ray.data.splits.split import Split, SplitRow

CLASS_FILES = ("something-something-v2-labels.json", "labels.json")


def read_ssv2(place: str, *, classes: str | None = None) -> Split:
    """Read a part: a list of ``{"id": "78687", "template": "Holding [something] next to [something]", ...}``.

    The class is the template without its brackets. The test part has no templates and so no labels.

    Args:
        place: The JSON file of the train or validation part, a path or a URI.
        classes: The JSON file of classes, ``{"Holding something next to something": "41", ...}``; by default
            ``something-something-v2-labels.json`` or ``labels.json`` beside the part.

    Raises:
        ManifestError: A file is missing or not of this form, or a class is unknown.
    """
    class_place = class_file(place, classes, names=CLASS_FILES)
    names = _read_classes(class_place)
    label_of = {name: label for label, name in enumerate(names)}
    rows = []
    for where, entry in read_entries(place, keys=("id", "template")):
        name = str(entry["template"]).replace("[", "").replace("]", "")
        if name not in label_of:
            raise ManifestError(f"{where}: the class {name!r} is not in {class_place}")
        rows.append(SplitRow(str(entry["id"]), label_of[name], str(entry["id"])))
    return Split(rows, names)


def _read_classes(place: str) -> list[str]:
    given = read_json(place)
    if not isinstance(given, dict) or not given:
        raise ManifestError(f'{place} must be a JSON object of classes and their numbers, {{"Holding something": "0"}}')
    by_number: dict[int, str] = {}
    for name, number in given.items():
        label = check_label(number, num_classes=len(given), where=f"{place}, {name!r}")
        if label in by_number:
            raise ManifestError(f"{place}: {by_number[label]!r} and {name!r} have the same number {label}")
        by_number[label] = name
    return numbered(by_number, place=place)
