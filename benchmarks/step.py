"""Time of one training step, as ratios in one run: ours against transformers' VideoMAE, and each sampler against tubes.

    python benchmarks/step.py --size small --batch 2 --rounds 5            # CPU, eager, fp32
    python benchmarks/step.py --size base --batch 64 --precision bf16 --device cuda [--compile]

Equal shapes, masks, threads and precision; forward, backward and AdamW. Contenders take turns, so that a machine that
changes its speed changes it for all. transformers is given normalised float clips, whose making is not counted; ours
takes uint8 clips as they are decoded. FLOPs are counted by ``tats_ray.nn.cost``.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from tats_ray.data.clips import ClipBatch
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
from tats_ray.training.context import LocalContext
from tats_ray.training.optim import OptimConfig, constant_trainable, cosine_trainable
from tats_ray.training.stepper import GradientStepper

Step = Callable[[int], None]
FRAMES, PIXELS, TUBELET, PATCH, RATIO = 16, 224, 2, 16, 0.9
GRID = TokenGrid.of(num_frames=FRAMES, crop_size=PIXELS, tubelet_size=TUBELET, patch_size=PATCH)


def main() -> None:
    """Parse, time, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "small", "base", "large"), default="small")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*", help="contenders to run beside the first (default: all)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    model = ModelConfig(encoder=EncoderConfig.of_size(options.size), decoder=DecoderConfig.of_size(options.size))
    video = torch.randint(0, 256, (options.batch, FRAMES, PIXELS, PIXELS, 3), dtype=torch.uint8).to(device)
    # The policy is on from the first rollout; one rollout a step, so that every step carries its share of the updates.
    tats = TATSConfig(switch=SwitchConfig(critic_by=0, policy_by=0), ppo=PPOConfig(rollout_steps=1, target_kl=10))
    rules: dict[str, VisibleConfig] = {"ours, tube": TubeConfig(), "ours, adamae": AdaMAEConfig(), "ours, tats": tats}
    contenders: dict[str, tuple[Step, float]] = {}
    for name, rule in rules.items():
        flops = sum(training_flops(model, MaskingConfig(mask_ratio=RATIO, visible=rule), grid=GRID).values())
        contenders[name] = (our_step(model, rule, video, options), flops * options.batch)
    contenders["transformers, tube"] = (their_step(model, video, options), contenders["ours, tube"][1])
    if options.only is not None:
        contenders = {name: it for name, it in contenders.items() if name == "ours, tube" or name in options.only}
    report(contenders, options, device)


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
            trainables[name] = cosine_trainable(module, OptimConfig(), global_batch=len(video), total_steps=10**6)
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


def report(contenders: dict[str, tuple[Step, float]], options: argparse.Namespace, device: torch.device) -> None:
    """Time all contenders in turns; print medians, spread and ratios to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    memory: dict[str, float] = {}
    for number in range(options.rounds + 2):
        for name, (step, _) in contenders.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            step(number)
            if device.type == "cuda":
                torch.cuda.synchronize()
                memory[name] = torch.cuda.max_memory_allocated() / 2**30
            if number >= 2:  # the first two warm caches, allocators and compilers up
                seconds[name].append(time.perf_counter() - began)
    print(
        f"ViT-{options.size}, {FRAMES} x {PIXELS}^2, ratio {RATIO}, batch {options.batch}, {options.precision}, "
        f"{'compiled' if options.compile else 'eager'}, {device}, {options.threads} threads, torch {torch.__version__}"
    )
    columns = ("s a step (min to max)", 26), ("clips/s", 9), ("time", 7), ("FLOPs", 7), ("GFLOP/s", 8), ("GiB", 6)
    print(f"{'contender':<20}", *(f"{title:>{width}}" for title, width in columns))
    first, (_, first_flops) = next(iter(contenders.items()))
    for name, (_, flops) in contenders.items():
        taken = seconds[name]
        ratio = statistics.median(mine / base for mine, base in zip(taken, seconds[first], strict=True))
        median = statistics.median(taken)
        spread = f"{median:.3f} ({min(taken):.3f} to {max(taken):.3f})"
        peak = f"{memory[name]:.2f}" if name in memory else "-"
        print(
            f"{name:<20} {spread:>26} {options.batch / median:>9.2f} {ratio:>6.2f}x {flops / first_flops:>6.2f}x "
            f"{flops / median / 1e9:>8.0f} {peak:>6}"
        )


if __name__ == "__main__":
    main()
