"""Stage one of LVMAE: training the adaptive tokenizer (Gundavarapu et al. 2024, arXiv 2411.13683, section 3.3)."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tats_ray.data.batches import ClipBatch
from tats_ray.geometry import TokenGrid
from tats_ray.masking.motion import frame_difference
from tats_ray.methods.averages import Averages
from tats_ray.methods.base import HeldOut, RebuiltSnapshot, Stepper
from tats_ray.methods.tokenizer_measures import measure_kept, measure_pixels
from tats_ray.tokenizer.adversarial import (
    Discriminator,
    LossConfig,
    PerceptualDistance,
    discriminator_loss,
    generator_loss,
    slope_penalty,
)
from tats_ray.tokenizer.model import AdaptiveTokenizer, Reconstruction, TokenizerConfig, as_pixels
from tats_ray.tokenizer.scorer import with_first_copied

_CLIPS_AT_ONCE = 8


class TokenizerTraining:
    """Encoder, decoder and scorer learn from one loss, a discriminator beside them; see :class:`base.Method`."""

    stage = "reconstruction"
    at_rest = True

    def __init__(
        self,
        tokenizer: AdaptiveTokenizer,
        losses: LossConfig,
        *,
        discriminator: Discriminator | None,
        perceptual: PerceptualDistance | Callable[[Tensor, Tensor], Tensor] | None,
        total_steps: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.rebuild: Callable[..., Reconstruction] = tokenizer
        self.losses = losses
        self.discriminator = discriminator
        self.perceptual = perceptual
        self.total_steps = total_steps

    def compile(self) -> None:
        """Compile the convolutions; the choice of the tokens stays as it is."""
        self.tokenizer.encoder.compile()
        self.tokenizer.decoder.compile()

    def modules(self) -> Mapping[str, nn.Module]:
        """The tokenizer, and a discriminator if there is one."""
        return {"tokenizer": self.tokenizer} | (
            {} if self.discriminator is None else {"discriminator": self.discriminator}
        )

    def trainables(self) -> Mapping[str, nn.Module]:
        """Each with an optimiser of its own."""
        return self.modules()

    def identity(self) -> Mapping[str, str]:
        """The tokenizer's content hash, by which its codes are told from others'."""
        return {"tokenizer": self.tokenizer.content_hash()}

    def train_step(self, batches: Iterable[ClipBatch], *, step: int, stepper: Stepper, averages: Averages) -> None:
        """Rebuild every clip, and learn from the difference; the discriminator learns from the same clips."""
        clips = 0
        judge = self.discriminator if step >= self.losses.adversarial_from * self.total_steps else None
        for batch in batches:
            if len(batch) == 0:  # every clip of this share failed to decode
                continue
            with stepper.span("autoencoder"):
                rebuilt = self._accumulate(batch, judge, step=step, stepper=stepper, averages=averages)
                if judge is not None:
                    self._accumulate_judge(judge, batch, rebuilt, stepper=stepper, averages=averages)
            clips += len(batch)
        stepper.step("tokenizer", clips=clips)
        if judge is not None:
            stepper.step("discriminator", clips=clips)

    def sigma(self, step: int) -> float:
        """Return the noise of the smoothed top-k at a step; it falls linearly over the run."""
        config = self.tokenizer.config
        return config.sigma + (config.sigma_end - config.sigma) * min(1.0, step / self.total_steps)

    def _accumulate(
        self, batch: ClipBatch, judge: Discriminator | None, *, step: int, stepper: Stepper, averages: Averages
    ) -> Tensor:
        """Add the tokenizer's gradient; return what it rebuilt, detached."""
        losses, real = self.losses, as_pixels(batch.video)
        with stepper.autocast():
            rebuilt = self.rebuild(batch.video, sigma=self.sigma(step)).pixels
        pixel_loss = (rebuilt - real).square().flatten(1).mean(1)
        loss = losses.pixel_weight * pixel_loss
        averages.add("reconstruction/loss", pixel_loss)
        if self.perceptual is not None:
            if isinstance(self.perceptual, nn.Module):
                self.perceptual.to(real.device)  # it is in no checkpoint, so that nobody else takes it there
            with stepper.autocast():
                distance = self.perceptual(rebuilt, real)
            loss = loss + losses.perceptual_weight * distance
            averages.add("tokenizer/perceptual_loss", distance)
        if judge is not None:
            with _unlearning(judge):
                verdict = generator_loss(judge(rebuilt))
                stepper.accumulate("tokenizer", (loss + losses.adversarial_weight * verdict).sum())
            averages.add("tokenizer/adversarial_loss", verdict)
        else:
            stepper.accumulate("tokenizer", loss.sum())
        return rebuilt.detach()

    def _accumulate_judge(
        self, judge: Discriminator, batch: ClipBatch, rebuilt: Tensor, *, stepper: Stepper, averages: Averages
    ) -> None:
        """Add the discriminator's gradient, in float32: its penalty is a slope of slopes."""
        real = as_pixels(batch.video).requires_grad_()
        verdict = judge(real)
        loss, penalty = discriminator_loss(verdict, judge(rebuilt)), slope_penalty(verdict, real)
        stepper.accumulate("discriminator", (loss + self.losses.r1_weight * penalty).sum())
        averages.add("tokenizer/discriminator_loss", loss)
        averages.add("tokenizer/slope_penalty", penalty)

    @property
    def time_slots(self) -> int:
        """Latent slices of a clip."""
        return self.tokenizer.grid.time

    @torch.no_grad()
    def features(self, video: Tensor) -> Tensor:
        """Return the codes of all tokens, averaged within each slice, ``[batch, time * dimensions]``."""
        codes = self.tokenizer.quantizer(self.tokenizer.latents(as_pixels(video)))
        return codes.unflatten(1, (self.time_slots, -1)).mean(2).flatten(1)

    @torch.no_grad()
    def validate(self, held_out: HeldOut, *, averages: Averages) -> None:
        """Measure how well clips are rebuilt from their best tokens, which codes are used, and what is kept."""
        tokenizer = self.tokenizer
        video, mover = held_out.batch.video, held_out.truth.get("mover")
        for part in torch.arange(len(video), device=video.device).split(_CLIPS_AT_ONCE):
            some = video[part]
            result, real = self.rebuild(some), as_pixels(some)
            measure_pixels(result.pixels.clamp(0, 1), real, averages)
            codes = tokenizer.quantizer(tokenizer.latents(as_pixels(some)))
            averages.tally("validation/code", tokenizer.quantizer.index(codes), size=tokenizer.quantizer.size)
            change = frame_difference(some, tokenizer.grid)
            measure_kept("motion", result.kept, change > change.mean(1, keepdim=True), tokenizer.grid, averages)
            if mover is not None:
                measure_kept("mover", result.kept, mover[part] > 0, tokenizer.grid, averages)

    def after_validation(self, measured: Mapping[str, float], *, step: int) -> Mapping[str, float]:
        """Nothing switches."""
        return {}

    @torch.no_grad()
    def snapshot(self, held_out: HeldOut) -> RebuiltSnapshot:
        """Return the first held-out clip, what is rebuilt of it, and the tokens that were kept."""
        video = held_out.batch.video[:1]
        result = self.rebuild(video)
        scores = with_first_copied(self.tokenizer.scorer(as_pixels(video)))
        pixels = (result.pixels[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 3, 0)
        return RebuiltSnapshot(
            video=video[0].cpu().numpy(),
            grid=self.tokenizer.grid,
            rebuilt=pixels.cpu().numpy(),
            kept_idx=result.kept[0].nonzero().flatten().cpu().numpy(),
            importance=scores[0].cpu().numpy(),
        )

    def state_dict(self) -> dict[str, object]:
        """All state is in the parameters."""
        return {}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take over what :meth:`state_dict` returned."""


def build_tokenizer(
    config: TokenizerConfig, losses: LossConfig, *, grid: TokenGrid, total_steps: int
) -> TokenizerTraining:
    """Build the modules, initialised from torch's global generator, and the method around them.

    Raises:
        ValueError: Settings that do not fit together, or weights of a perceptual network that cannot be used.
    """
    tokenizer = AdaptiveTokenizer(config, grid=grid)
    judge = None
    if losses.adversarial_weight:
        frames, side = grid.time * config.tubelet_size, grid.height * config.patch_size
        judge = Discriminator(channels=losses.discriminator_channels, frames=frames, side=side)
    perceptual = None
    if losses.perceptual_weight and not next(tokenizer.parameters()).is_meta:
        assert losses.perceptual_weights is not None  # LossConfig has seen to it
        perceptual = PerceptualDistance(Path(losses.perceptual_weights))
    return TokenizerTraining(tokenizer, losses, discriminator=judge, perceptual=perceptual, total_steps=total_steps)


def tokenizer_flops(config: TokenizerConfig, losses: LossConfig, *, grid: TokenGrid) -> dict[str, int]:
    """Return the counted FLOPs of one clip's training step: tokenizer and discriminator.

    A forward and backward pass counts three forward passes. The discriminator sees a clip three times, the real one,
    the rebuilt one, and that again for the tokenizer; the penalty's second slope and a perceptual network are left out.
    """
    with torch.device("meta"):
        method = build_tokenizer(config, losses, grid=grid, total_steps=1)
        frames, side = grid.time * config.tubelet_size, grid.height * config.patch_size
        pixels = torch.zeros(1, 3, frames, side, side)
        counter = FlopCounterMode(display=False)
        with counter:
            method.tokenizer.decode(method.tokenizer.latents(pixels))
            method.tokenizer.scorer(pixels)
        tokenizer = counter.get_total_flops()
        if method.discriminator is None:
            return {"tokenizer": 3 * tokenizer}
        counter = FlopCounterMode(display=False)
        with counter:
            method.discriminator(pixels)
    return {"tokenizer": 3 * tokenizer, "discriminator": 9 * counter.get_total_flops()}


@contextmanager
def _unlearning(module: nn.Module) -> Iterator[None]:
    """Keep the gradient of a loss that passes through a module from it."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
