"""Time of one training step, as ratios in one run: ours against transformers' VideoMAE, and each sampler against tubes.

    python benchmarks/step.py --size small --batch 2 --rounds 5            # CPU, eager, fp32
    python benchmarks/step.py --size base --batch 64 --precision bf16 --device cuda [--compile]

Equal shapes, masks, threads and precision; forward, backward and AdamW. Contenders take turns, so that a machine that
changes its speed changes it for all; a ratio is the median of the rounds' ratios to ours with tubes. ``--clock cpu``
counts the processor time of all threads instead of the wall's: on a machine that others use too, with --threads 1, it
is the steadier figure. transformers is given normalised float clips, whose making is not counted; ours takes uint8
clips as they are decoded. FLOPs are counted by ``tats_ray.nn.cost``.

Peak memory is that of three steps in a fresh process, weights, optimiser and clips included: torch's allocations on a
GPU, on a CPU the growth of the process's resident set, which holds freed memory too.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from tats_ray.data.batches import ClipBatch
from tats_ray.geometry import TokenGrid
from tats_ray.masking.adamae import AdaMAEConfig
from tats_ray.masking.draws import exponential_clocks
from tats_ray.masking.fixed import TubeConfig, random_tubes
from tats_ray.masking.tats import SwitchConfig, TATSConfig
from tats_ray.methods.averages import Averages
from tats_ray.methods.build import MaskingConfig, ModelConfig, VisibleConfig, build_method, training_flops
from tats_ray.nn.decoder import DecoderConfig
from tats_ray.nn.encoder import EncoderConfig
from tats_ray.rl.ppo import PPOConfig
from tats_ray.tracking.provenance import provenance_tags
from tats_ray.training.context import LocalContext
from tats_ray.training.optim import OptimConfig, constant_trainable, scheduled_trainable
from tats_ray.training.stepper import GradientStepper

Step = Callable[[int], None]
FRAMES, PIXELS, TUBELET, PATCH, RATIO = 16, 224, 2, 16, 0.9
GRID = TokenGrid.of(num_frames=FRAMES, crop_size=PIXELS, tubelet_size=TUBELET, patch_size=PATCH)
RULES: dict[str, VisibleConfig] = {
    "ours, tube": TubeConfig(),
    "ours, adamae": AdaMAEConfig(),
    # The policy is on from the first rollout; one rollout a step, so that every step carries its share of the updates.
    "ours, tats": TATSConfig(
        switch=SwitchConfig(critic_by=0, policy_by=0), ppo=PPOConfig(rollout_steps=1, target_kl=10)
    ),
}
THEIRS = "transformers, tube"


def main() -> None:
    """Parse, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "small", "base", "large"), default="small")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--only", nargs="*", help="contenders to run beside the first (default: all)")
    parser.add_argument("--record", type=Path, help="append one JSON line a contender to this file")
    options = parser.parse_args()
    names = [name for name in (*RULES, THEIRS) if not options.only or name in ("ours, tube", *options.only)]
    # A process each, before this one holds anything on the device.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        memory = dict(zip(names, pool.map(partial(peak_gib, options=options), names), strict=True))
    torch.set_num_threads(options.threads)
    seconds = in_turns({name: contender(name, options) for name in names}, options)
    report(seconds, memory, options)


def contender(name: str, options: argparse.Namespace) -> Step:
    """Return a function that trains one step of this contender."""
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, FRAMES, PIXELS, PIXELS, 3)
    video = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(options.device)
    if name == THEIRS:
        return their_step(model_of(options), video, options)
    return our_step(model_of(options), RULES[name], video, options)


def model_of(options: argparse.Namespace) -> ModelConfig:
    """The shape that both sides are built to."""
    return ModelConfig(encoder=EncoderConfig.of_size(options.size), decoder=DecoderConfig.of_size(options.size))


def step_flops(name: str, options: argparse.Namespace) -> float:
    """Counted FLOPs of a step; transformers' are put equal to ours, though it does more."""
    masking = MaskingConfig(mask_ratio=RATIO, visible=RULES.get(name, TubeConfig()))
    return options.batch * sum(training_flops(model_of(options), masking, grid=GRID).values())


def peak_gib(name: str, *, options: argparse.Namespace) -> float:
    """Return the peak memory of a few steps; to be called in a fresh process."""
    torch.set_num_threads(options.threads)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = contender(name, options)
    for number in range(3):
        step(number)
    if torch.device(options.device).type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20  # Linux counts in KiB


