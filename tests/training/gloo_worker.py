"""One of the processes of ``test_two_workers.py``: trains its share of a few global batches, and saves what it got.

Run as ``gloo_worker.py RANK WORLD_SIZE FOLDER``; the processes meet in a file of the folder.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from tats_ray.data.batches import ClipBatch
from tats_ray.geometry import TokenGrid
from tats_ray.masking.adamae import AdaMAEConfig
from tats_ray.masking.tats import TATSConfig
from tats_ray.methods.averages import Averages
from tats_ray.methods.build import MaskingConfig, ModelConfig, build_method
from tats_ray.nn.decoder import DecoderConfig
from tats_ray.nn.encoder import EncoderConfig
from tats_ray.rl.ppo import PPOConfig
from tats_ray.training.context import DistributedContext, LocalContext
from tats_ray.training.loop import reduce_means, seeded
from tats_ray.training.optim import Trainable
from tats_ray.training.stepper import GradientStepper

CLIPS, STEPS = 8, 6
GRID = TokenGrid(time=2, height=2, width=4)


@dataclass(frozen=True)
class Scenario:
    """Which clips of each global batch decoded, and which gradient breaks."""

    name: str
    decoded: tuple[int, ...] = tuple(range(CLIPS))
    broken_step: int | None = None
    target_kl: float = 10.0
    micro_batch: int = CLIPS
    dropout: bool = False  # AdaMAE's, the only one


SCENARIOS = (
    Scenario("all"),
    Scenario("one share lost", decoded=(0, 1, 2, 3)),
    Scenario("some lost", decoded=(0, 5, 7)),
    Scenario("not finite", broken_step=1),
    Scenario("early stop", target_kl=1e-9),
    Scenario("dropout", micro_batch=CLIPS // 2, dropout=True),
)


def play(scenario: Scenario, context: LocalContext) -> dict[str, object]:
    """Train one worker's share; return its weights and everything it decided."""
    torch.manual_seed(0)
    model = ModelConfig(
        encoder=EncoderConfig(embed_dim=16, depth=1, num_heads=2),
        decoder=DecoderConfig(embed_dim=16, depth=1, num_heads=2),
        patch_size=4,
    )
    ppo = PPOConfig(rollout_steps=2, update_epochs=2, target_kl=scenario.target_kl, target_nats=0.1)
    tats, adamae = TATSConfig(embed_dim=8, num_heads=2, ppo=ppo), AdaMAEConfig(num_heads=2, dropout=0.5)
    masking = MaskingConfig(mask_ratio=0.75, visible=adamae if scenario.dropout else tats)
    method = build_method(model, masking, grid=GRID, total_steps=STEPS, global_batch=CLIPS, seed=0)
    if not scenario.dropout:
        torch.nn.init.normal_(method.modules()["tats"].get_parameter("actor.weight"))
    # Plain descent: AdamW would turn the rounding of a gradient that is zero, a key's bias, into full steps.
    trainables = {
        name: Trainable(module, torch.optim.SGD(module.parameters(), lr=0.05), max_grad_norm=0.5, schedule=None)
        for name, module in method.trainables().items()
    }
    stepper = GradientStepper(trainables, context, precision="fp32", max_skipped_steps=10)
    averages, decisions = Averages(), []
    for step in range(STEPS):
        if step == 1:
            for spread in (1.0, 0.0, 0.0):
                measured = {"validation/error_spread": spread, "validation/explained_variance": 1.0}
                method.after_validation(measured, step=0)
        stepper.begin_step(step)
        batches = _share(scenario, step, context)
        if step == scenario.broken_step and context.rank == context.world_size - 1:
            stepper.accumulate("autoencoder", next(method.autoencoder.parameters()).sum() * torch.inf)
        batches = seeded(batches, context.device, seed=0, step=step, stepper=stepper)
        method.train_step(batches, step=step, stepper=stepper, averages=averages)
        decisions.append(
            (method.stage, method.at_rest, stepper.skipped_steps, method.state_dict(), dict(stepper.grad_norms))
        )
    return {
        "weights": {
            f"{name}.{key}": value
            for name, module in method.modules().items()
            for key, value in module.state_dict().items()
        },
        "decisions": decisions,
        "means": reduce_means(averages, context),
    }


def _share(scenario: Scenario, step: int, context: LocalContext) -> list[ClipBatch]:
    noise = torch.Generator().manual_seed(step)
    video = torch.randint(0, 256, (CLIPS, 4, 8, 16, 3), dtype=torch.uint8, generator=noise)
    part = CLIPS // context.world_size
    mine = [row for row in scenario.decoded if row // part == context.rank]
    cuts = [[row for row in mine if row // scenario.micro_batch == cut] for cut in range(CLIPS // scenario.micro_batch)]
    return [ClipBatch(video=video[cut], row=torch.tensor(cut, dtype=torch.int64)) for cut in cuts]


if __name__ == "__main__":
    rank, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=world_size)
    played = {scenario.name: play(scenario, DistributedContext(torch.device("cpu"))) for scenario in SCENARIOS}
    torch.save(played, folder / f"rank_{rank}.pt")
    dist.destroy_process_group()
