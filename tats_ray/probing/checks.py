"""What an evaluation refuses before anything is extracted."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tats_ray.config.overrides import ConfigError
from tats_ray.data.manifest import Manifest, ManifestError
from tats_ray.probing.config import EvaluationConfig, Task
from tats_ray.probing.frozen import FrozenEncoder

SHOWN = 3
"""Examples in a message."""


@dataclass(frozen=True)
class Overlaps:
    """Test videos that were seen before."""

    pretraining: int
    """By the encoder, in pre-training."""
    train: int
    """By the probes."""


def check_labels(train: Manifest, test: Manifest) -> int:
    """Return the number of classes: one more than the largest label.

    Raises:
        ManifestError: A video has no label or a negative one, a class of the test is absent in training, or training
            has one class only.
    """
    classes = [_classes(manifest) for manifest in (train, test)]
    if absent := sorted(classes[1] - classes[0]):
        raise ManifestError(
            f"{_some('class', 'classes', absent)} of {test.name} {'is' if len(absent) == 1 else 'are'} absent in "
            f"{train.name}, so no probe can know {'it' if len(absent) == 1 else 'them'}; add training videos of "
            f"{'it' if len(absent) == 1 else 'them'}, or leave these test videos out"
        )
    if len(classes[0]) < 2:
        raise ManifestError(
            f"{train.name} has one class only ({min(classes[0])}), and there is nothing to tell apart; give it videos "
            f"of two classes at least"
        )
    return max(classes[0]) + 1


def check_neighbors(train: Manifest, tasks: Sequence[Task], config: EvaluationConfig) -> None:
    """Refuse more neighbours than there are rows.

    Raises:
        ConfigError: It is so.
    """
    rows = len(train) * config.train_segments
    if "knn" in tasks and config.knn.neighbors > rows:
        raise ConfigError(
            f"knn.neighbors must be at most the {rows} rows to train on, got {config.knn.neighbors}; lower it, or "
            f"train on more videos"
        )


def check_overlaps(frozen: FrozenEncoder, train: Manifest, test: Manifest, *, allowed: bool) -> Overlaps:
    """Count test videos that the encoder or the probes were trained on, told by the hash of their bytes.

    Windows of one file count as the same video.

    Raises:
        ManifestError: There are some and they are not allowed, or the manifest of the pre-training is not there.
    """
    found = {"train": _shared(test, train)}
    assert frozen.run.data.manifest is not None
    try:
        found["pretraining"] = _shared(test, Manifest.read_all(frozen.run.data.manifest))
    except ManifestError as error:
        if not allowed:
            raise ManifestError(
                f"whether the encoder was trained on test videos cannot be told: {error}. Put the manifest of "
                f"{frozen.folder} back, or go on without that knowledge by allow_overlap=true"
            ) from error
        found["pretraining"] = []
    told = {"train": f"in {train.name} too", "pretraining": f"among those that {frozen.folder} was pre-trained on"}
    for name, shared in found.items():
        if shared and not allowed:
            examples = ", ".join(test.record(row).source.name for row in shared[:SHOWN])
            more = ", ..." if len(shared) > SHOWN else ""
            raise ManifestError(
                f"{len(shared)} of {len(test)} test videos of {test.name} are {told[name]}: {examples}{more}; leave "
                f"them out, or test on them all the same by allow_overlap=true"
            )
    return Overlaps(pretraining=len(found["pretraining"]), train=len(found["train"]))


def _classes(manifest: Manifest) -> set[int]:
    labels = manifest.table["label"].to_pylist()
    unlabelled = [row for row, label in enumerate(labels) if label is None]
    if unlabelled:
        examples = ", ".join(manifest.record(row).source.name for row in unlabelled[:SHOWN])
        more = ", ..." if len(unlabelled) > SHOWN else ""
        raise ManifestError(
            f"{len(unlabelled)} of {len(labels)} videos of {manifest.name} have no label: {examples}{more}; index a "
            f"list of paths and labels: python pipelines/index_videos.py LIST --out {manifest.name}"
        )
    if min(labels) < 0:
        worst = manifest.record(labels.index(min(labels)))
        raise ManifestError(
            f"labels of {manifest.name} must be class numbers from 0, got {worst.label} for {worst.source.name}; "
            f"number the classes anew and index again"
        )
    return set(labels)


def _shared(test: Manifest, other: Manifest) -> list[int]:
    """Return the rows of ``test`` whose video is in ``other``: of equal bytes, or of one id where bytes are unknown."""
    known = Counter([*other.table["content"].to_pylist(), *other.table["id"].to_pylist()])
    del known[None]
    names = zip(test.table["content"].to_pylist(), test.table["id"].to_pylist(), strict=True)
    return [row for row, (content, name) in enumerate(names) if content in known or name in known]


def _some(one: str, many: str, numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")
    return f"{one if len(numbers) == 1 else many} {shown}"
