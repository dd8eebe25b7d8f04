"""What a longer clip costs, by the share of its tokens that the decoder predicts: FLOPs, time and memory of a step.

    python benchmarks/long_video.py --size tiny --pixels 64 --frames 16 32 64 128 --rounds 3
    python benchmarks/long_video.py --size base --pixels 224 --batch 4 --precision bf16 --device cuda

One step of the autoencoder: tubes at 0.9, forward, backward and AdamW, for each number of frames, share of targets and
form of attention. Two thirds of the targets are the most important tokens (by frame difference), one third is random;
``all`` predicts every hidden token and asks for no importance. ``sdpa`` lets torch choose, ``math`` forms every matrix
of scores, which is what makes long clips run out of memory; their FLOPs are equal.

Each case has a process of its own. Seconds are medians of the rounds after two more. Peak memory is that of all its
steps, weights, optimiser and clips included: torch's allocations on a GPU; on a CPU the growth of the resident set,
which holds freed memory too. ``choice`` is what scores, rankings, draws and gathers take, measured apart, as a share of
a step. FLOPs are what ``tats_ray.nn.cost`` says; ``counted`` is what ``torch.utils.flop_counter`` finds on shapes.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tats_ray.data.batches import ClipBatch
from tats_ray.geometry import TokenGrid
from tats_ray.masking.fixed import TubeConfig
from tats_ray.masking.importance import ChangeConfig
from tats_ray.masking.important import ImportantConfig
from tats_ray.methods.averages import Averages
from tats_ray.methods.build import MaskingConfig, ModelConfig, build_method, mask_planner, training_flops
from tats_ray.methods.masked_autoencoder import MaskedAutoencoding
from tats_ray.nn.cost import autoencoder_macs, forward_flops
from tats_ray.nn.decoder import DecoderConfig
from tats_ray.nn.encoder import EncoderConfig
from tats_ray.nn.patches import normalized_patches, patchify, take_tokens
from tats_ray.tracking.provenance import provenance_tags
from tats_ray.training.context import LocalContext
from tats_ray.training.optim import OptimConfig, scheduled_trainable
from tats_ray.training.stepper import GradientStepper

ATTENTION = ("sdpa", "math")
WARM = 2


@dataclass(frozen=True)
class Case:
    """One cell of the table."""

    frames: int
    budget: str  # "all", or targets in per cent of all tokens
    attention: str


@dataclass(frozen=True)
class Found:
    """What was measured of it; None where memory did not suffice."""

    seconds: list[float] | None
    choice: float | None  # share of a step
    peak_gib: float | None


def main() -> None:
    """Parse, measure, print a table, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "small", "base", "large"), default="tiny")
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument(
        "--patch", type=int, default=None, help="pixels of a token's side (default: 8 for tiny, else 16)"
    )
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--budgets", nargs="+", default=["all", "50", "25", "15", "10", "5"])
    parser.add_argument("--attention", nargs="+", choices=ATTENTION, default=list(ATTENTION))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, default=3, help="steps that are timed; 0 counts FLOPs and runs nothing")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: of all threads of the process")
    parser.add_argument("--record", type=Path, help="append one JSON line a case to this file")
    parser.add_argument("--plot", type=Path, help="draw FLOPs, seconds and memory to this PNG file")
    options = parser.parse_args()
    options.patch = options.patch or (8 if options.size == "tiny" else 16)
    lines = []
    print(heading(options))
    for case in (Case(*cell) for cell in product(options.frames, options.budgets, options.attention)):
        found = in_own_process(case, options) if options.rounds else Found(None, None, None)
        lines.append(line_of(case, found, options))
        print(row(lines[-1]), flush=True)
        if options.record is not None:
            with options.record.open("a") as record:
                record.write(json.dumps(lines[-1]) + "\n")
    if options.plot is not None:
        draw(lines, options.plot)


def model_of(options: argparse.Namespace) -> ModelConfig:
    """The autoencoder."""
    return ModelConfig(
        encoder=EncoderConfig.of_size(options.size),
        decoder=DecoderConfig.of_size(options.size),
        patch_size=options.patch,
    )


