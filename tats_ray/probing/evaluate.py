"""The evaluation of a frozen encoder: what is refused, what is extracted for which task, and the results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tats_ray.config.overrides import ConfigError
from tats_ray.data.guard import GuardConfig
from tats_ray.data.lengths import check_lengths
from tats_ray.data.manifest import Manifest
from tats_ray.probing.checks import Overlaps, check_labels, check_neighbors, check_overlaps
from tats_ray.probing.config import EvaluationConfig, Task
from tats_ray.probing.features import Extract, extract_here, layout_of, plan_extraction, tokens_gib
from tats_ray.probing.frozen import ORDERS, FrozenEncoder, Order
from tats_ray.probing.parts import Extraction
from tats_ray.probing.probes import Probing
from tats_ray.probing.results import Evaluation

FEATURES = Path("evaluations") / "features"
"""Below a run's folder: where its features lie unless one says otherwise."""


@dataclass(frozen=True)
class Prepared:
    """What is known of an evaluation before it starts."""

    plans: Mapping[str, Extraction]
    """What is to be extracted of ``train`` and ``test``."""
    num_classes: int
    overlaps: Overlaps
    tokens_gib: float
    """What the tokens for the attentive probe will take, on the disk and in memory."""


def evaluate(
    frozen: FrozenEncoder,
    train: Manifest,
    test: Manifest,
    tasks: Sequence[Task],
    config: EvaluationConfig,
    *,
    extract: Extract = extract_here,
    features: Path | None = None,
) -> Evaluation:
    """Train probes on the features of one set of videos, and test them on those of another.

    Args:
        frozen: The encoder.
        train: Labelled videos on which the probes learn.
        test: Labelled videos on which they are tested; undecodable ones count as wrong.
        tasks: Which probes, and whether health is looked at.
        config: How.
        extract: Makes features that are not there yet, here or on Ray.
        features: Folder below which they lie; by default in the folder of the run that trained the encoder.

    Raises:
        ManifestError: Labels are missing or do not fit, or test videos were trained on.
        ConfigError: A setting does not fit these videos.
        FeatureError, PartError: No video decodes, or features cannot be written or read.
    """
    ready = prepare(frozen, train, test, tasks, config, features=features)
    plans = ready.plans
    for manifest, extraction in ((train, plans["train"]), (test, plans["test"])):
        extract(frozen, manifest, extraction)
    probing = Probing(
        plans, {"train": train, "test": test}, config, num_classes=ready.num_classes, device=frozen.device
    )
    results = [probing.result(task, ratio) for ratio in config.token_ratios for task in tasks if task != "health"]
    looked = "health" in tasks
    return Evaluation(
        results=results,
        health=probing.health() if looked else {},
        spectra=probing.spectra() if looked else {},
        num_classes=ready.num_classes,
        train_failures=probing.seen["train"].failures,
        test_failures=probing.seen["test"].failures,
        train_held=probing.seen["train"].num_held,
        test_held=probing.seen["test"].num_held,
        overlaps=ready.overlaps,
        extractions=plans,
    )


def prepare(
    frozen: FrozenEncoder,
    train: Manifest,
    test: Manifest,
    tasks: Sequence[Task],
    config: EvaluationConfig,
    *,
    features: Path | None = None,
) -> Prepared:
    """Refuse what can be refused before anything starts; the arguments and errors are those of :func:`evaluate`."""
    plans = plan(frozen, train, test, tasks, config, root=frozen.folder / FEATURES if features is None else features)
    num_classes = check_labels(train, test)
    check_neighbors(train, tasks, config)
    overlaps = check_overlaps(frozen, train, test, allowed=config.allow_overlap)
    for manifest, extraction in ((train, plans["train"]), (test, plans["test"])):
        check_lengths(
            extraction.layout.clip,
            manifest,
            remedy="a checkpoint that was trained on shorter or denser clips, or short_videos=loop",
        )
    return Prepared(plans, num_classes, overlaps, check_room(frozen, plans, config))


def plan(
    frozen: FrozenEncoder,
    train: Manifest,
    test: Manifest,
    tasks: Sequence[Task],
    config: EvaluationConfig,
    *,
    root: Path,
) -> dict[str, Extraction]:
    """Return what is to be extracted of ``train`` and of ``test``."""
    with_tokens = "attentive" in tasks
    looks: list[tuple[float, Order, bool]] = [(ratio, "in_order", with_tokens) for ratio in config.token_ratios]
    other_orders: list[tuple[float, Order, bool]] = [(max(config.token_ratios), order, False) for order in ORDERS[1:]]
    layouts = {
        "train": layout_of(frozen, segments=config.train_segments, crops=1, short_videos=config.short_videos),
        "test": layout_of(frozen, segments=config.segments, crops=config.crops, short_videos=config.short_videos),
    }
    return {
        name: plan_extraction(
            frozen,
            manifest,
            layouts[name],
            looks + (other_orders if name == "test" and "health" in tasks else []),
            root=root,
            seed=config.seed,
            batch=config.batch,
            guard=GuardConfig(decode_seconds=config.decode_seconds, decode_memory_mib=config.decode_memory_mib),
        )
        for name, manifest in (("train", train), ("test", test))
    }


def check_room(frozen: FrozenEncoder, plans: Mapping[str, Extraction], config: EvaluationConfig) -> float:
    """Return the GiB that the tokens will take.

    Raises:
        ConfigError: More than ``features_gib``.
    """
    needed = sum(tokens_gib(frozen, extraction) for extraction in plans.values())
    if needed > config.features_gib:
        raise ConfigError(
            f"the tokens for the attentive probe would take {needed:.3g} GiB on the disk and in memory, more than "
            f"features_gib={config.features_gib:g}; raise that, take fewer views (segments={config.segments}, "
            f"crops={config.crops}, train_segments={config.train_segments}) or token_ratios, or leave the "
            f"task attentive out"
        )
    return needed
