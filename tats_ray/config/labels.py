"""What a run says about itself where runs are listed: tags to filter by, and a description in a sentence or two."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from tats_ray.config.run import Run, TrainRun
from tats_ray.config.tokenizer_run import TokenizerRun
from tats_ray.nn.encoder import ENCODER_SIZES, EncoderConfig


def run_tags(run: Run) -> dict[str, str]:
    """Return what is trained and, for an encoder, how tokens are chosen, as tags."""
    return sampler_tags(run) if isinstance(run, TrainRun) else {"tats.trains": "tokenizer"}


def sampler_tags(run: TrainRun) -> dict[str, str]:
    """Return how tokens are chosen in a run, as tags; an evaluation has those of the run that it evaluates."""
    return {"tats.sampler": run.masking.visible.kind, "tats.mask_ratio": f"{run.masking.mask_ratio:g}"}


def describe_run(run: Run, *, num_videos: int) -> str:
    """Return model, clips, data and length of a run; ``num_videos`` are those of its manifests."""
    data, training = run.data, run.training
    length = f"{training.steps:,} steps" if training.steps is not None else f"{training.epochs:g} epochs in steps"
    started = {"weights": "from the weights of", "training": "going on from"}[run.init_takes]
    return (
        f"{_model(run)}, clips of {data.num_frames} frames of {data.crop_size} pixels. "
        f"{length} of {training.global_batch:,} clips, from {num_videos:,} videos of {_manifests(run)}, "
        f"seed {run.seed}" + ("." if run.init is None else f", {started} `{run.init}`.")
    )


def describe_sweep(run: TrainRun, *, knobs: Sequence[str], metric: str, mode: str) -> str:
    """Return what the trials of a sweep differ in, by what they are judged, and what they share."""
    return (
        f"Sweep over {', '.join(f'`{knob}`' for knob in knobs)}, {mode} of `{metric}`; its trials are nested below it. "
        f"They share: {_shared(run)}."
    )


def describe_comparison(run: TrainRun, *, arms: Sequence[str], ratios: Sequence[float], seeds: Sequence[int]) -> str:
    """Return the arms of a comparison, and what its runs share."""
    return (
        f"Comparison of {', '.join(arms)} at mask ratio {', '.join(f'{ratio:g}' for ratio in ratios)}, "
        f"{len(seeds)} seeds each; its runs are nested below it. They share: {_shared(run)}."
    )


def describe_evaluation(checkpoint: str, *, step: int, tasks: Sequence[str], train: str, test: str) -> str:
    """Return the probes of an evaluation, their encoder and their videos; manifests as ``96 videos of NAME``."""
    probes = f"Probes {', '.join(tasks)} on the frozen encoder of {checkpoint} at step {step:,}"
    return f"{probes}: fitted on {train}, tested on {test}."


def named_videos(number: int, manifest: str) -> str:
    """Return ``96 videos of train.parquet``."""
    return f"{number:,} videos of {PurePosixPath(manifest).name}"


def _shared(run: TrainRun) -> str:
    return (
        f"encoder {_size(run.model.encoder)}, clips of {run.data.num_frames} frames of {run.data.crop_size} pixels, "
        f"videos of {_manifests(run)}"
    )


def _model(run: Run) -> str:
    tokens = f"{run.grid.num_tokens:,}"
    if isinstance(run, TokenizerRun):
        levels = " x ".join(map(str, run.tokenizer.levels))
        return f"Tokenizer of {tokens} codes of {levels} levels, {100 * run.tokenizer.keep_ratio:g} % kept"
    assert isinstance(run, TrainRun)
    hidden = f"Sampler {run.masking.visible.kind} hides {100 * run.masking.mask_ratio:g} % of {tokens} tokens"
    return f"{hidden}; encoder {_size(run.model.encoder)}"


def _size(config: EncoderConfig) -> str:
    """Return the name of a shape where it has one, and its width and depth."""
    shape = (config.embed_dim, config.depth, config.num_heads)
    named = [name for name, known in ENCODER_SIZES.items() if known == shape]
    width = f"{config.embed_dim} wide, {config.depth} deep"
    return f"{named[0]} ({width})" if named else width


def _manifests(run: Run) -> str:
    return ", ".join(PurePosixPath(entry.path).name for entry in run.data.manifest or ())
