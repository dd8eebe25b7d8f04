"""One worker's life, from a resolved run to its last checkpoint; the same under Ray and alone."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import torch

from tats_ray.config.error import ConfigError
from tats_ray.config.run import Run, TrainRun
from tats_ray.config.tokenizer_run import read_tokenizer
from tats_ray.copies import path_of
from tats_ray.data.cache import CachingDecoder
from tats_ray.data.guard import GuardedDecoder
from tats_ray.data.loader import ShareSpec, StepShare, threaded_shares
from tats_ray.data.manifest import Manifest
from tats_ray.data.order import epoch_length, split_held_out
from tats_ray.held_out import is_labelled, load_held_out, load_probe_clips
from tats_ray.masking.tats import TATSConfig
from tats_ray.masking.tokenizer_importance import TokenizerImportance, TokenizerImportanceConfig
from tats_ray.methods.base import Method
from tats_ray.methods.masked_autoencoder import MaskedAutoencoding
from tats_ray.mirror import send, write_text
from tats_ray.tracking.base import NullTracker, RunHandle, Tracker
from tats_ray.tracking.mlflow import MlflowTracker
from tats_ray.tracking.progress import ProgressBar, ProgressState
from tats_ray.training.context import LocalContext, WorkerContext
from tats_ray.training.ledger import matmul_flops
from tats_ray.training.loop import Job, LoopState, train
from tats_ray.training.optim import Trainable, constant_trainable, scheduled_trainable
from tats_ray.training.state import (
    latest_checkpoint,
    load_checkpoint,
    load_module,
    saved_shape,
    verify_checkpoint,
)
from tats_ray.training.stepper import GradientStepper

SUMMARY = "summary.json"
LEDGER = "ledger.json"
"""Seconds of the whole run by part, counted FLOPs, and FLOPs a second that its devices can do."""

SharesOf = Callable[[Manifest, ShareSpec], Iterable[StepShare]]


@dataclass(frozen=True)
class Launch:
    """All that a worker is told; plain data, pickled to wherever it runs."""

    run: Run
    folder: Path
    handle: RunHandle
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


def run_training(launch: Launch, context: WorkerContext, shares_of: SharesOf) -> dict[str, float]:
    """Train to the end of the run, from its last checkpoint if it has one; return and write its summary."""
    run = launch.run
    os.environ.update(launch.environment)
    launch.folder.mkdir(parents=True, exist_ok=True)  # the copy of a URI, on a machine that it is new to
    assert run.data.manifest is not None
    manifest = Manifest.read_all(run.data.manifest)
    rows, held_out_rows = split_held_out(len(manifest), held_out=run.data.held_out, seed=run.seed)
    videos = manifest.select(rows)
    total_steps = run.total_steps(epoch_length(videos.parts))
    method = build(run, total_steps, context.device)
    trainables = make_trainables(run, method, total_steps)
    stepper = GradientStepper(
        trainables, context, precision=run.training.precision, max_skipped_steps=run.optim.max_skipped_steps
    )
    state = _restore(launch, method, trainables, context)
    stepper.skipped_steps = state.skipped_steps
    spec = ShareSpec(
        clip=run.data,
        seed=run.seed,
        steps=range(state.step, total_steps),
        global_batch=run.training.global_batch,
        micro_batch=run.training.micro_batch,
        rank=context.rank,
        world_size=context.world_size,
        truth_grid=run.truth_grid,
        codes=None if run.data.codes is None else Path(run.data.codes),
    )
    tracker: Tracker = MlflowTracker(launch.handle) if context.rank == 0 else NullTracker()
    job = Job(
        method=method,
        stepper=stepper,
        context=context,
        tracker=tracker,
        config=run.training,
        held_out=load_held_out(run, manifest.select(held_out_rows), context),
        total_steps=total_steps,
        seed=run.seed,
        log_every=run.tracking.log_every,
        on_error=run.data.on_error,
        max_failed_share=run.data.max_failed_share,
        folder=launch.folder,
        run_id=launch.handle.run_id,
        flops=cache(run.flops_at),
        probe=load_probe_clips(run, videos, context) if is_labelled(manifest) else None,
        peak_flops=context.world_size * matmul_flops(context.device, stepper.dtype),
    )
    try:
        train(job, state, shares_of(videos, spec))
    finally:
        tracker.close()
    summary = {"step": float(state.step), "clips": float(state.clips), **state.measured, **state.events}
    summary |= {"failed_clips": float(state.failed_clips), "skipped_steps": float(state.skipped_steps)}
    if context.rank == 0:
        ledger = {"seconds": state.seconds, "flops": state.flops, "peak_flops": job.peak_flops}
        for path in (launch.folder / "pictures", launch.folder / "quarantine.csv"):
            send(path)
        write_text(launch.folder / LEDGER, json.dumps(ledger, indent=2))
        write_text(launch.folder / SUMMARY, json.dumps(summary, indent=2))
    return summary


def run_alone(launch: Launch, context: WorkerContext) -> None:
    """Train in this process, decoding in children of its own."""
    with own_decoders(launch.run, threads=os.cpu_count() or 1) as shares_of:
        run_training(launch, context, shares_of)


@contextmanager
def own_decoders(run: Run, *, threads: int) -> Iterator[SharesOf]:
    """Let as many threads of this process decode, each in a child that may keep frames; they end with the block."""
    if run.data.cache == "memory":
        with CachingDecoder(run.data, processes=threads * max(1, run.cluster.num_workers)) as decode:
            yield partial(threaded_shares, threads=threads, decode=decode, route="by video")
    else:
        with GuardedDecoder(run.data) as decode:
            yield partial(threaded_shares, threads=threads, decode=decode)


def run_with_bar(launch: Launch) -> None:
    """Train in this process, on its GPU if it has one, with a progress bar."""
    context = BarContext(
        torch.device("cuda" if torch.cuda.is_available() and launch.run.cluster.use_gpu is not False else "cpu")
    )
    with context.bar:
        run_alone(launch, context)


class BarContext(LocalContext):
    """One process, alone, with a bar on its terminal."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.bar = ProgressBar()

    def progress(self, state: ProgressState) -> None:
        """Move the bar."""
        self.bar.update(state)


