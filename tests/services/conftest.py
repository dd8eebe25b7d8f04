"""Real servers, started by the very commands of deploy/compose.yaml with this machine's addresses in them.

PostgreSQL (Debian's package), SeaweedFS, MLflow, and two Ray nodes at loopback addresses of their own; every port and
folder is new, every password random, and only processes that were started here are ended.
"""

import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tats_ray.data.listing import list_sources
from tats_ray.data.manifest import Manifest
from tats_ray.data.probe import probe_record
from tats_ray.data.synthetic import SyntheticConfig, make_videos

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
HEAD, NODE = "127.0.0.2", "127.0.0.3"
READY_SECONDS = 300.0
"""For a server to answer; a loaded machine takes its time."""
SETTINGS = [  # a step takes some ten milliseconds
    "cluster.use_gpu=false",
    "data.num_frames=4",
    "data.crop_size=16",
    "data.held_out=4",
    "model.patch_size=4",
    "model.encoder.embed_dim=16",
    "model.encoder.depth=1",
    "model.encoder.num_heads=2",
    "model.decoder.embed_dim=16",
    "model.decoder.num_heads=2",
    "masking.visible.embed_dim=8",
    "training.global_batch=4",
    "training.micro_batch=2",
]


def wait_until(done: Callable[[], object], *, what: str, seconds: float = READY_SECONDS) -> Any:
    """Ask again until the answer is true; errors of a server that is not there yet count as no.

    Raises:
        TimeoutError: It has never been true.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            if answer := done():
                return answer
        except OSError:  # includes refused connections and HTTP errors
            pass
        if time.monotonic() > until:
            raise TimeoutError(f"{what} within {seconds:g} s")
        time.sleep(0.5)


@dataclass(frozen=True)
class Services:
    """Where everything is."""

    folder: Path
    """Logs, and what all nodes share."""
    scratch: Path
    """Short enough for sockets: Ray's sessions, PostgreSQL's and the store's data."""
    ports: dict[str, int]
    passwords: dict[str, str] = field(repr=False)
    """By the names of deploy/example.env, and one that only the head knows."""

    def translate(self, text: str) -> str:
        """Replace what belongs to containers by this machine's addresses, ports and folders, in one pass."""
        table = {
            "postgres:5432": f"127.0.0.1:{self.ports['postgres']}",
            "store:8333": f"127.0.0.1:{self.ports['s3']}",
            "mlflow:5000": f"127.0.0.1:{self.ports['mlflow']}",
            "ray-head:": f"{HEAD}:",
            "-ip=store": "-ip=127.0.0.1",
            "0.0.0.0": "127.0.0.1",
            "5000": str(self.ports["mlflow"]),
            "8333": str(self.ports["s3"]),
            "6379": str(self.ports["gcs"]),
            "8265": str(self.ports["dashboard"]),
            "8080": str(self.ports["metrics"]),
            "44217": str(self.ports["autoscaler_metrics"]),
            "44227": str(self.ports["dashboard_metrics"]),
            "/data": str(self.scratch / "store"),
            "/shared": str(self.folder / "shared"),
        }
        return re.sub("|".join(map(re.escape, table)), lambda found: table[found[0]], text)

    def command(self, service: str) -> list[str]:
        """Return the command of a service of compose.yaml for this machine."""
        return [self.translate(word) for word in COMPOSE["services"][service]["command"]]

    def environment(self, service: str) -> dict[str, str]:
        """Return the environment of a service of compose.yaml for this machine, passwords filled in."""
        values = COMPOSE["services"][service]["environment"]
        filled = {k: re.sub(r"\$\{(\w+):\?[^}]*\}", lambda m: self.passwords[m[1]], v) for k, v in values.items()}
        return {name: self.translate(value) for name, value in filled.items()}

    @property
    def mlflow(self) -> str:
        return f"http://127.0.0.1:{self.ports['mlflow']}"

    @property
    def job_server(self) -> str:
        return f"http://127.0.0.1:{self.ports['dashboard']}"

    def ray(self, *words: str, token: str | None = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``ray`` as from another shell: it knows the head's address and the token, and nothing else."""
        known = {"RAY_AUTH_TOKEN": token or self.passwords["RAY_AUTH_TOKEN"]} if token is not None else {}
        plain = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        home = self.folder / "home"  # without a token file
        home.mkdir(exist_ok=True)
        return subprocess.run(
            [str(BIN / "ray"), *words],
            env={**plain, "HOME": str(home), "RAY_ADDRESS": self.job_server, "RAY_AUTH_MODE": "token", **known},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=check,
            timeout=1800,
        )


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def process(
    command: list[str], *, log: Path, env: Mapping[str, str], ready: Callable[[], object], user: str | None = None
) -> Iterator[None]:
    """Run a server until the end of the block; end it and all that it started."""
    with log.open("wb") as out:
        # Nothing of this shell's Ray or MLflow settings reaches it.
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "AWS_", "PG"))}
        server = subprocess.Popen(
            command,
            env={**clean, **env},
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=[] if user else None,
        )
    try:

        def answers() -> object:
            if server.poll() is not None:
                raise ChildProcessError(f"{command[0]} ended with {server.returncode}")
            return ready()

        try:
            wait_until(answers, what=f"{Path(command[0]).name} answers")
        except (TimeoutError, ChildProcessError) as error:
            raise RuntimeError(f"{error}:\n{log.read_text(errors='replace')[-4000:]}") from error
        yield
    finally:
        try:
            started = psutil.Process(server.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            started = []
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:  # Ray's nodes, which end their processes one after the other
            server.kill()
            server.wait()
        for child in started:
            with suppress(psutil.NoSuchProcess):
                child.terminate()
        for child in psutil.wait_procs(started, timeout=10)[1]:
            child.kill()


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()


@contextmanager
def postgres(services: Services) -> Iterator[None]:
    """A PostgreSQL of its own; its server refuses to be root's."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    if not programs:
        pytest.fail("PostgreSQL's server is missing (Debian's package postgresql); `make test-services` installs it")
    user = "postgres" if os.getuid() == 0 else None
    data = services.scratch / "postgres"
    data.mkdir(mode=0o700)
    password = services.scratch / "initial"
    password.write_text(services.passwords["POSTGRES_PASSWORD"])
    if user:
        for path in (data, password):
            os.chown(path, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
    names = COMPOSE["services"]["postgres"]["environment"]
    port = services.ports["postgres"]
    owner, database = names["POSTGRES_USER"], names["POSTGRES_DB"]
    subprocess.run(
        [programs[-1] / "initdb", "-D", data, "-U", owner, f"--pwfile={password}", "-A", "scram-sha-256", "-E", "UTF8"],
        check=True,
        capture_output=True,
        user=user,
        group=user,
        extra_groups=[] if user else None,
        cwd="/",
    )
    password.unlink()
    import psycopg2  # of the extra that `make test-services` installs; other tests are collected without it

    def connection(name: str) -> Any:
        return psycopg2.connect(
            host="127.0.0.1", port=port, user=owner, dbname=name, password=services.passwords["POSTGRES_PASSWORD"]
        )

    def ready() -> bool:
        try:
            connection("postgres").close()
        except psycopg2.OperationalError:
            return False
        return True

    command = [str(programs[-1] / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(data)]
    with process(command, log=services.folder / "postgres.log", env={}, ready=ready, user=user):
        with closing(connection("postgres")) as made:
            made.autocommit = True
            made.cursor().execute(f"CREATE DATABASE {database}")
        yield


@contextmanager
def store(services: Services) -> Iterator[None]:
    """The S3-compatible store, with ports for its inner parts beside those that compose.yaml names."""
    (services.scratch / "store").mkdir()
    parts = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    own = [f"-{part}={port}" for part, port in zip((*parts, "s3.port.grpc"), free_ports(7), strict=True)]
    ready = lambda: socket.create_connection(("127.0.0.1", services.ports["s3"]), 1).close() or True  # noqa: E731
    command = [str(BIN / "weed"), *services.command("store"), *own]
    with process(command, log=services.folder / "store.log", env=services.environment("store"), ready=ready):
        yield


@contextmanager
def mlflow_server(services: Services) -> Iterator[None]:
    """MLflow's server, by the command of compose.yaml."""
    command = services.command("mlflow")
    env = {"PATH": f"{BIN}:{os.environ['PATH']}", **services.environment("mlflow")}
    ready = lambda: _get(services.mlflow + "/health") == b"OK"  # noqa: E731
    with process([str(BIN / command[0]), *command[1:]], log=services.folder / "mlflow.log", env=env, ready=ready):
        yield


@contextmanager
def ray_nodes(services: Services) -> Iterator[None]:
    """Ray's head, by the command of compose.yaml, and a second node; two CPUs in the account of each."""
    common = ["--num-cpus=2", "--object-store-memory=500000000", "--min-worker-port=0", "--max-worker-port=0"]
    ports = services.ports
    env = {
        **services.environment("ray-head"),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "AUTOSCALER_METRIC_PORT": str(ports["autoscaler_metrics"]),
        "DASHBOARD_METRIC_PORT": str(ports["dashboard_metrics"]),
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
        "RAY_worker_niceness": "0",  # with Ray's 15 a worker starts for minutes beside anything else
        "PLANTED_API_KEY": services.passwords["PLANTED_API_KEY"],
        # For results in a bucket, as a secret of the pods would hold them.
        **services.environment("store"),
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{services.ports['s3']}",
        "AWS_REGION": "us-east-1",
        "TATS_COPIES": str(services.folder / "copies"),
        # A server behind a proxy asks for a name and a password, and people write both into the address.
        "MLFLOW_TRACKING_URI": services.mlflow.replace("//", f"//someone:{services.passwords['PLANTED_PASSWORD']}@"),
    }
    head = services.command("ray-head")
    head += [*common, f"--temp-dir={services.scratch / 'ray'}", f"--node-ip-address={HEAD}"]
    head += [f"--ray-client-server-port={ports['client']}", f"--dashboard-agent-listen-port={ports['head_agent']}"]
    node = ["ray", "start", "--block", f"--address={HEAD}:{ports['gcs']}", f"--node-ip-address={NODE}", *common]
    # A folder of its own: in the head's it would unpack a job's files anew, beneath the feet of the job's driver.
    node += [f"--temp-dir={services.scratch / 'node'}"]
    node += ["--disable-usage-stats", f"--metrics-export-port={ports['node_metrics']}"]
    node += [f"--dashboard-agent-listen-port={ports['node_agent']}"]
    with ExitStack() as stack:
        for name, command, metrics in (("head", head, ports["metrics"]), ("node", node, ports["node_metrics"])):
            address = HEAD if name == "head" else NODE
            ready = lambda at=address, port=metrics: b"ray_node_cpu_count" in _get(f"http://{at}:{port}/metrics")  # noqa: E731
            server = process(
                [str(BIN / "ray"), *command[1:]], log=services.folder / f"ray_{name}.log", env=env, ready=ready
            )
            stack.enter_context(server)
        yield


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """All servers, up and answering."""
    names = ("postgres", "s3", "mlflow", "gcs", "dashboard", "metrics", "node_metrics", "autoscaler_metrics")
    names += ("dashboard_metrics", "client", "head_agent", "node_agent", "prometheus")
    secret = ("POSTGRES_PASSWORD", "S3_SECRET_KEY", "RAY_AUTH_TOKEN", "GRAFANA_PASSWORD")
    scratch = Path(tempfile.mkdtemp(prefix="tats_"))
    scratch.chmod(0o755)  # PostgreSQL's user passes through
    services = Services(
        folder=tmp_path_factory.mktemp("services"),
        scratch=scratch,
        ports=dict(zip(names, free_ports(len(names)), strict=True)),
        passwords={name: secrets.token_hex(24) for name in (*secret, "PLANTED_API_KEY", "PLANTED_PASSWORD")},
    )
    (services.folder / "shared").mkdir()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a test run that is ended ends its servers
    try:
        with postgres(services), store(services), mlflow_server(services), ray_nodes(services):
            yield services
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture(scope="session")
def wait() -> Callable[..., Any]:
    return wait_until


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    return process


@pytest.fixture(scope="session")
def settings(services: Services) -> list[str]:
    """Settings of a run of the smallest model on two dozen videos that all nodes see."""
    manifest = _made(services.folder / "shared" / "videos", SyntheticConfig(num_videos=24, frames=8, size=32))
    return [*SETTINGS, f"data.manifest={manifest}", f"results={services.folder / 'shared' / 'results'}"]


@pytest.fixture(scope="session")
def labelled(services: Services) -> list[str]:
    """Manifests of two classes of motion, to learn and to test on."""
    sets = {"learnt": SyntheticConfig(num_videos=12, frames=8, size=32, motions=2, seed=1)}
    sets["tested"] = sets["learnt"].model_copy(update={"num_videos": 8, "seed": 2})
    return [str(_made(services.folder / "shared" / name, config)) for name, config in sets.items()]


def _made(folder: Path, config: SyntheticConfig) -> Path:
    """Make videos and their manifest."""
    make_videos(folder, config)
    listed = list_sources(folder / "videos.txt" if config.motions else folder)
    manifest = folder.with_suffix(".parquet")
    Manifest.of([probe_record(source, label=label) for source, label in listed]).write(manifest)
    return manifest
