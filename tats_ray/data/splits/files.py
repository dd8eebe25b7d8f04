"""The text, CSV and JSON files that splits are written in; an error names the file and the line."""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tats_ray.data.manifest import ManifestError
from tats_ray.data.places import PlaceError, exists, parent, read_bytes


def read_text(place: str) -> str:
    """Read a text file in UTF-8, at a path or a URI.

    Raises:
        ManifestError: It is missing, cannot be read, or is no text.
    """
    try:
        return read_bytes(place).decode("utf-8-sig")
    except FileNotFoundError:
        raise ManifestError(f"no such split or class file: {place}") from None
    except PlaceError as error:
        raise ManifestError(str(error)) from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{place} is not a text file in UTF-8: {error}") from error


def read_lines(place: str) -> list[tuple[str, str]]:
    """Return the lines of a file that are not blank, each with its place for messages.

    Raises:
        ManifestError: The file cannot be read, or has no lines.
    """
    lines = enumerate(read_text(place).splitlines(), 1)
    found = [(f"{place}, line {number}", line.strip()) for number, line in lines if line.strip()]
    if not found:
        raise ManifestError(f"{place} is empty")
    return found


def read_table(place: str, *, columns: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """Return the rows of a CSV file with a header, each with its place for messages.

    Raises:
        ManifestError: The file cannot be read, lacks a column or a value in one, or has no rows.
    """
    reader = csv.DictReader(read_text(place).splitlines(), restval="")
    try:
        header = list(reader.fieldnames or [])
        found = [(f"{place}, line {reader.line_num}", row) for row in reader]
    except csv.Error as error:
        raise ManifestError(f"{place} is not a CSV file: {error}") from error
    if not set(columns) <= set(header):
        raise ManifestError(f"{place} must be a CSV file with the columns {list(columns)}, it has {header}")
    for where, row in found:
        for column in columns:
            if not row[column].strip():
                raise ManifestError(f"{where}: {column} is empty")
    if not found:
        raise ManifestError(f"{place} has a header and no rows")
    return found


def read_json(place: str) -> Any:
    """Read a JSON file.

    Raises:
        ManifestError: The file cannot be read, or is not JSON.
    """
    try:
        return json.loads(read_text(place))
    except ValueError as error:
        raise ManifestError(f"{place} is not a JSON file: {error}") from error


def read_entries(place: str, *, keys: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Return the entries of a JSON list of objects, each with its place for messages; entries count from 0.

    Raises:
        ManifestError: The file cannot be read, is no such list, has no entry, or one lacks a key.
    """
    given = read_json(place)
    if not isinstance(given, list) or not given:
        raise ManifestError(f"{place} must be a JSON list of objects with {list(keys)}, it is {_kind(given)}")
    for number, entry in enumerate(given):
        if not isinstance(entry, dict) or any(key not in entry for key in keys):
            held = list(entry) if isinstance(entry, dict) else _kind(entry)
            raise ManifestError(f"{place}, entry {number} must have {list(keys)}, it has {held}")
    return [(f"{place}, entry {number}", entry) for number, entry in enumerate(given)]


def class_file(place: str, given: str | None, *, names: Sequence[str]) -> str:
    """Return the class file that is given, or the official one beside a split file.

    Raises:
        ManifestError: None is given, and there is none of these ``names``.
    """
    beside = [f"{parent(place)}/{name}" for name in names]
    try:
        found = given or next(filter(exists, beside), None)
    except PlaceError as error:
        raise ManifestError(str(error)) from error
    if found is None:
        raise ManifestError(f"no class file {' or '.join(names)} beside {place}; put it there, or give it by --classes")
    return found


def read_class_names(place: str) -> list[str]:
    """Read class names, one a line, in the order of their labels: as they are written beside a manifest.

    Raises:
        ManifestError: The file cannot be read, is empty, or names a class twice.
    """
    names = [name for _, name in read_lines(place)]
    return distinct(names, place=place)


def distinct(names: list[str], *, place: str) -> list[str]:
    """Return the names if each is there once.

    Raises:
        ManifestError: One is there twice.
    """
    for name, count in Counter(names).most_common(1):
        if count > 1:
            raise ManifestError(f"{place} names the class {name!r} {count} times; name each once")
    return names


def numbered(classes: dict[int, str], *, place: str, first: int = 0) -> list[str]:
    """Return names in the order of their numbers, which must be all from ``first`` on.

    Raises:
        ManifestError: A number is left out, or a name is there twice.
    """
    wanted = range(first, first + len(classes))
    if sorted(classes) != list(wanted):
        left_out = min(set(wanted) - set(classes))
        raise ManifestError(f"{place} must number its {len(classes)} classes from {first} on, {left_out} is left out")
    return distinct([classes[number] for number in wanted], place=place)


def check_label(label: object, *, num_classes: int, where: str) -> int:
    """Return a label if it is one.

    Raises:
        ManifestError: It is no integer, or there is no such class.
    """
    try:
        number = int(label) if isinstance(label, int | str) and not isinstance(label, bool) else None
    except ValueError:
        number = None
    if number is None or not 0 <= number < num_classes:
        raise ManifestError(
            f"{where}: the label must be an integer from 0 to {num_classes - 1}, as there are {num_classes} classes, "
            f"got {label!r}"
        )
    return number


def _kind(given: object) -> str:
    return f"an empty {type(given).__name__}" if given in ([], {}, "") else type(given).__name__
