"""Small things that many tests share: one grid, random clips, a method around tiny modules."""

import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch

from tats_ray.config.files import to_yaml
from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.data.batches import ClipBatch
from tats_ray.data.listing import list_sources
from tats_ray.data.manifest import Manifest
from tats_ray.data.probe import probe_record
from tats_ray.data.synthetic import SyntheticConfig, make_videos
from tats_ray.geometry import TokenGrid
from tats_ray.masking.tats import TATSConfig
from tats_ray.methods.build import MaskingConfig, ModelConfig, VisibleConfig, build_method
from tats_ray.methods.masked_autoencoder import MaskedAutoencoding
from tats_ray.nn.decoder import DecoderConfig
from tats_ray.nn.encoder import EncoderConfig
from tats_ray.recipes import recipe
from tats_ray.rl.ppo import PPOConfig
from tats_ray.training.context import LocalContext, WorkerContext
from tats_ray.training.optim import OptimConfig, constant_trainable, scheduled_trainable
from tats_ray.training.state import capture, write_checkpoint
from tats_ray.training.stepper import GradientStepper

FRAMES, SIDE = 8, 16
SERVER_SECONDS = 180
"""When to give up on a server that starts; 20 are enough for it alone."""
SMALL = {
    "cluster.num_workers": 0,
    "cluster.use_gpu": False,
    "data.num_frames": 4,
    "data.crop_size": 16,
    "data.held_out": 2,
    "model.patch_size": 4,
    "model.encoder.embed_dim": 16,
    "model.encoder.depth": 1,
    "model.encoder.num_heads": 2,
    "model.decoder.embed_dim": 16,
    "model.decoder.num_heads": 2,
    "masking.mask_ratio": 0.9,
    "masking.visible.embed_dim": 8,
    "masking.visible.switch.critic_by": 0.1,
    "masking.visible.switch.policy_by": 0.2,  # so that the sampler has learnt something before an interruption
    "masking.visible.ppo.rollout_steps": 2,
    "training.steps": 8,
    "training.global_batch": 4,
    "training.micro_batch": 4,
    "training.validate_every": 1,
    "training.picture_every": 8,
    "training.checkpoint_every": 2,
    "tracking.log_every": 1,
}
MODEL = ModelConfig(
    encoder=EncoderConfig(embed_dim=16, depth=1, num_heads=2),
    decoder=DecoderConfig(embed_dim=16, depth=1, num_heads=2),
    patch_size=4,
)


@pytest.fixture(autouse=True, scope="session")
def _signals_of_a_terminal() -> None:
    """A job in the background, or under nohup, ignores signals that tests send; so would the processes they start."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Results that do not depend on the cores of the machine, and no threads that wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_run() -> Callable[..., TrainRun]:
    """Make a run of eight steps of a second each or less, on videos of four frames or more; knobs change it."""

    def make(name: str, *, manifest: Path, results: Path, knobs: Mapping[str, object] | None = None) -> TrainRun:
        own = {"name": name, "data.manifest": str(manifest), "results": str(results)}
        return change(recipe("tiny"), {**SMALL, **own, **(knobs or {})}.items())

    return make


@pytest.fixture(scope="session")
def write_manifest() -> Callable[[Path], Path]:
    """Make ten synthetic videos of eight frames in a folder; return their manifest."""

    def write(folder: Path) -> Path:
        make_videos(folder, SyntheticConfig(num_videos=10, frames=8, size=32))
        path = folder / "ten.parquet"
        Manifest.of([probe_record(source, label=label) for source, label in list_sources(folder)]).write(path)
        return path

    return write


@pytest.fixture(scope="session")
def save_run() -> Callable[..., Path]:
    """Write the folder of a run whose weights are noise, so that every output differs from token to token."""

    def save(run: TrainRun, *, steps: tuple[int, ...] = (8,), number: str = "0001") -> Path:
        assert run.results is not None
        folder = Path(run.results) / run.name / number
        folder.mkdir(parents=True)
        (folder / "run.yaml").write_text(to_yaml(run))
        method = build_method(run.model, run.masking, grid=run.grid, total_steps=8, global_batch=4, seed=run.seed)
        noise = torch.Generator().manual_seed(run.seed)
        for step in steps:
            for module in method.modules().values():
                for parameter in module.parameters():
                    torch.nn.init.normal_(parameter, std=0.3, generator=noise)
            captured = capture(
                step=step,
                modules=method.modules(),
                trainables={},
                state={"method": method.state_dict()},
                measured={},
                run_id=None,
            )
            write_checkpoint(folder / "checkpoints", captured)
        return folder

    return save


@pytest.fixture(scope="session")
def mlflow_on() -> Callable[..., AbstractContextManager[str]]:
    """Let MLflow serve at a port of this machine until a block ends; the block has its address."""

    @contextmanager
    def serve(command: Sequence[str], *, port: int) -> Iterator[str]:
        address = f"http://127.0.0.1:{port}"
        own = [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        with subprocess.Popen(own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                began = time.monotonic()
                while not _answers(f"{address}/health"):
                    assert process.poll() is None, own
                    assert time.monotonic() - began < SERVER_SECONDS
                    time.sleep(0.2)
                yield address
            finally:
                process.terminate()

    return serve


@pytest.fixture(scope="session")
def free_port() -> int:
    """A port of this machine that nobody listened at a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
    return True


