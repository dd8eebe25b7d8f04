"""A secret is planted wherever a user may have one, and looked for in all that runs leave and say."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tats_ray.config.run import TrainRun
from tats_ray.data.manifest import Manifest

ROOT = Path(__file__).parents[2]
SECRET = "hunter2-of-all-secrets"
ENVIRONMENT = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
SCRIPT = """
import json, sys
from pipelines.pretrain import main
for arguments in json.loads(sys.argv[1]):
    print("exit status", main(arguments), flush=True)
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """Address, with a password, of a server of the files in ``tmp_path/web``."""
    (tmp_path / "web").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "web")))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://me:{SECRET}@127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def manifest(tmp_path: Path, write_manifest: Callable[[Path], Path], web: str) -> str:
    """Address of a manifest of ten videos, three of which are on the server, or were."""
    videos = Manifest.read(write_manifest(tmp_path / "videos"))
    rows = [videos.record(row) for row in range(len(videos))]
    gone = [replace(record, path=f"{web}/{record.id}.mp4") for record in rows[:3]]
    Manifest.of([*gone, *rows[3:]]).write(tmp_path / "web" / "ten.parquet")
    return f"{web}/ten.parquet"


def test_no_secret_is_in_any_file_or_word(
    tmp_path: Path, manifest: str, web: str, small_run: Callable[..., TrainRun]
) -> None:
    results = tmp_path / "results"
    run = small_run("secret", manifest=Path("later"), results=results, knobs={"data.max_failed_share": 1.0})
    (tmp_path / "base.json").write_text(run.model_dump_json())
    base = ["--config", str(tmp_path / "base.json")]
    commands = {
        0: [*base, f"data.manifest={manifest}"],
        1: [*base, f"data.manifest={manifest}", "data.on_error=fail", "name=lost"],
        2: [*base, f"data.manifest={web}/none.parquet", "name=none"],
        3: [*base, f"data.manifest={manifest}", f"tracking.uri=http://me:{SECRET}@127.0.0.1:9", "name=away"],
        4: [*base, f"data.manifest={manifest}", "--dry-run"],
        5: [*base, f"data.manifest={manifest}", "data.held_out=2", "seed=1", f"init={web}/checkpoint"],
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "RAY_"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(list(commands.values()))],
        cwd=ROOT,
        env=kept | dict.fromkeys(ENVIRONMENT, SECRET) | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert re.findall(r"exit status (\d)", done.stdout) == ["0", "1", "1", "1", "0", "1"], done.stderr
    said = {"stdout": done.stdout, "stderr": done.stderr}
    assert [name for name, text in said.items() if SECRET in text] == [], "\n".join(said.values())
    files = [path for path in results.rglob("*") if path.is_file()]
    assert {"mlflow.db", "run.yaml", "quarantine.csv", "error.log", "status.json"} <= {path.name for path in files}
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    # It was there to be found: each of these names the file or the server that a secret opens.
    assert "http://127.0.0.1" in (results / "secret" / "0001" / "quarantine.csv").read_text()
    assert "http://127.0.0.1" in (results / "lost" / "0001" / "error.log").read_text()
    assert done.stderr.count("http://127.0.0.1") >= 3
