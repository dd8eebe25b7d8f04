"""The masked autoencoder with its four slots joined: visible rule, targets, prediction target, sampler update.

VideoMAE (Tong et al. 2022, arXiv 2203.12602) when the rule is fixed; AdaMAE and TATS when it is learned.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from tats_ray.data.batches import ClipBatch
from tats_ray.geometry import TokenGrid
from tats_ray.masking.draws import TARGETS, Scores, exponential_clocks
from tats_ray.masking.fixed import random_tokens
from tats_ray.masking.importance import Importance
from tats_ray.masking.motion import frame_difference, lift
from tats_ray.masking.plan import MaskPlan, hidden_tokens
from tats_ray.masking.planner import MaskPlanner
from tats_ray.methods.averages import Averages
from tats_ray.methods.base import HeldOut, Snapshot, Stepper
from tats_ray.methods.reconstruction import weighted_mean
from tats_ray.methods.sampler_updates import SamplerUpdate
from tats_ray.methods.targets import PixelPrediction, Prediction
from tats_ray.nn.decoder import MaskedDecoder
from tats_ray.nn.encoder import VideoEncoder
from tats_ray.nn.patches import denormalize, patchify, take_tokens, unpatchify

COMMON_MASK_RATIO = 0.9
"""Of the random masks on which all runs are measured alike, whatever their own ratio and sampler."""
_CLIPS_AT_ONCE = 32
GREY, CONTRAST = 0.5, 0.2
"""Where normalised predictions are put for the eye: mean and standard deviation in pixel units of [0, 1]."""


class Autoencoder(nn.Module):
    """Encoder and decoder; predicts something of the target tokens, such as their pixels, from the visible ones."""

    def __init__(self, encoder: VideoEncoder, decoder: MaskedDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, patches: Tensor, visible_idx: Tensor, target_idx: Tensor) -> Tensor:
        """Return predictions ``[batch, target, outputs]`` for uint8 ``patches`` ``[batch, tokens, pixels]``."""
        return self.decoder(self.encoder(patches, visible_idx), visible_idx, target_idx)


class MaskedAutoencoding:
    """One training step of everything that is pre-trained here; see :class:`tats_ray.methods.base.Method`."""

    def __init__(
        self,
        autoencoder: Autoencoder,
        planner: MaskPlanner,
        update: SamplerUpdate,
        *,
        importance: Importance | None = None,
        prediction: Prediction | None = None,
        grid: TokenGrid,
        global_batch: int,
        seed: int,
    ) -> None:
        self.autoencoder = autoencoder
        self.predict: Callable[[Tensor, Tensor, Tensor], Tensor] = autoencoder
        self.planner = planner
        self.update = update
        self.importance = importance
        self.prediction = prediction or PixelPrediction()
        self.grid = grid
        self.global_batch = global_batch
        self.seed = seed

    def compile(self) -> None:
        """Compile the autoencoder's passes; its parameters and their names stay as they are."""
        self.predict = torch.compile(self.autoencoder)

    @property
    def stage(self) -> str:
        """Stage of the sampler."""
        return self.update.stage

    @property
    def at_rest(self) -> bool:
        """Whether no rollout waits for an update."""
        return self.update.at_rest

    def modules(self) -> Mapping[str, nn.Module]:
        """The autoencoder, and a scorer under the name of its kind."""
        scorer = self.update.scorer
        return {"autoencoder": self.autoencoder} | ({} if scorer is None else {self.update.kind: scorer})

    def identity(self) -> Mapping[str, str]:
        """Nobody refers to these weights but by their files."""
        return {}

    def trainables(self) -> Mapping[str, nn.Module]:
        """The autoencoder, with the scorer in it when both share one loss, and the sampler when it learns apart."""
        scorer = self.update.scorer
        if scorer is None:
            return {"autoencoder": self.autoencoder}
        if self.update.stage == "joint":
            return {"autoencoder": nn.ModuleDict({"autoencoder": self.autoencoder, "scorer": scorer})}
        return {"autoencoder": self.autoencoder, "sampler": scorer}

    def train_step(self, batches: Iterable[ClipBatch], *, step: int, stepper: Stepper, averages: Averages) -> None:
        """Draw, reconstruct, learn; then let the sampler learn from the errors."""
        clips = 0
        for batch in batches:
            if len(batch) == 0:  # every clip of this share failed to decode
                continue
            with stepper.span("autoencoder"):
                self._accumulate(batch, step=step, stepper=stepper, averages=averages)
            clips += len(batch)
        stepper.step("autoencoder", clips=clips)
        with stepper.span("sampler"):
            self.update.improve(stepper, averages)

    def _accumulate(self, batch: ClipBatch, *, step: int, stepper: Stepper, averages: Averages) -> None:
        patches = patchify(batch.video, self.grid)
        with stepper.autocast():
            with stepper.span("sampler"):
                scores = self.update.score(patches, batch.truth)
                plan = self.plan(batch, patches, scores, step=step)
            prediction = self.predict(patches, plan.visible_idx, plan.target_idx)
        error = self.prediction.error(prediction, batch, patches, plan.target_idx)
        loss = weighted_mean(error, plan.target_weight)
        joint = self.update.joint_loss(plan, scores, error)
        stepper.accumulate("autoencoder", (loss if joint is None else loss + joint).sum())
        with stepper.span("sampler"):
            self.update.collect(patches, plan, scores, error.detach())
        averages.add("reconstruction/loss", loss)
        averages.add("sampler/site_coverage", site_coverage(plan.visible_idx, self.grid))

    def plan(self, batch: ClipBatch, patches: Tensor, scores: Scores | None, *, step: int) -> MaskPlan:
        """Choose a batch's visible tokens and targets; its noise is that of seed, step and the clips' rows."""
        noise = partial(exponential_clocks, seed=self.seed, device=batch.video.device)
        shape = (self.global_batch, self.grid.num_tokens)
        return self.planner.plan(
            scores,
            noise(shape, step=step)[batch.row],
            importance=None if self.importance is None else self.importance(batch, patches),
            target_clocks=noise((shape[0], shape[1] + 1), step=step + TARGETS)[batch.row]
            if self.planner.target.draws
            else None,
        )

    @property
    def time_slots(self) -> int:
        """Time slots of a clip."""
        return self.grid.time

    @torch.no_grad()
    def features(self, video: Tensor) -> Tensor:
        """Return the encoder's features of all tokens, averaged within each time slot, ``[batch, time * dim]``."""
        with self._evaluating():
            tokens = self.autoencoder.encoder(patchify(video, self.grid))
        return tokens.unflatten(1, (self.grid.time, -1)).mean(2).flatten(1)

    @torch.no_grad()
    def validate(self, held_out: HeldOut, *, averages: Averages) -> None:
        """Measure the error on common random masks, and what the sampler would do."""
        video = held_out.batch.video
        patches = patchify(video, self.grid)
        with self._evaluating():
            target_idx, error = self._random_mask_errors(held_out, count=self.planner.rule.count)
            scores = self.scores(patches, held_out.truth.get("mover"))
        common_error = self.random_mask_error(held_out, mask_ratio=COMMON_MASK_RATIO)
        averages.add("validation/random_mask_error", common_error)
        rewarded = self.update.reward(error, patches, target_idx)
        relative = rewarded / rewarded.mean(1, keepdim=True)
        averages.add("validation/error_spread", relative.std(1))
        if scores is None:
            return
        if scores.value is not None:
            gap = scores.value.gather(1, target_idx) - relative
            averages.add("validation/critic_error", gap.square().mean(1))
            averages.add("validation/error_variance", (relative - 1).square().mean(1))
            if self.stage == "policy":
                averages.add("sampler/value_slope", value_slope(scores.log_prob, scores.value))
        probability = scores.log_prob.exp()
        amounts = {"motion": frame_difference(video, self.grid), **held_out.truth}
        for name, amount in amounts.items():
            known = amount.sum(1) > 0
            averages.add(f"sampler/{name}_lift", lift(probability[known], amount[known]))

    @torch.no_grad()
    def random_mask_error(self, held_out: HeldOut, *, mask_ratio: float) -> Tensor:
        """Return each clip's error on a random mask, which its fixed noise and the ratio alone decide, ``[clips]``."""
        count = max(1, round(self.grid.num_tokens * (1 - mask_ratio)))
        with self._evaluating():
            return self._random_mask_errors(held_out, count=count)[1].mean(1)

    def scores(self, patches: Tensor, truth: Tensor | None = None) -> Scores | None:
        """Return the sampler's scores whatever its stage; None for a rule without preference.

        ``truth``, ``[batch, tokens]``, is what each token shows of a mover, for the one rule that asks for it.
        """
        return self.update.prefer(patches, truth)

    def after_validation(self, measured: Mapping[str, float], *, step: int) -> Mapping[str, float]:
        """Let the sampler switch its stages."""
        return self.update.after_validation(measured, step=step)

    @torch.no_grad()
    def snapshot(self, held_out: HeldOut) -> Snapshot:
        """Return the first held-out clip, its random, drawn and predicted tokens, and its reconstruction."""
        batch, clocks = held_out.batch.take(torch.arange(1, device=held_out.clocks.device)), held_out.clocks[:1]
        pixels = self.prediction.shows_pixels
        patches = patchify(batch.video, self.grid)
        mover = held_out.truth.get("mover")
        tubelet_size = batch.video.shape[1] // self.grid.time
        alone = torch.zeros(patches.shape, device=patches.device)
        restored = patches.float() / 255
        with self._evaluating():
            scores = self.scores(patches, None if mover is None else mover[:1])
            importance = None if self.importance is None else self.importance(batch, patches)
            noise = exponential_clocks((1, self.grid.num_tokens + 1), seed=0, step=TARGETS, device=clocks.device)
            plan = self.planner.plan(scores, clocks, importance=importance, target_clocks=noise)
            for target_idx, prediction in self.hidden_in_parts(patches, plan.visible_idx, clocks) if pixels else ():
                where = target_idx[:, :, None].expand_as(prediction)
                alone.scatter_(1, where, GREY + CONTRAST * prediction.float())
                restored.scatter_(1, where, denormalize(prediction, take_tokens(patches, target_idx)))
        hidden = self.grid.num_tokens - self.planner.rule.count
        all_hidden = self.planner.target.count == hidden and bool(plan.target_weight.all())
        return Snapshot(
            video=batch.video[0].cpu().numpy(),
            grid=self.grid,
            random_idx=random_tokens(clocks, count=self.planner.rule.count).sort(dim=1).values[0].cpu().numpy(),
            visible_idx=plan.visible_idx[0].cpu().numpy(),
            target_idx=None if all_hidden else plan.target_idx[0].cpu().numpy(),
            probability=None if scores is None else scores.log_prob[0].exp().cpu().numpy(),
            prediction=_picture(alone, self.grid, tubelet_size=tubelet_size) if pixels else None,
            restored=_picture(restored, self.grid, tubelet_size=tubelet_size) if pixels else None,
        )

    def state_dict(self) -> dict[str, object]:
        """State of the sampler's update beside its parameters."""
        return self.update.state_dict()

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.update.load_state_dict(state)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Switch dropout and drop path off."""
        for module in self.modules().values():
            module.eval()
        try:
            yield
        finally:
            for module in self.modules().values():
                module.train()

    def _random_mask_errors(self, held_out: HeldOut, *, count: int) -> tuple[Tensor, Tensor]:
        """Return the tokens that are hidden when ``count`` random ones are visible, and their errors."""
        found = []
        for some in torch.arange(len(held_out.batch), device=held_out.clocks.device).split(_CLIPS_AT_ONCE):
            batch, noise = held_out.batch.take(some), held_out.clocks[some]
            patches = patchify(batch.video, self.grid)
            visible_idx = random_tokens(noise, count=count).sort(dim=1).values
            parts = [
                (idx, self.prediction.error(prediction, batch, patches, idx))
                for idx, prediction in self.hidden_in_parts(patches, visible_idx, noise)
            ]
            found.append(tuple(torch.cat(part, dim=1) for part in zip(*parts, strict=True)))
        target_idx, error = (torch.cat(part) for part in zip(*found, strict=True))
        return target_idx, error

    def hidden_in_parts(self, patches: Tensor, visible_idx: Tensor, clocks: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all hidden tokens with their predictions, at most as many at once as the decoder is trained with.

        A decoder that has only seen few mask tokens is not asked for many; which come together is random.

        Args:
            patches: uint8 ``[batch, tokens, pixels]``.
            visible_idx: ``[batch, visible]``, sorted.
            clocks: ``[batch, tokens]``, any noise: its order parts the tokens.
        """
        hidden_idx = hidden_tokens(visible_idx, num_tokens=self.grid.num_tokens)
        parts = math.ceil(hidden_idx.shape[1] / self.planner.target.count)
        if parts > 1:
            hidden_idx = hidden_idx.gather(1, clocks.gather(1, hidden_idx).argsort(dim=1))
        for target_idx in hidden_idx.tensor_split(parts, dim=1):
            yield target_idx, self.predict(patches, visible_idx, target_idx)


def value_slope(log_prob: Tensor, value: Tensor) -> Tensor:
    """Return each clip's regression slope of log p on the critic, which approaches 1 / temperature, ``[clips]``.

    Clips whose critic is flat are left out.
    """
    centred = value - value.mean(1, keepdim=True)
    variance = centred.square().mean(1)
    slope = (log_prob * centred).mean(1) / variance
    return slope[variance > 1e-6]


def site_coverage(visible_idx: Tensor, grid: TokenGrid) -> Tensor:
    """Return the share of sites that are visible in at least one time slot, ``[batch]``."""
    sites = torch.zeros(visible_idx.shape[0], grid.slot_tokens, device=visible_idx.device)
    return sites.scatter_(1, visible_idx % grid.slot_tokens, 1.0).mean(1)


def _picture(patches: Tensor, grid: TokenGrid, *, tubelet_size: int) -> np.ndarray:
    pixels = (patches.clamp(0, 1) * 255).round().to(torch.uint8)
    return unpatchify(pixels, grid, tubelet_size=tubelet_size)[0].cpu().numpy()