def masking_of(case: Case) -> MaskingConfig:
    """Tubes, and targets of a budget."""
    if case.budget == "all":
        return MaskingConfig(mask_ratio=0.9, visible=TubeConfig())
    share = float(case.budget) / 100
    target = ImportantConfig(top_share=share * 2 / 3, random_share=share / 3)
    return MaskingConfig(mask_ratio=0.9, visible=TubeConfig(), target=target, importance=ChangeConfig())


def grid_of(case: Case, options: argparse.Namespace) -> TokenGrid:
    """How the clip is cut."""
    return TokenGrid.of(num_frames=case.frames, crop_size=options.pixels, tubelet_size=2, patch_size=options.patch)


def modelled_flops(case: Case, options: argparse.Namespace) -> tuple[int, int]:
    """Return the cost model's FLOPs of a clip's training step, and of one pass through the decoder."""
    model, grid = model_of(options), grid_of(case, options)
    planner = mask_planner(masking_of(case), grid)
    macs = autoencoder_macs(
        model.encoder,
        model.decoder,
        visible=planner.rule.count,
        target=planner.target.count,
        patch_pixels=model.patch_pixels,
    )
    decoding = forward_flops(macs.bridge + macs.decoder + macs.head)
    return sum(training_flops(model, masking_of(case), grid=grid).values()), decoding


def counted_flops(case: Case, options: argparse.Namespace) -> int:
    """Return what torch counts for a clip's forward and backward pass, on shapes alone."""
    model, grid = model_of(options), grid_of(case, options)
    planner = mask_planner(masking_of(case), grid)
    with torch.device("meta"):  # drawing weights looks at numbers, which shapes alone have not
        autoencoder = build_method(
            model, masking_of(case), grid=grid, total_steps=1, global_batch=1, seed=0
        ).autoencoder
    shapes = FakeTensorMode(allow_non_fake_inputs=True)
    with shapes, FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        autoencoder.to_empty(device="cpu")
        patches = torch.zeros(1, grid.num_tokens, model.patch_pixels, dtype=torch.uint8)
        sets = (torch.zeros(1, count, dtype=torch.int64) for count in (planner.rule.count, planner.target.count))
        autoencoder(patches, *sets).sum().backward()
    return counter.get_total_flops()