def our_step(model: ModelConfig, rule: VisibleConfig, video: torch.Tensor, options: argparse.Namespace) -> Step:
    """Return a function that trains one step of ours."""
    torch.manual_seed(0)
    masking = MaskingConfig(mask_ratio=RATIO, visible=rule)
    method = build_method(model, masking, grid=GRID, total_steps=10**6, global_batch=len(video), seed=0)
    for module in method.modules().values():
        module.to(video.device)
    trainables = {}
    for name, module in method.trainables().items():
        if name == "sampler":
            trainables[name] = constant_trainable(module, learning_rate=1e-5, max_grad_norm=0.5)
        else:
            trainables[name] = scheduled_trainable(module, OptimConfig(), global_batch=len(video), total_steps=10**6)
    context = LocalContext(video.device)
    stepper = GradientStepper(trainables, context, precision=options.precision, max_skipped_steps=0)
    if options.compile:
        method.compile()
    for step in (1, 2):  # random, critic, policy
        method.after_validation({"validation/error_spread": 0.0, "validation/explained_variance": 0.0}, step=step)
    batch = ClipBatch(video=video, row=torch.arange(len(video), device=video.device))
    return lambda step: method.train_step([batch], step=step, stepper=stepper, averages=Averages())


def their_step(model: ModelConfig, video: torch.Tensor, options: argparse.Namespace) -> Step:
    """Return a function that trains one step of transformers' VideoMAE with tube masks."""
    torch.manual_seed(0)
    encoder, decoder = model.encoder, model.decoder
    config = VideoMAEConfig(
        image_size=PIXELS, patch_size=PATCH, num_frames=FRAMES, tubelet_size=TUBELET,
        hidden_size=encoder.embed_dim, num_hidden_layers=encoder.depth, num_attention_heads=encoder.num_heads,
        intermediate_size=int(encoder.embed_dim * encoder.mlp_ratio), layer_norm_eps=1e-6, use_mean_pooling=False,
        decoder_hidden_size=decoder.embed_dim, decoder_num_hidden_layers=decoder.depth,
        decoder_num_attention_heads=decoder.num_heads,
        decoder_intermediate_size=int(decoder.embed_dim * decoder.mlp_ratio), norm_pix_loss=True,
    )  # fmt: skip
    network = VideoMAEForPreTraining(config).to(video.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.05)
    forward = torch.compile(network) if options.compile else network
    mean = torch.tensor(IMAGENET_DEFAULT_MEAN, device=video.device)
    std = torch.tensor(IMAGENET_DEFAULT_STD, device=video.device)
    pixels = ((video.float() / 255 - mean) / std).permute(0, 1, 4, 2, 3).contiguous()
    sites = GRID.slot_tokens - int(GRID.slot_tokens * RATIO)

    def step(number: int) -> None:
        clocks = exponential_clocks((len(video), GRID.num_tokens), seed=0, step=number, device=video.device)
        hidden = torch.ones(len(video), GRID.num_tokens, dtype=torch.bool, device=video.device)
        hidden.scatter_(1, random_tubes(clocks, sites=sites, grid=GRID), False)
        with torch.autocast(video.device.type, dtype=torch.bfloat16, enabled=options.precision == "bf16"):
            loss = forward(pixel_values=pixels, bool_masked_pos=hidden).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def in_turns(contenders: dict[str, Step], options: argparse.Namespace) -> dict[str, list[float]]:
    """Time all contenders in turns; seconds of each round."""
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(options.rounds + 2):
        for name, step in contenders.items():
            if torch.device(options.device).type == "cuda":
                torch.cuda.synchronize()
            began = clock()
            step(number)
            if torch.device(options.device).type == "cuda":
                torch.cuda.synchronize()
            if number >= 2:  # the first two warm caches, allocators and compilers up
                seconds[name].append(clock() - began)
    return seconds


def report(seconds: dict[str, list[float]], memory: dict[str, float], options: argparse.Namespace) -> None:
    """Print medians, spread and ratios to the first; append them to the record."""
    print(
        f"ViT-{options.size}, {FRAMES} x {PIXELS}^2, ratio {RATIO}, batch {options.batch}, {options.precision}, "
        f"{'compiled' if options.compile else 'eager'}, {options.device}, {options.threads} threads, "
        f"{options.clock} clock, torch {torch.__version__}"
    )
    columns = ("s a step (min to max)", 26), ("clips/s", 9), ("time (min to max)", 20), ("FLOPs", 7), ("GiB", 6)
    print(f"{'contender':<20}", *(f"{title:>{width}}" for title, width in columns))
    first = next(iter(seconds))
    for name, taken in seconds.items():
        ratios = [mine / base for mine, base in zip(taken, seconds[first], strict=True)]
        ratio, median = statistics.median(ratios), statistics.median(taken)
        flops = step_flops(name, options) / step_flops(first, options)
        spread = f"{median:.3f} ({min(taken):.3f} to {max(taken):.3f})"
        against = f"{ratio:.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
        print(
            f"{name:<20} {spread:>26} {options.batch / median:>9.2f} {against:>20} {flops:>6.2f}x {memory[name]:>6.2f}"
        )
        if options.record is not None:
            line = {
                "contender": name, "date": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": taken,
                "time_ratio": ratio, "flops_ratio": flops, "peak_gib": memory[name],
                **{key: str(value) for key, value in vars(options).items() if key not in ("record", "only")},
                **provenance_tags(),
            }  # fmt: skip
            with options.record.open("a") as record:
                record.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
