"""One trial of a sweep: a run like any other, which trains inside Tune's actor under its schedulers."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import Any

import ray
import torch
from ray import tune

from tats_ray.claims import next_number
from tats_ray.cluster.context import make_board
from tats_ray.cluster.meeting import LEAVE_SECONDS, Meeting, Report
from tats_ray.cluster.runtime import start_ray
from tats_ray.cluster.train import fit
from tats_ray.config.files import read_run
from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.copies import where
from tats_ray.driver import Outcome, RunFailedError, conduct, find_finished, prepare
from tats_ray.mirror import read_text, send
from tats_ray.run_folder import is_held, read_status
from tats_ray.sweeping.journal import Journal, Planned, Segment
from tats_ray.tracking.mlflow import MlflowTracker, tag_run
from tats_ray.training.context import LocalContext
from tats_ray.training.state import INDEX, checkpoint_step
from tats_ray.worker import SUMMARY, Launch, own_decoders, run_training, total_steps

SEGMENT = "sweep/segment"
CLONED = "clone.json"


@dataclass(frozen=True)
class Sweep:
    """What every trial of a sweep is told."""

    name: str
    folder: Path
    base: TrainRun
    metric: str
    starts: Mapping[str, str | None]
    """Checkpoint to start from, by seed."""
    parent_run_id: str
    decides: bool
    """Whether a scheduler decides at checkpoints what becomes of a trial."""


def trial_run(sweep: Sweep, planned: Planned) -> TrainRun:
    """Return the run that a trial is.

    Raises:
        ConfigError: Its knobs do not fit each other.
    """
    own = {"seed": planned.seed, "name": f"{sweep.name}-{planned.name}", "init": sweep.starts[str(planned.seed)]}
    return change(sweep.base, [*planned.knobs.items(), *own.items()])


def train_here(launch: Launch, context: LocalContext) -> None:
    """Train in this process, decoding in as many children as it has threads."""
    threads = launch.run.cluster.cpus_per_worker
    torch.set_num_threads(threads)
    with own_decoders(launch.run, threads=threads) as shares_of:
        run_training(launch, context, shares_of)


def fit_quietly(launch: Launch) -> None:
    """Train on Ray Train from inside a task, without a bar."""
    start_ray()
    fit(launch, make_board())


def device() -> torch.device:
    """Return the GPU that Ray gave this process, else the CPU."""
    return torch.device("cuda" if ray.get_gpu_ids() else "cpu")


class TrialContext(LocalContext):
    """A worker alone in Tune's actor, which asks at every checkpoint whether it may go on."""

    awaits_checkpoints = True

    def __init__(self, device: torch.device, *, ask: Callable[[Path, Mapping[str, float]], None]) -> None:
        super().__init__(device)
        self._ask = ask

    def checkpointed(self, folder: Path, metrics: Mapping[str, float]) -> None:
        """Wait until Tune has decided."""
        self._ask(folder, metrics)