def in_own_process(case: Case, options: argparse.Namespace) -> Found:
    """Measure in a fresh process, which may run out of memory alone."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(measure, case, options).result()
        except (BrokenProcessPool, torch.OutOfMemoryError):  # the kernel ended it, or the GPU is full
            return Found(None, None, None)


def measure(case: Case, options: argparse.Namespace) -> Found:
    """Train some steps."""
    torch.set_num_threads(options.threads)
    cuda = torch.device(options.device).type == "cuda"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.manual_seed(0)
    grid = grid_of(case, options)
    method = build_method(
        model_of(options), masking_of(case), grid=grid, total_steps=10**6, global_batch=options.batch, seed=0
    )
    method.autoencoder.to(options.device)
    trainable = scheduled_trainable(method.autoencoder, OptimConfig(), global_batch=options.batch, total_steps=10**6)
    stepper = GradientStepper(
        {"autoencoder": trainable},
        LocalContext(torch.device(options.device)),
        precision=options.precision,
        max_skipped_steps=0,
    )
    shape = (options.batch, case.frames, options.pixels, options.pixels, 3)
    video = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = ClipBatch(video, row=torch.arange(options.batch)).to(options.device)
    with attention(case):
        step = timed(
            lambda number: method.train_step([batch], step=number, stepper=stepper, averages=Averages()), options
        )
        patches = patchify(batch.video, grid)
        choice = timed(lambda number: choose(method, batch, patches, step=number), options)
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else _grown_gib(before)
    return Found(step, statistics.median(choice) / statistics.median(step), peak)


def attention(case: Case) -> AbstractContextManager[object]:
    """What torch may use."""
    return sdpa_kernel(SDPBackend.MATH) if case.attention == "math" else nullcontext()


@torch.no_grad()
def choose(method: MaskedAutoencoding, batch: ClipBatch, patches: torch.Tensor, *, step: int) -> None:
    """Do what a step does to choose tokens and to gather them; it cuts clips into patches whatever is chosen."""
    plan = method.plan(batch, patches, None, step=step)
    take_tokens(patches, plan.visible_idx)
    normalized_patches(take_tokens(patches, plan.target_idx)[:, :1])  # gathered; normalising is not choosing


def timed(run: Callable[[int], None], options: argparse.Namespace) -> list[float]:
    """Return seconds of each round; the first two warm caches and allocators up."""
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    cuda = torch.device(options.device).type == "cuda"
    seconds = []
    for number in range(options.rounds + WARM):
        if cuda:
            torch.cuda.synchronize()
        began = clock()
        run(number)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(clock() - began)
    return seconds[WARM:]


def _grown_gib(before: int) -> float:
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20  # Linux counts in KiB


def line_of(case: Case, found: Found, options: argparse.Namespace) -> dict[str, object]:
    """Return everything known of a case."""
    modelled, decoding = modelled_flops(case, options)
    _, dense = modelled_flops(Case(case.frames, "all", case.attention), options)
    return {
        **asdict(case),
        **asdict(found),
        "tokens": grid_of(case, options).num_tokens,
        "flops": modelled,
        "counted_flops": counted_flops(case, options),
        "decoding_flops": decoding,
        "decoding_share_of_dense": decoding / dense,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **{
            key: str(value)
            for key, value in vars(options).items()
            if key in ("size", "pixels", "patch", "batch", "device", "precision", "rounds", "threads", "clock")
        },
        **provenance_tags(),
    }


def heading(options: argparse.Namespace) -> str:
    """Return the first two lines of the table."""
    columns = " ".join(
        f"{title:>{width}}"
        for title, width in (
            ("frames", 6), ("tokens", 7), ("targets", 8), ("attention", 9), ("GFLOPs", 9), ("counted", 9),
            ("decoding", 9), ("s a step (min to max)", 26), ("choice", 7), ("GiB", 6),
        )
    )  # fmt: skip
    return (
        f"ViT-{options.size}, {options.pixels} pixels in patches of {options.patch}, batch {options.batch}, "
        f"{options.precision}, {options.device}, {options.threads} threads, {options.clock} clock, torch "
        f"{torch.__version__}; decoding: against all hidden tokens\n{columns}"
    )


def row(line: dict) -> str:
    """Return one line of the table."""
    share = line["budget"] if line["budget"] == "all" else f"{line['budget']} %"
    flops = f"{line['flops'] / 1e9:>9.2f} {line['counted_flops'] / 1e9:>9.2f} {line['decoding_share_of_dense']:>9.3f}"
    begin = f"{line['frames']:>6} {line['tokens']:>7} {share:>8} {line['attention']:>9} {flops}"
    if line["seconds"] is None:
        return f"{begin} {'out of memory' if int(line['rounds']) else 'not run':>26}"
    taken = line["seconds"]
    spread = f"{statistics.median(taken):.3f} ({min(taken):.3f} to {max(taken):.3f})"
    return f"{begin} {spread:>26} {line['choice']:>7.3f} {line['peak_gib']:>6.2f}"


def draw(lines: list[dict], path: Path) -> None:
    """Draw FLOPs, seconds and memory against frames, a line for each budget."""
    mpl.use("Agg")
    figure, panels = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    budgets = list(dict.fromkeys(line["budget"] for line in lines))
    values: tuple[Callable[[dict], float], ...] = (
        lambda line: line["flops"] / 1e9,
        lambda line: float("nan") if line["seconds"] is None else statistics.median(line["seconds"]),
        lambda line: float("nan") if line["peak_gib"] is None else line["peak_gib"],
    )
    titles = ("GFLOPs of a clip's step", "seconds of a step", "peak memory, GiB")
    for panel, value, title in zip(panels, values, titles, strict=True):
        for number, budget in enumerate(budgets):
            for form, style in (("sdpa", "-"), ("math", ":")):
                mine = [line for line in lines if (line["budget"], line["attention"]) == (budget, form)]
                label = f"{budget}{'' if budget == 'all' else ' %'}, {form}"
                if mine:
                    where, what = [line["frames"] for line in mine], [value(line) for line in mine]
                    panel.plot(where, what, style, marker="o", markersize=3, color=f"C{number}", label=label)
        panel.set(title=title, xlabel="frames", xscale="log", yscale="log")
        panel.set_xticks(sorted({line["frames"] for line in lines}), sorted({line["frames"] for line in lines}))
        panel.minorticks_off()
    figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside right center", title="targets, attention")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
