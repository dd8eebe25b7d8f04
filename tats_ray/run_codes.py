"""What a run takes from a tokenizer, checked before it starts: cached codes, their importance, or its scorer."""

from pathlib import Path

from tats_ray.config.error import ConfigError
from tats_ray.config.overrides import R
from tats_ray.config.run import Run, TrainRun
from tats_ray.config.tokenizer_run import read_tokenizer
from tats_ray.copies import path_of, where
from tats_ray.data.codes import CodeCache
from tats_ray.data.manifest import Manifest
from tats_ray.masking.tokenizer_importance import CachedImportanceConfig, TokenizerImportanceConfig
from tats_ray.methods.targets import CodesConfig
from tats_ray.training.state import latest_checkpoint


def with_codes(run: R, manifest: Manifest) -> R:
    """Return the run with the content hashes of the tokenizers that it uses; a resumed run keeps to them.

    Raises:
        ConfigError: Something is to be taken of codes, and none are named; or they do not fit the model.
        CodesError: The codes are of other clips or of another tokenizer, or a video has none.
        CheckpointError: The tokenizer of the scorer cannot be used.
    """
    asks = _asks_for_codes(run)
    if run.data.codes is None:
        if asks is not None:
            raise ConfigError(
                f"{asks} needs cached codes; encode the clips with pipelines/encode_clips.py and name their folder by "
                f"data.codes"
            )
        return _with_scorer(run)
    cache = CodeCache.open(Path(run.data.codes), clip=run.data, tokenizer=run.data.tokenizer)
    cache.check(manifest)
    about = cache.about
    if about.tokens != run.grid.num_tokens:
        raise ConfigError(
            f"data.codes={run.data.codes} has {about.tokens} codes a clip, and the model cuts it into "
            f"{run.grid.num_tokens} tokens; give model.tubelet_size and model.patch_size those of a code"
        )
    predicted = run.model.prediction if isinstance(run, TrainRun) else None
    if isinstance(predicted, CodesConfig) and predicted.levels != about.levels:
        raise ConfigError(
            f"model.prediction.levels={list(predicted.levels)} are not those of data.codes={run.data.codes}; take "
            f"model.prediction.levels={list(about.levels)}"
        )
    data = run.data.model_copy(update={"tokenizer": about.tokenizer})
    return _with_scorer(run.model_copy(update={"data": data}))


def _asks_for_codes(run: Run) -> str | None:
    if not isinstance(run, TrainRun):
        return None
    if isinstance(run.model.prediction, CodesConfig):
        return "model.prediction.kind=codes"
    return "masking.importance.kind=codes" if isinstance(run.masking.importance, CachedImportanceConfig) else None


def _with_scorer(run: R) -> R:
    if not isinstance(run, TrainRun) or not isinstance(run.masking.importance, TokenizerImportanceConfig):
        return run
    config, name = run.masking.importance, "masking.importance.checkpoint"
    if config.checkpoint is None:
        raise ConfigError(f"{name} is not set; name a run of pipelines/train_tokenizer.py")
    checkpoint = latest_checkpoint((given := path_of(config.checkpoint)) / "checkpoints") or given
    tokenizer, trained, digest = read_tokenizer(checkpoint)
    if config.digest not in (None, digest):
        raise ConfigError(f"{name}={checkpoint} is the tokenizer {digest[:12]}, not {config.digest[:12]}; name it")
    widths = tokenizer.config.scorer_widths
    if config.scorer_widths not in (None, widths):
        raise ConfigError(
            f"masking.importance.scorer_widths={list(config.scorer_widths)} are not those of {checkpoint}; take "
            f"{list(widths)}"
        )
    window, clip = trained.data.num_frames, run.data
    if clip.num_frames % window or clip.crop_size != trained.data.crop_size:
        raise ConfigError(
            f"{name}={checkpoint} scores windows of {window} frames of {trained.data.crop_size} pixels, and they do "
            f"not make up clips of data.num_frames={clip.num_frames} and data.crop_size={clip.crop_size}"
        )
    if clip.num_frames // window * tokenizer.grid.num_tokens != run.grid.num_tokens:
        raise ConfigError(
            f"{name}={checkpoint} scores latents of {tokenizer.config.tubelet_size} frames of "
            f"{tokenizer.config.patch_size} pixels; give model.tubelet_size and model.patch_size these values"
        )
    importance = config.model_copy(update={"checkpoint": where(checkpoint), "digest": digest, "scorer_widths": widths})
    masking = run.masking.model_copy(update={"importance": importance})
    return run.model_copy(update={"masking": masking})