@pytest.fixture(scope="session")
def grid() -> TokenGrid:
    return TokenGrid(time=4, height=4, width=4)


@pytest.fixture(scope="session")
def model() -> ModelConfig:
    return MODEL


@pytest.fixture(scope="session")
def tats() -> TATSConfig:
    """A small sampler that updates often."""
    return TATSConfig(embed_dim=8, num_heads=2, ppo=PPOConfig(rollout_steps=2, update_epochs=2))


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., ClipBatch]:
    """Make clips of noise that depend on their rows alone, so that shares of a batch hold the same clips."""

    def make(rows: range | list[int], *, seed: int = 0) -> ClipBatch:
        noise = torch.Generator().manual_seed(seed)
        every = torch.randint(0, 256, (8, FRAMES, SIDE, SIDE, 3), dtype=torch.uint8, generator=noise)
        row = torch.tensor(list(rows), dtype=torch.int64)
        return ClipBatch(video=every[row], row=row)

    return make


@pytest.fixture(scope="session")
def make_method(grid: TokenGrid) -> Callable[..., MaskedAutoencoding]:
    """Build a method around tiny modules, of 8 clips a step."""

    def make(visible: VisibleConfig, *, seed: int = 0, total_steps: int = 100) -> MaskedAutoencoding:
        torch.manual_seed(seed)
        masking = MaskingConfig(mask_ratio=0.75, visible=visible)
        return build_method(MODEL, masking, grid=grid, total_steps=total_steps, global_batch=8, seed=seed)

    return make


@pytest.fixture(scope="session")
def make_stepper() -> Callable[..., GradientStepper]:
    """Give every trainable of a method its optimiser, as a worker does."""

    def make(
        method: MaskedAutoencoding, *, context: WorkerContext | None = None, config: OptimConfig | None = None
    ) -> GradientStepper:
        config = config or OptimConfig(base_learning_rate=0.05, warmup_share=0.0)
        trainables = {
            name: constant_trainable(module, learning_rate=3e-3, max_grad_norm=0.5)
            if name == "sampler"
            else scheduled_trainable(module, config, global_batch=8, total_steps=100)
            for name, module in method.trainables().items()
        }
        context = context or LocalContext(torch.device("cpu"))
        return GradientStepper(trainables, context, precision="fp32", max_skipped_steps=config.max_skipped_steps)

    return make


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests measured beside what they assert, such as each sampler's preference for movers."""
    for report in terminalreporter.stats.get("passed", []):
        if report.when == "call" and report.user_properties:
            measured = ", ".join(f"{name} {value:.3g}" for name, value in report.user_properties)
            terminalreporter.write_line(f"{report.nodeid.split('::')[-1]}: {measured}")