def total_steps(run: Run, manifest: Manifest) -> int:
    """Return the training steps of a run on the videos of a manifest."""
    rows, _ = split_held_out(len(manifest), held_out=run.data.held_out, seed=run.seed)
    return run.total_steps(epoch_length(manifest.select(rows).parts))


def describe(run: Run) -> dict[str, str]:
    """Return token counts, parameters and FLOPs of a run, without starting anything."""
    method = _on_meta(run)
    counted = {name: sum(p.numel() for p in module.parameters()) for name, module in method.modules().items()}
    facts = dict(run.facts(method))
    facts |= {f"parameters, {name}": f"{number:,}" for name, number in counted.items()}
    facts |= {f"training GFLOPs a clip, {part}": f"{number / 1e9:,.4g}" for part, number in run.flops().items()}
    return facts


def build(run: Run, total_steps: int, device: torch.device) -> Method:
    """Build a run's method on a device, with the weights of ``init`` if it names any."""
    torch.manual_seed(run.seed)  # every worker initialises alike
    method = run.build_method(total_steps=total_steps)
    for module in method.modules().values():
        module.to(device)
    if isinstance(run, TrainRun) and isinstance(run.masking.importance, TokenizerImportanceConfig):
        _give_tokenizer(run.masking.importance, method, device)
    if run.init is not None and run.init_takes == "weights":
        verify_checkpoint(path_of(run.init))
        for place, (name, module) in enumerate(method.modules().items()):
            if place == 0 or (path_of(run.init) / f"{name}.safetensors").exists():
                load_module(path_of(run.init), name, module)
    if run.training.compile:
        method.compile()
    return method


def _give_tokenizer(config: TokenizerImportanceConfig, method: Method, device: torch.device) -> None:
    assert isinstance(method, MaskedAutoencoding)
    assert isinstance(method.importance, TokenizerImportance)
    assert config.checkpoint is not None  # the driver has seen to it
    method.importance.tokenizer = read_tokenizer(path_of(config.checkpoint))[0].to(device)


def check_init(run: Run) -> None:
    """Refuse a sampler whose learnt positions are of another clip length; the autoencoder's fixed ones fit any.

    Raises:
        ConfigError: With both numbers of tokens, and the way out.
    """
    if run.init is None or run.init_takes != "weights" or not isinstance(run, TrainRun):
        return
    for name, module in _on_meta(run).modules().items():
        wanted = dict(module.named_parameters()).get("positions")
        shape = None if wanted is None else saved_shape(path_of(run.init), name, "positions")
        if wanted is None or shape is None:
            continue
        found = shape[0]
        if found != len(wanted):
            slots, rest = divmod(found, run.grid.slot_tokens)
            frames = slots * run.model.tubelet_size
            windows = name == "tats" and not rest and run.data.num_frames % frames == 0
            raise ConfigError(
                f"init={run.init}: the positions of its {name} sampler were learnt for {found} tokens, and this run's "
                f"looks at {len(wanted)}; unlike the autoencoder's, which are fixed, they do not go on for longer "
                f"clips. "
                + (
                    f"Let it look at as many at once with masking.visible.window_frames={frames}"
                    if windows
                    else "Take another masking.visible.kind, or clips of the same length and size"
                )
            )


def _on_meta(run: Run) -> Method:
    with torch.device("meta"):  # allocates nothing
        return run.build_method(total_steps=1)


def make_trainables(run: Run, method: Method, total_steps: int) -> dict[str, Trainable]:
    """Give each part of a method that learns its optimiser and schedule."""
    trainables = {}
    for name, module in method.trainables().items():
        if name == "sampler":
            assert isinstance(run, TrainRun)
            assert isinstance(run.masking.visible, TATSConfig)
            ppo = run.masking.visible.ppo
            trainables[name] = constant_trainable(
                module, learning_rate=ppo.learning_rate, max_grad_norm=ppo.max_grad_norm
            )
        else:
            trainables[name] = scheduled_trainable(
                module, run.optim, global_batch=run.training.global_batch, total_steps=total_steps
            )
    return trainables


def _restore(launch: Launch, method: Method, trainables: dict[str, Trainable], context: WorkerContext) -> LoopState:
    checkpoint = latest_checkpoint(launch.folder / "checkpoints")
    if checkpoint is None and launch.run.init is not None and launch.run.init_takes == "training":
        checkpoint = path_of(launch.run.init)
    if checkpoint is None:
        return LoopState()
    saved = load_checkpoint(checkpoint, method.modules(), trainables, device=context.device)
    method.load_state_dict(saved["method"])  # type: ignore[arg-type]
    return LoopState(**saved["loop"])  # type: ignore[arg-type]
