"""Settings of an evaluation, and how a command line changes them."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, model_validator

from tats_ray.config.overrides import ConfigError, flatten, knobs, unknown_knob
from tats_ray.data.guard import GuardConfig
from tats_ray.data.views import Crops
from tats_ray.evaluation.knn import KNNConfig
from tats_ray.evaluation.probes import AttentiveConfig, LinearConfig
from tats_ray.evaluation.ridge import RidgeConfig

Task = Literal["knn", "ridge", "linear", "attentive", "health"]
TASKS: tuple[Task, ...] = get_args(Task)
B = TypeVar("B", bound=BaseModel)


class ExtractionConfig(BaseModel):
    """Where features are extracted."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    num_workers: int = Field(default=1, ge=0)
    """Ray actors that hold the encoder; 0 extracts in this process without Ray. The features are the same."""
    use_gpu: StrictBool | None = None
    """One GPU for each actor; null takes one when the machine or cluster has enough."""
    cpus_per_worker: int = Field(default=1, ge=1)
    """CPUs that each actor reserves; decoding takes what is left."""
    decode_cpus: int | None = Field(default=None, ge=1)
    """CPUs that decoding may take over the whole cluster; null for all that are left."""


class EvaluationConfig(GuardConfig):
    """What is asked of a frozen encoder, and how."""

    segments: int = Field(default=2, ge=1)
    """Test views along time, evenly spaced from the first clip that fits to the last."""
    crops: Crops = 3
    """Test views across: the middle square (1), or three along the longer side (3)."""
    train_segments: int = Field(default=1, ge=1)
    """Views along time of each training video, of its middle square; each is a row to train on. The ridge probe takes
    the middle one alone, since its penalty is chosen as if rows were independent."""
    num_frames: int | None = Field(default=None, ge=1)
    """Frames of a view; null takes as many as the encoder was trained on. Positions are fixed, so that an encoder of
    short clips can be shown long ones."""
    short_videos: Literal["hold", "loop", "refuse"] | None = None
    """A video shorter than a view has its last frame held, begins again (loop), or counts as undecodable; null does as
    the checkpoint's run did."""
    token_ratios: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(1.0, 0.25), min_length=1)
    """Shares of the tokens that the encoder sees, each an evaluation of its own: random ones, equally many in each time
    slot. The health task asks for frames reversed and shuffled at the largest."""
    knn: KNNConfig = KNNConfig()
    """Nearest neighbours, on mean features."""
    ridge: RidgeConfig = RidgeConfig()
    """Ridge regression, on the means of the time slots."""
    linear: LinearConfig = LinearConfig()
    """Linear probe, on mean features."""
    attentive: AttentiveConfig = AttentiveConfig()
    """Attentive probe, on all tokens."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Fixes drawn tokens, shuffled frames, probes and intervals."""
    batch: int = Field(default=32, ge=1)
    """Views that the encoder sees at once."""
    features_gib: float = Field(default=32.0, gt=0)
    """Most that the tokens for the attentive probe may take, in GiB, on the disk and again in memory."""
    allow_overlap: StrictBool = False
    """Test on videos although the encoder was pre-trained on them, or the probes are trained on them."""
    tracking_uri: str | None = None
    """MLflow store; null takes the one that the checkpoint's run was recorded in."""
    cluster: ExtractionConfig = ExtractionConfig()
    """Where features are extracted."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [ratio_name(ratio) for ratio in self.token_ratios]
        if len(set(names)) < len(names):
            raise ValueError(
                f"token_ratios must differ by a per cent at least, got {self.token_ratios}; results are named by it"
            )
        return self


def ratio_name(token_ratio: float) -> str:
    """Return what stands behind a metric's name for a share of the tokens: nothing for all of them, ``_25``, ..."""
    return "" if token_ratio == 1 else f"_{100 * token_ratio:.0f}"


def changed(config: B, overrides: Iterable[tuple[str, Any]]) -> B:
    """Return the settings with those at the given dotted paths replaced.

    Raises:
        ConfigError: An unknown path (with the nearest valid ones), or a value that breaks a rule.
    """
    tree = config.model_dump(mode="json")
    types = {knob.path: knob.type for knob in knobs(config)}
    for path, value in overrides:
        if path not in types:
            raise unknown_knob(path, types)
        if isinstance(value, bool) and "bool" not in types[path]:  # pydantic would take true for 1
            raise ConfigError(f"{path}: must be {types[path]}, got {str(value).lower()}")
        *parents, leaf = path.split(".")
        node = tree
        for name in parents:
            node = node[name]
        node[leaf] = int(value) if leaf == "crops" and value in ("1", "3") else value  # a literal is no number to parse
    try:
        made = type(config).model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_explained(item) for item in error.errors(include_url=False))) from error
    for path, value in flatten(made.model_dump()).items():
        if isinstance(value, float) and value in (float("inf"), float("-inf")):
            raise ConfigError(f"{path}: must be finite, got {value}")
    return made


def tasks_of(names: Iterable[str]) -> tuple[Task, ...]:
    """Return the tasks that go by some names, each once, in the order of ``TASKS``.

    Raises:
        ConfigError: One is unknown, or there are none.
    """
    given = list(names)
    if unknown := [name for name in given if name not in TASKS]:
        raise ConfigError(f"--task must be one or more of {' '.join(TASKS)}, got {' '.join(unknown)!r}")
    if not given:
        raise ConfigError(f"--task must name one or more of {' '.join(TASKS)}, got none")
    return tuple(task for task in TASKS if task in given)


def _explained(item: Any) -> str:
    path = ".".join(str(part) for part in item["loc"])
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{path}: {message}" if path and path.split(".")[-1] not in message else message
    return f"{path}: {message[0].lower()}{message[1:]}, got {item['input']!r}"