class SweepTrial(tune.Trainable):
    """Trains up to the next checkpoint in each of Tune's steps, so that a scheduler can stop, pause or clone it.

    Where none decides, it trains to its end in one step, and a run of several workers always does, in a TorchTrainer
    of its own. ``config["trial"]`` holds knobs and seed, and Tune's name of a trial is ours. What ends a run by its own
    fault is the last report, under ``failed``, and not an exception: Tune would try it again. So an exception, or a
    lost process, means that another try may help; it goes on from the run's last checkpoint.
    """

    def setup(self, config: dict[str, Any], sweep: Sweep | None = None) -> None:
        """Take the first trial of this process."""
        assert sweep is not None  # by tune.with_parameters
        self._sweep = sweep
        self._journal = Journal(sweep.folder)
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial; the libraries are loaded already."""
        self._meeting.leave()
        self._take(new_config)
        return True

    def step(self) -> Report:
        """Train up to the next checkpoint where a scheduler decides, else to the end."""
        self._last = self._meeting.advance()
        return self._last

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Copy the checkpoint that was reported last; training waits meanwhile."""
        copytree(self._last["checkpoint"], Path(checkpoint_dir) / Path(self._last["checkpoint"]).name)
        own = {"trial": self._planned.name, "checkpoint": Path(self._last["checkpoint"]).name}
        (Path(checkpoint_dir) / CLONED).write_text(json.dumps(own))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Take over another trial's training; a checkpoint of its own is in its run's folder already."""
        saved = json.loads((Path(checkpoint) / CLONED).read_text())
        if saved["trial"] == self._planned.name:
            return
        source = Path(checkpoint) / saved["checkpoint"]
        known = self._journal.segments(self._planned.name)
        step = checkpoint_step(source)
        if known and (known[-1].donor, known[-1].step, known[-1].knobs) == (saved["trial"], step, self._planned.knobs):
            return  # this process died after it, and Tune restores it once more
        start = self._sweep.folder / "clones" / f"{self._planned.name}-{len(known) + 2}" / source.name
        copytree(source, start, dirs_exist_ok=True)
        send(start, last=INDEX)
        segment = Segment(donor=saved["trial"], step=step, knobs=self._planned.knobs, start=where(start))
        self._journal.add_segment(self._planned.name, segment)

    def cleanup(self) -> None:
        """Have the run end properly."""
        self._meeting.leave()

    def _take(self, config: dict[str, Any]) -> None:
        trial = config["trial"]
        name = trial["name"] if self.trial_name == "default" else self.trial_name  # a clone's config is its donor's
        self._planned = Planned(name, trial["knobs"], trial["seed"])
        self._meeting = Meeting(self._train)

    def _train(self, report: Callable[[Report], None]) -> Report:
        try:
            found, outcome = self._conduct(report)
        except RunFailedError as error:
            return self._told({}, done=True, failed=str(error))
        summary = json.loads(read_text(found / SUMMARY)) if outcome is None else outcome.summary
        return self._told(summary, done=True, folder=str(found))

    def _conduct(self, report: Callable[[Report], None]) -> tuple[Path, Outcome | None]:
        """Return the folder of the finished run, and how it ended if it did so now."""
        segments = self._journal.segments(self._planned.name)
        run = trial_run(self._sweep, self._planned)
        if segments:
            took = [*segments[-1].knobs.items(), ("init", segments[-1].start), ("init_takes", "training")]
            run = change(run, took)
        run, manifest = prepare(run)
        _await_name(run)
        finished = find_finished(run, manifest)
        if finished is not None:
            return finished, None
        before = newest_folder(run)
        begun = before is not None and read_run(before / "run.yaml").init == run.init
        execute = partial(self._execute, segments=segments, last=total_steps(run, manifest), report=report)
        outcome = conduct(
            run,
            execute,
            fresh=bool(segments) and not begun,
            parent_run_id=self._sweep.parent_run_id,
            record_id=None if before is None or not segments else read_status(before)["mlflow_run_id"],
        )
        return outcome.launch.folder, outcome

    def _execute(
        self, launch: Launch, *, segments: Sequence[Segment], last: int, report: Callable[[Report], None]
    ) -> None:
        if segments:
            self._mark(launch, segments)
        if launch.run.cluster.num_workers > 1:
            fit_quietly(launch)
            return

        def ask(checkpoint: Path, metrics: Mapping[str, float]) -> None:
            step = checkpoint_step(checkpoint)
            if step < last:  # of the last one there is nothing to decide
                report(
                    self._told(
                        {**metrics, "step": step},
                        checkpoint=str(checkpoint),
                        folder=str(launch.folder),
                        segments=len(segments),
                    )
                )

        train_here(launch, TrialContext(device(), ask=ask) if self._sweep.decides else LocalContext(device()))

    def _mark(self, launch: Launch, segments: Sequence[Segment]) -> None:
        """Say in the record that from here on it is that of a clone."""
        newest, number = segments[-1], len(segments) + 1
        tracker = MlflowTracker(launch.handle)
        tracker.log_metrics({SEGMENT: number}, step=newest.step)
        tracker.close()
        knobs = ", ".join(f"{path}={value}" for path, value in newest.knobs.items())
        text = f"from trial {newest.donor} at step {newest.step}, with {knobs}"
        tag_run(launch.handle, {f"tats.segment.{number}": text})

    def _told(self, metrics: Mapping[str, float], **more: Any) -> Report:
        """Return a report; the metric stands in each, since Tune asks for it."""
        return {"step": 0, self._sweep.metric: math.nan, **metrics, **more}


def _await_name(run: TrainRun) -> None:
    """Wait for another process of this trial to leave: one that Tune paused, or that outlived its driver."""
    until = time.monotonic() + LEAVE_SECONDS
    while is_held(run) and time.monotonic() < until:
        time.sleep(0.2)


def newest_folder(run: TrainRun) -> Path | None:
    """Return the folder of the newest run of a name; None when there is none."""
    root = run.root / run.name
    number = next_number(root) - 1
    return root / f"{number:04d}" if number else None
