"""How trained checkpoints see a clip: what they draw, what is hard to predict, where they look, what is alike."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tats_ray.config.files import read_run
from tats_ray.config.run import TrainRun
from tats_ray.data.batches import ClipBatch
from tats_ray.geometry import TokenGrid
from tats_ray.masking.draws import exponential_clocks
from tats_ray.masking.tats import TATSScorer
from tats_ray.methods.base import HeldOut, Snapshot
from tats_ray.methods.build import build_method
from tats_ray.methods.masked_autoencoder import MaskedAutoencoding
from tats_ray.methods.reconstruction import token_error
from tats_ray.mirror import exists
from tats_ray.nn.patches import normalized_patches, patchify, take_tokens
from tats_ray.training.state import INDEX, CheckpointError, checkpoint_step, latest_checkpoint, load_checkpoint

_RUN_FILE = "run.yaml"


@dataclass(frozen=True)
class Trained:
    """A checkpoint that was opened, on the CPU."""

    name: str
    """Of its run."""
    number: str
    """Of its run among those of that name."""
    step: int
    """Steps of training."""
    run: TrainRun
    method: MaskedAutoencoding


@dataclass(frozen=True)
class AttentionPath:
    """Where one token looks in each frame, by trajectory attention."""

    token: int
    """The token that looks."""
    weight: np.ndarray
    """``[tokens]``: of each frame's attention; those of one time slot sum to 1."""


@dataclass(frozen=True)
class Look:
    """One clip as one checkpoint sees it; arrays on the host."""

    snapshot: Snapshot
    error: np.ndarray
    """``[tokens]``: error of each token that a random mask hides over their mean; NaN where it is visible."""
    critic: np.ndarray | None
    """``[tokens]``: the critic's guess of that; None where there is no critic."""
    path: AttentionPath | None
    """None where there is no trajectory attention."""


def is_checkpoint(path: Path) -> bool:
    """Tell a run's folder, or a checkpoint's, from anything else."""
    return exists(path / _RUN_FILE) or exists(path / INDEX)


def open_trained(path: Path) -> Trained:
    """Open the newest checkpoint of a run's folder, or the checkpoint whose folder is given.

    Raises:
        CheckpointError: There is no usable checkpoint.
        ConfigError: The run's settings cannot be read.
        ValueError: The folder is none of a run, or the checkpoint lies apart from its run.
    """
    given = path.resolve()
    if exists(given / _RUN_FILE):
        folder, checkpoint = given, latest_checkpoint(given / "checkpoints")
        if checkpoint is None:
            raise CheckpointError(f"{path / 'checkpoints'} holds no checkpoint; let the run write its first one")
    elif exists(given / INDEX):
        folder, checkpoint = given.parents[1], given
        if not exists(folder / _RUN_FILE):
            raise ValueError(f"{path} lies apart from its run: there is no {folder / _RUN_FILE}; give the run's folder")
    else:
        raise ValueError(
            f"{path} is no folder of a run and no checkpoint: it has no {_RUN_FILE}; "
            "a run prints its folder when it ends"
        )
    run = read_run(folder / _RUN_FILE)
    if run.model.prediction.kind != "pixels":
        raise ValueError(f"{path} predicts {run.model.prediction.kind}, which are no pixels to look at")
    return Trained(folder.parent.name, folder.name, checkpoint_step(checkpoint), run, _load(run, checkpoint))


def open_together(paths: Sequence[Path], *, reserved: Collection[str] = ()) -> dict[str, Trained]:
    """Open checkpoints that are shown the same clip, by the shortest names that tell them apart.

    Args:
        paths: As :func:`open_trained` takes them.
        reserved: Names that stand for something else.

    Raises:
        ValueError: Two are the same, or take other frames of a video; and as :func:`open_trained` does.
    """
    opened = [open_trained(path) for path in paths]
    pace = opened[0].run.data.pace
    for path, trained in zip(paths, opened, strict=True):
        if trained.run.data.pace != pace:
            raise ValueError(
                f"checkpoints that are seen together must take the same frames of a video, got {pace} in {paths[0]} "
                f"and {trained.run.data.pace} in {path}; look at them apart"
            )
    names = _told_apart(opened, reserved)
    if len(set(names)) < len(names):
        (repeated, _), *_ = Counter(names).most_common(1)
        raise ValueError(f"a checkpoint was given twice: {repeated}; give each once")
    return dict(zip(names, opened, strict=True))


@torch.no_grad()
def look(trained: Trained, video: Tensor, *, seed: int, clip: int, token: int | None = None) -> Look:
    """Show a checkpoint one clip.

    Args:
        trained: The checkpoint.
        video: uint8 ``[frames, height, width, 3]``, as it was trained on.
        seed: With ``clip`` it fixes all that is drawn: checkpoints that are given the same draw from the same noise.
        clip: The clip's number.
        token: Whose path of attention is wanted; None takes the likeliest one.
    """
    method, grid = trained.method, trained.method.grid
    batch = ClipBatch(video=video[None], row=torch.zeros(1, dtype=torch.int64))
    clocks = exponential_clocks((1, grid.num_tokens), seed=seed, step=clip, device=video.device)
    snapshot = method.snapshot(HeldOut(batch=batch, clocks=clocks, truth={}))
    _evaluate(method)
    patches = patchify(batch.video, grid)
    scores = method.scores(patches)
    value = None if scores is None or scores.value is None else scores.value[0].numpy()
    if token is None and snapshot.probability is not None:
        token = int(snapshot.probability.argmax())
    return Look(
        snapshot=snapshot,
        error=_relative_error(method, patches, torch.from_numpy(snapshot.random_idx)[None]),
        critic=value,
        path=None if token is None else _attention_path(method, patches, token),
    )


