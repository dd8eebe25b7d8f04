"""What an evaluation leaves: a folder of its own below its run, and a child of the run's record in MLflow.

``<run>/evaluations/<number>/``
    ``evaluation.json``        every figure, setting and hash
    ``scores.parquet``         a row for each test video and probe
    ``confusion_<probe>.png``, ``spectrum.png``
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from tats_ray.claims import new_number
from tats_ray.config.labels import describe_evaluation, named_videos, sampler_tags
from tats_ray.config.overrides import ConfigError
from tats_ray.copies import where
from tats_ray.data.manifest import Manifest
from tats_ray.data.part_files import PartError
from tats_ray.data.places import is_uri
from tats_ray.interruption import Ending, recorded
from tats_ray.mirror import remove, send
from tats_ray.probing.config import EvaluationConfig, Task
from tats_ray.probing.frozen import FrozenEncoder
from tats_ray.probing.results import Evaluation
from tats_ray.tracking.base import DatasetRecord, RunHandle, TrackingError
from tats_ray.tracking.charts import confusion_chart, spectrum_chart
from tats_ray.tracking.mlflow import MlflowTracker, end_run, open_run
from tats_ray.tracking.store import without_credentials

_logger = logging.getLogger(__name__)

SCORES = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("label", pa.int64()),
        ("task", pa.string()),
        ("token_ratio", pa.float64()),
        ("predicted", pa.int64()),
        ("scores", pa.list_(pa.float32())),
        ("num_views", pa.int64()),
        ("reason", pa.string()),
    ]
)
"""Columns of ``scores.parquet``; an undecodable video has null for ``predicted`` and ``scores``, and a ``reason``."""


@dataclass(frozen=True)
class Recorded:
    """An evaluation and where it is recorded."""

    evaluation: Evaluation
    folder: Path
    handle: RunHandle
    files: Sequence[Path]


def conduct_evaluation(
    frozen: FrozenEncoder,
    train: Manifest,
    test: Manifest,
    tasks: Sequence[Task],
    config: EvaluationConfig,
    *,
    run: Callable[[], Evaluation],
) -> Recorded:
    """Evaluate within a child of the MLflow run that made the checkpoint, and write what was found.

    Args:
        frozen: The encoder.
        train: On which the probes learn.
        test: On which they are tested.
        tasks: Asked for.
        config: Settings.
        run: Evaluates; whatever it raises is recorded, and raised.

    Raises:
        ConfigError: A file of class names does not fit, or nothing can be written beside the checkpoint.
        TrackingError: The store does not answer.
    """
    names = class_names(train, test)
    with _new_folder(frozen.folder / "evaluations") as folder:
        handle = _open(frozen, train, test, tasks, config, folder)
        with recorded(lambda ending, reason: _close(handle, ending, reason)):
            evaluation = run()
            files = write_evaluation(evaluation, frozen, train, test, config, folder=folder, handle=handle, names=names)
            tracker = MlflowTracker(handle)
            tracker.log_metrics(evaluation.metrics(), step=frozen.step)
            for file in files:
                tracker.log_file(file, folder="evaluation")
                send(file)
            tracker.close()
    return Recorded(evaluation, folder, handle, files)


def write_evaluation(
    evaluation: Evaluation,
    frozen: FrozenEncoder,
    train: Manifest,
    test: Manifest,
    config: EvaluationConfig,
    *,
    folder: Path,
    handle: RunHandle | None,
    names: Sequence[str] | None,
) -> list[Path]:
    """Write figures, scores and pictures to a folder; return the files."""
    names = names or [str(number) for number in range(evaluation.num_classes)]
    if len(names) < evaluation.num_classes:
        raise ConfigError(
            f"the file of class names has {len(names)} lines, and there are {evaluation.num_classes} classes; line n "
            f"names class n, counted from 0"
        )
    files = [folder / "evaluation.json", folder / "scores.parquet"]
    content = _content(evaluation, frozen, train, test, config, handle)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files[0].write_text(without_credentials(json.dumps(content, indent=2)))
        pq.write_table(scores_table(evaluation, test), files[1])
        for result in evaluation.results:
            files.append(folder / f"confusion_{result.name}.png")
            title = f"{result.task}, {100 * result.token_ratio:.0f} % of the tokens: top-1 {result.accuracy.top1:.3f}"
            confusion_chart(result.accuracy.confusion.numpy(), names[: evaluation.num_classes], files[-1], title)
        if evaluation.spectra:
            files.append(folder / "spectrum.png")
            spectrum_chart({name: values.numpy() for name, values in evaluation.spectra.items()}, files[-1])
    except OSError as error:
        raise PartError(f"{folder} cannot be written: {error}; free space there, or make it writable") from error
    return files


def scores_table(evaluation: Evaluation, test: Manifest) -> pa.Table:
    """Return a row for each test video and probe; the columns are those of ``SCORES``."""
    reasons = {failure.row: failure.reason for failure in evaluation.test_failures}
    videos = [test.record(row) for row in range(len(test))]
    rows = []
    for result in evaluation.results:
        predicted = result.scores.argmax(1).tolist()
        for row, video in enumerate(videos):
            lost = row in reasons
            rows.append(
                {
                    "id": video.id,
                    "path": without_credentials(video.source.name),
                    "label": video.label,
                    "task": result.task,
                    "token_ratio": result.token_ratio,
                    "predicted": None if lost else predicted[row],
                    "scores": None if lost else result.scores[row].tolist(),
                    "num_views": int(result.num_views[row]),
                    "reason": reasons.get(row, ""),
                }
            )
    return pa.Table.from_pylist(rows, schema=SCORES)


def class_names(train: Manifest, test: Manifest) -> list[str] | None:
    """Read ``<manifest stem>.classes.txt`` beside the test's manifest, or the training's; None where there is none.

    Raises:
        ConfigError: It cannot be read.
    """
    for manifest in (test, train):
        if is_uri(manifest.name):
            continue
        path = Path(manifest.name).with_suffix(".classes.txt")
        if path.is_file():
            try:
                return path.read_text(encoding="utf-8").rstrip("\n").split("\n")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"the class names {path} cannot be read: {error}") from error
    return None


def _content(
    evaluation: Evaluation,
    frozen: FrozenEncoder,
    train: Manifest,
    test: Manifest,
    config: EvaluationConfig,
    handle: RunHandle | None,
) -> Mapping[str, object]:
    def part(name: str, manifest: Manifest, failures: Sequence, held: int) -> dict[str, object]:
        return {
            "manifest": manifest.name,
            "hash": manifest.hash,
            "videos": len(manifest),
            "views_of_each": evaluation.extractions[name].layout.num_views,
            "held": held,
            "undecoded": [asdict(failure) for failure in failures],
            "features": [where(reading.folder) for reading in evaluation.extractions[name].readings],
        }

    return {
        "metrics": evaluation.metrics(),
        "confusion": {result.name: result.accuracy.confusion.tolist() for result in evaluation.results},
        "checkpoint": {
            "folder": where(frozen.checkpoint),
            "step": frozen.step,
            "sha256": frozen.digest,
            "mlflow_run_id": frozen.run_id,
        },
        "mlflow_run_id": None if handle is None else handle.run_id,
        "train": part("train", train, evaluation.train_failures, evaluation.train_held),
        "test": part("test", test, evaluation.test_failures, evaluation.test_held),
        "num_classes": evaluation.num_classes,
        "test_videos_seen_before": asdict(evaluation.overlaps),
        "settings": config.model_dump(mode="json"),
    }


@contextmanager
def _new_folder(root: Path) -> Iterator[Path]:
    """Make the folder of the next number, and remove it if nothing was put there.

    Several evaluations of one run may begin at once.
    """
    try:
        folder = new_number(root)
    except OSError as error:
        raise ConfigError(f"{where(root)} cannot be written: {error}; make the run's folder writable") from error
    try:
        yield folder
    finally:
        if not any(folder.iterdir()):
            remove(folder)


def _open(
    frozen: FrozenEncoder,
    train: Manifest,
    test: Manifest,
    tasks: Sequence[Task],
    config: EvaluationConfig,
    folder: Path,
) -> RunHandle:
    run = frozen.run
    changes: dict[str, object] = {"run_name": f"evaluate-{frozen.folder.parent.name}-{frozen.folder.name}"}
    if config.tracking_uri is not None:
        changes["uri"] = config.tracking_uri
    given = run.root if run.results is not None else None
    return open_run(
        run.tracking.model_copy(update=changes),
        results_root=given if given is not None and given.is_dir() else frozen.folder.parents[1],
        folder=folder,
        params={
            "checkpoint": where(frozen.checkpoint),
            "tasks": list(tasks),
            "train": train.name,
            "test": test.name,
            "evaluation": config.model_dump(mode="json"),
        },
        dataset=DatasetRecord(name=PurePosixPath(test.name).stem, digest=test.hash, source=test.name),
        parent_run_id=frozen.run_id,
        tags={
            "tats.kind": "evaluation",
            "tats.folder": where(folder),
            "tats.checkpoint": where(frozen.checkpoint),
            **sampler_tags(run),
        },
        description=describe_evaluation(
            f"{frozen.folder.parent.name}/{frozen.folder.name}",
            step=frozen.step,
            tasks=tasks,
            train=named_videos(len(train), train.name),
            test=named_videos(len(test), test.name),
        ),
    )


def _close(handle: RunHandle, ending: Ending, reason: str | None) -> None:
    try:
        end_run(handle, status=ending, reason=reason)
    except TrackingError as error:
        _logger.warning("MLflow run %s could not be closed as %s: %s", handle.run_id, ending, error)
