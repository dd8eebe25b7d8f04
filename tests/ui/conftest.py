"""A store that real runs made, MLflow's UI on it, and a browser before it."""

import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tats_ray.config.labels import describe_sweep
from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.data.listing import list_sources
from tats_ray.data.manifest import Manifest
from tats_ray.data.probe import probe_record
from tats_ray.data.synthetic import SyntheticConfig, make_videos
from tats_ray.driver import conduct
from tats_ray.recipes import recipe
from tats_ray.tracking.base import RunHandle
from tats_ray.tracking.mlflow import end_run, open_run
from tats_ray.tracking.store import ui_command
from tats_ray.training.context import LocalContext
from tats_ray.worker import Launch, run_alone

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
STEPS = 60
SWEEP = "sweep_mask_ratio-0001"
INSTALL = "make test-ui needs Chromium and its driver; install them (Debian: apt-get install chromium chromium-driver)"


@dataclass(frozen=True)
class Site:
    """The UI, and what it must show."""

    address: str
    experiment_id: str
    run: RunHandle
    picture: str
    """Name of one of the run's pictures."""
    sweep: RunHandle
    trials: tuple[str, ...]
    """Names of the sweep's runs."""

    def page(self, path: str) -> str:
        return f"{self.address}/#/experiments/{self.experiment_id}/{path}"


def train(launch: Launch) -> None:
    run_alone(launch, LocalContext(torch.device("cpu")))


@pytest.fixture(scope="session")
def site(
    tmp_path_factory: pytest.TempPathFactory, mlflow_on: Callable[..., AbstractContextManager[str]], free_port: int
) -> Iterator[Site]:
    """Train the tiny recipe for a minute, and a family of three below a sweep; serve what they recorded."""
    results = tmp_path_factory.mktemp("results")
    make_videos(results / "videos", SyntheticConfig(num_videos=12, frames=16, size=48))
    found = [probe_record(source, label=label) for source, label in list_sources(results / "videos")]
    Manifest.of(found).write(results / "videos" / "synthetic.parquet")
    knobs = {
        "results": str(results),
        "data.manifest": str(results / "videos" / "synthetic.parquet"),
        "data.held_out": 4,
        "cluster.num_workers": 0,
        "cluster.use_gpu": False,
        "training.steps": STEPS,
        "training.validate_every": 5,
        "training.picture_every": STEPS,
        "tracking.log_every": 2,
        "masking.visible.switch.critic_by": 0.2,
        "masking.visible.switch.policy_by": 0.4,
    }
    run = change(recipe("tiny"), knobs.items())
    launch = conduct(run, train).launch
    picture = next((launch.folder / "pictures").glob("tokens_*.png")).name
    sweep, trials = _family(run, results)
    with mlflow_on(shlex.split(ui_command(launch.handle.uri)), port=free_port) as address:
        yield Site(address, launch.handle.experiment_id, launch.handle, picture, sweep, trials)


def _family(run: TrainRun, results: Path) -> tuple[RunHandle, tuple[str, ...]]:
    folder = results / "sweep_mask_ratio" / "0001"
    folder.mkdir(parents=True)
    knobs = ("masking.mask_ratio", "masking.visible.kind")
    sweep = open_run(
        run.tracking.model_copy(update={"run_name": SWEEP}),
        results_root=results,
        folder=folder,
        params=run.model_dump(mode="json"),
        tags={"tats.kind": "sweep", "tats.sweep": SWEEP},
        description=describe_sweep(run, knobs=knobs, metric="validation/random_mask_error", mode="min"),
    )
    names = []
    for kind, ratio in (("random", 0.8), ("adamae", 0.8), ("adamae", 0.6)):
        name = f"{kind}-{ratio:g}"
        shorter = {"training.steps": 20, "masking.visible.kind": kind, "masking.mask_ratio": ratio, "name": name}
        names.append(f"{name}-0001")
        conduct(change(run, shorter.items()), train, parent_run_id=sweep.run_id)
    end_run(sweep, status="FINISHED")
    return sweep, tuple(names)


SEEN_BEFORE = {"mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true", "mlflow.workflowType_v1": '"machine_learning"'}
"""What MLflow's pages keep in a browser: that the panel of its assistant was seen, and that runs are of training."""


@pytest.fixture(scope="session")
def browser(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium that asks nobody but the server."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.fail(INSTALL, pytrace=False)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless",
        "--no-sandbox",  # which root, in a container, cannot have
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--window-size=1600,1300",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(flag)
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    opened.set_page_load_timeout(120)
    opened.get(site.address)
    for name, value in SEEN_BEFORE.items():
        opened.execute_script("localStorage.setItem(...arguments)", name, value)
    yield opened
    opened.quit()


@pytest.fixture
def shoot(browser: Any, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Path]]:
    """Keep a picture of the page; a test that fails leaves one anyway."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)

    def keep(name: str) -> Path:
        path = SCREENSHOTS / f"{name}.png"
        assert browser.save_screenshot(str(path))
        return path

    yield keep
    keep(f"last_of_{request.node.name}")