def follows_paths(trained: Trained) -> bool:
    """Tell whether a checkpoint's sampler has trajectory attention."""
    return isinstance(trained.method.update.scorer, TATSScorer)


def token_number(place: Sequence[int], grid: TokenGrid) -> int:
    """Return the number of the token at a time slot, row and column.

    Raises:
        ValueError: There is none.
    """
    slots = (grid.time, grid.height, grid.width)
    if len(place) != 3 or not all(0 <= at < size for at, size in zip(place, slots, strict=True)):
        raise ValueError(
            f"a token is time slot, row and column, below {grid.time},{grid.height},{grid.width} for this checkpoint, "
            f"got {','.join(map(str, place))}"
        )
    return (place[0] * grid.height + place[1]) * grid.width + place[2]


def token_place(token: int, grid: TokenGrid) -> tuple[int, int, int]:
    """Return a token's time slot, row and column."""
    site = token % grid.slot_tokens
    return token // grid.slot_tokens, site // grid.width, site % grid.width


@torch.no_grad()
def mean_feature(trained: Trained, video: Tensor) -> Tensor:
    """Return the mean of the frozen encoder's features over all tokens of a clip, ``[dim]``.

    Args:
        trained: The checkpoint.
        video: uint8 ``[frames, height, width, 3]``, as it was trained on.
    """
    _evaluate(trained.method)
    return trained.method.autoencoder.encoder(patchify(video[None], trained.method.grid))[0].mean(0)


def nearest(query: Tensor, others: Tensor, *, count: int) -> list[tuple[int, float]]:
    """Return the rows of ``others`` that are most alike to ``query`` with their cosines, at most ``count``, best first.

    Args:
        query: ``[dim]``.
        others: ``[rows, dim]``; of rows equally near the first comes first.
        count: How many are wanted.
    """
    cosine = torch.nn.functional.cosine_similarity(others.double(), query[None].double(), dim=1)
    order = cosine.argsort(descending=True, stable=True)[:count]
    return [(int(row), float(cosine[row])) for row in order]


def _load(run: TrainRun, checkpoint: Path) -> MaskedAutoencoding:
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn, and replaced at once
        method = build_method(
            run.model,
            run.masking,
            grid=run.grid,
            total_steps=1,
            global_batch=run.training.global_batch,
            seed=run.seed,
        )
    saved = load_checkpoint(checkpoint, method.modules(), {}, device=torch.device("cpu"))
    method.load_state_dict(saved["method"])  # type: ignore[arg-type]
    return method


def _evaluate(method: MaskedAutoencoding) -> None:
    """Switch dropout and drop path off; a snapshot leaves them on."""
    for module in method.modules().values():
        module.eval()


def _relative_error(method: MaskedAutoencoding, patches: Tensor, visible_idx: Tensor) -> np.ndarray:
    relative = torch.full(patches.shape[:2], torch.nan)
    order = torch.rand(patches.shape[:2], generator=torch.Generator().manual_seed(0))
    for target_idx, prediction in method.hidden_in_parts(patches, visible_idx, order):
        relative.scatter_(1, target_idx, token_error(prediction, normalized_patches(take_tokens(patches, target_idx))))
    return (relative / relative.nanmean(1, keepdim=True))[0].numpy()


def _attention_path(method: MaskedAutoencoding, patches: Tensor, token: int) -> AttentionPath | None:
    scorer = method.update.scorer
    if not isinstance(scorer, TATSScorer):
        return None
    size = scorer.grid.num_tokens  # of the window in which the sampler looks, which may be the whole clip
    first = token // size * size
    tokens = scorer.embed(patches[:, first : first + size]) + scorer.positions
    weight = scorer.block.attention_path(tokens, scorer.grid, token_idx=torch.tensor([token - first]))
    whole = np.zeros(patches.shape[1], np.float32)
    whole[first : first + size] = weight[0].flatten().numpy()
    return AttentionPath(token=token, weight=whole)


def _told_apart(opened: Sequence[Trained], reserved: Collection[str]) -> list[str]:
    """Name each by its run, and those that would share a name by the run's number too, and then by the step."""
    names = [trained.name for trained in opened]
    for more in ([trained.number for trained in opened], [f"step {trained.step}" for trained in opened]):
        shared = {name for name, count in Counter(names).items() if count > 1} | set(reserved)
        names = [f"{name} {addition}" if name in shared else name for name, addition in zip(names, more, strict=True)]
    return names
