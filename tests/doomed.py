"""A script, ``doomed.py RUN_JSON``: trains a run, and is killed outright after its fifth step."""

import os
import signal
import sys
from pathlib import Path

import torch

from tats_ray.config.run import TrainRun
from tats_ray.driver import conduct
from tats_ray.training.context import LocalContext
from tats_ray.worker import run_alone


class Doomed(LocalContext):
    def progress(self, state):
        if state.step == 5:
            os.kill(os.getpid(), signal.SIGKILL)


torch.set_num_threads(1)
run = TrainRun.model_validate_json(Path(sys.argv[1]).read_text())
conduct(run, lambda launch: run_alone(launch, Doomed(torch.device("cpu"))))
