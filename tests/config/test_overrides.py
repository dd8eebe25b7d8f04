import itertools
import random
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tats_ray.config.files import read_run, to_yaml
from tats_ray.config.overrides import ConfigError, change, flatten, knobs, parse_override
from tats_ray.config.run import TrainRun
from tats_ray.data.manifest import WeightedManifest
from tats_ray.masking.adamae import AdaMAEConfig
from tats_ray.masking.fixed import TubeConfig
from tats_ray.masking.tats import TATSConfig
from tats_ray.recipes import RECIPES, recipe

TINY = recipe("tiny")

VALUES: dict[str, tuple[object, ...]] = {
    "seed": (0, 7),
    "name": ("other", "a.b-c_1"),
    "results": (None, "/tmp/results", "~/with blank: and colon"),
    "data.flip": (True, False),
    "data.crop_scales": ([1.0], [1.0, 0.5]),
    "data.short_videos": ("hold", "loop", "refuse"),
    "masking.mask_ratio": (0.9, 0.95),  # lower ones leave the long recipes more visible tokens than targets
    "masking.visible.kind": ("random", "tube", "adamae", "tats"),
    "optim.max_grad_norm": (None, 1.0),
    "optim.betas": ([0.9, 0.99],),
    "training.precision": ("fp32", "bf16"),
    "cluster.use_gpu": (None, True, False),
    "cluster.decode_cpus": (None, 2),
    "tracking.uri": (None, "http://localhost:5000", "sqlite:////tmp/x.db"),
}


def set_knobs(*texts: str) -> TrainRun:
    return change(TINY, [parse_override(text) for text in texts])


def at(run: TrainRun, path: str) -> Any:
    value: Any = run
    for name in path.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("training.steps=12", 12),
        ("masking.mask_ratio=.5", 0.5),
        ("optim.weight_decay=1e-3", 1e-3),  # YAML 1.1 takes it for a text: a number needs a dot there
        ("training.steps=010", 10),  # and that for eight
        ("optim.weight_decay=1.0e-3", 1e-3),
        ("data.flip=true", True),
        ("data.flip=false", False),
        ("optim.max_grad_norm=null", None),
        ("data.crop_scales=[1, 0.5]", (1.0, 0.5)),
        ("optim.betas=[0.8, 0.9]", (0.8, 0.9)),
        ("training.precision=bf16", "bf16"),
        ("tracking.uri=sqlite:////tmp/a=b.db", "sqlite:////tmp/a=b.db"),
        ("data.manifest=/a folder/m.parquet", (WeightedManifest(path="/a folder/m.parquet"),)),
        ("data.manifest=[{path: 12, weight: 2}]", (WeightedManifest(path="12", weight=2.0),)),
        ("results=/a#1:b", "/a#1:b"),
        ('name="123"', "123"),
        ("name=123", "123"),
        ("name=007", "007"),
        ("name=1e3", "1e3"),
        ("name=2024-01-31", "2024-01-31"),
        ("name=no", "no"),
        ("results=~", "~"),
        ("results='null'", "null"),
    ],
)
def test_a_value_is_read_as_what_its_knob_is(text: str, value: object) -> None:
    found = at(set_knobs(text), text.partition("=")[0])
    assert (found, type(found)) == (value, type(value))


def test_nothing_else_changes_and_the_last_of_two_wins() -> None:
    changed = set_knobs("seed=3", "seed=4")
    assert changed == TINY.model_copy(update={"seed": 4})


def test_a_kind_replaces_its_slot_wherever_it_stands_in_the_line() -> None:
    assert set_knobs("masking.visible.kind=tube").masking.visible == TubeConfig()
    assert set_knobs("masking.visible.dropout=0.2", "masking.visible.kind=adamae").masking.visible == AdaMAEConfig(
        num_heads=8, dropout=0.2
    )
    back = change(recipe("videomae-base"), [("masking.visible.kind", "tats"), ("masking.visible.ppo.clip_eps", 0.3)])
    default = TATSConfig()
    assert back.masking.visible == default.model_copy(update={"ppo": default.ppo.model_copy(update={"clip_eps": 0.3})})


def test_the_kind_that_is_there_keeps_its_settings() -> None:
    assert set_knobs("masking.visible.kind=tats", "seed=1").masking == TINY.masking


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mask_ratio=0.5", "there is no knob 'mask_ratio'; did you mean masking.mask_ratio?"),
        ("training.step=3", "there is no knob 'training.step'; did you mean training.steps"),
        ("masking.visible.clip_eps=1", "did you mean masking.visible.ppo.clip_eps"),
        ("masking.visible=tube", "did you mean masking.visible.kind"),
        ("data.num_frames.x=1", "there is no knob 'data.num_frames.x'"),
        ("qqqq=1", "there is no knob 'qqqq' --help lists all"),
        ("seed", "an override must read path=value, got 'seed'"),
        ("=1", "an override must read path=value, got '=1'"),
        ("name=[", "the value of name cannot be read, got '\\[': quote it"),
        ("seed=-1", "seed: input should be greater than or equal to 0, got '-1'"),
        ("seed=4294967296", "seed: input should be less than 4294967296, got '4294967296'"),
        ("model.encoder.depth=100000", "model.encoder.depth: input should be less than or equal to 1000, got '100000'"),
        ("model.decoder.embed_dim=1000000000000", "no model of these sizes can be built .* probably mistyped"),
        ("data.crop_size=99999999999999999992", "no model of these sizes can be built .* probably mistyped"),
        ("seed=1.5", "seed: input should be a valid integer, .* got '1.5'"),
        ("seed=12:30", "seed: input should be a valid integer, .* got '12:30'"),
        ("training.steps=true", r"training.steps: must be int \| null, got true"),
        ("optim.betas=[true, 0.9]", r"optim.betas: must be \[float, float\], got true"),
        ("optim.max_grad_norm=false", r"optim.max_grad_norm: must be float \| null, got false"),
        ("name=true", "name: must be str, got true"),
        ("name=null", "name: input should be a valid string, got None"),
        ("optim.weight_decay=inf", "optim.weight_decay: must be finite, got inf"),
        ("optim.betas=[inf, 0.9]", "optim.betas: must be finite, got inf"),
        ("seed=!!int 3", "the value of seed cannot be read, got '!!int 3': quote it"),
        ("seed=&a [*a]", r"the value of seed cannot be read"),
        ("seed=" + "[" * 5000, r"the value of seed cannot be read"),
        ("training.steps=many", "training.steps: input should be a valid integer, .* got 'many'"),
        ("data.flip=1", "data.flip: input should be a valid boolean, got '1'"),
        ("training.compile='yes'", "training.compile: input should be a valid boolean, got 'yes'"),
        ("cluster.use_gpu=1", "cluster.use_gpu: input should be a valid boolean, got '1'"),
        ("training.precision=fp16", "training.precision: input should be 'bf16' or 'fp32', got 'fp16'"),
        ("name=a/b", "name: string should match pattern .* got 'a/b'"),
        ("data.crop_scales=[2.0]", "data.crop_scales.0: input should be less than or equal to 1, got '2.0'"),
        ("masking.mask_ratio=1", "masking.mask_ratio: input should be less than 1, got '1'"),
        ("masking.mask_ratio=.nan", "masking.mask_ratio: input should be .* got '.nan'"),
        (
            "masking.visible.kind=tatts",
            r"masking.visible.kind: must be one of random \| tube \| frame-difference \| oracle \| pool \| adamae \|",
        ),
        ("masking.mask_ratio=0.9999", "masking.mask_ratio must leave both visible and hidden tokens, got 0.9999"),
        ("data.crop_size=33", "crop_size must be a multiple of patch_size, got 33 pixels and patches of 8; try 32"),
        ("data.num_frames=15", "num_frames must be a multiple of tubelet_size, got 15 frames"),
        ("model.encoder.num_heads=5", "model.encoder: embed_dim must be a multiple of num_heads, got 96 and 5"),
        ("masking.visible.embed_dim=33", "masking.visible.embed_dim must be a multiple of masking.visible.num_heads"),
        ("training.epochs=2", "exactly one of training.epochs and training.steps must be given, got epochs=2.0"),
        ("training.steps=null", "exactly one of training.epochs and training.steps must be given, got epochs=None"),
        ("cluster.num_workers=3", "training.global_batch must be a multiple of cluster.num_workers, got 8 and 3"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as wrong:
        set_knobs("training.global_batch=8", text)
    assert "\n" not in str(wrong.value)


def test_a_knob_of_another_kind_is_told_from_an_unknown_one() -> None:
    for knob in ("masking.visible.ppo.clip_eps=0.1", "masking.visible.embed_dim=64"):
        with pytest.raises(
            ConfigError, match=r"belongs to another kind than the one chosen; set masking\.visible\.kind"
        ):
            set_knobs("masking.visible.kind=adamae", knob)


def test_each_wrong_value_has_its_line() -> None:
    with pytest.raises(ConfigError) as wrong:
        set_knobs("training.steps=abc", "training.global_batch=-1", "data.held_out=0")
    assert [line.partition(":")[0] for line in str(wrong.value).splitlines()] == [
        "data.held_out",
        "training.steps",
        "training.global_batch",
    ]


def leaves(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Dotted paths by the JSON schema, which knows nothing of :func:`knobs`."""
    schema = model.model_json_schema()

    def walk(node: dict[str, Any], prefix: str) -> set[str]:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node
        if "oneOf" in node:
            return set().union(*(walk(variant, prefix) for variant in node["oneOf"]))
        if "properties" not in node:
            return {prefix}
        inner = (walk(child, f"{prefix}.{name}" if prefix else name) for name, child in node["properties"].items())
        return set().union(*inner)

    return walk(schema, prefix)


@pytest.mark.parametrize("name", RECIPES)
def test_every_leaf_is_a_knob_and_says_what_it_means(name: str) -> None:
    found = list(knobs(recipe(name)))
    assert {knob.path for knob in found} == leaves(TrainRun)
    assert set(flatten(recipe(name).model_dump(mode="json"))) <= leaves(TrainRun)
    for knob in found:
        assert len(knob.meaning.removeprefix("[kind=").partition("] ")[2] or knob.meaning) > 8, knob
        assert knob.type, knob
        assert "typing" not in knob.type, knob


def test_a_knob_shows_the_default_of_the_recipe() -> None:
    shown = {knob.path: knob.default for knob in knobs(TINY) if not knob.meaning.startswith("[kind=adamae]")}
    for path, value in flatten(TINY.model_dump()).items():
        assert shown[path] == value, path


@pytest.mark.parametrize("name", RECIPES)
def test_yaml_brings_a_recipe_back(name: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(to_yaml(recipe(name)))
    assert read_run(tmp_path / "run.yaml") == recipe(name)


def test_yaml_brings_random_runs_back(tmp_path: Path) -> None:
    drawn = random.Random(0)
    file = tmp_path / "run.yaml"
    for name, _ in itertools.product(RECIPES, range(5)):
        chosen = drawn.sample(sorted(VALUES), k=6)
        run = change(recipe(name), [(path, drawn.choice(VALUES[path])) for path in chosen])
        file.write_text(to_yaml(run))
        assert read_run(file) == run
        assert to_yaml(read_run(file)) == file.read_text()


def test_a_file_may_leave_settings_out(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("name: mine\ntraining: {steps: 3}\nmasking: {visible: {kind: tube}}\n")
    run = read_run(tmp_path / "run.yaml")
    assert (run.name, run.training.steps, run.training.epochs, run.masking.visible) == ("mine", 3, None, TubeConfig())
    assert run.model == TrainRun().model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", r"is not YAML"),
        ("- 1", "must hold settings by name, got list"),
        ("", "must hold settings by name, got NoneType"),
        ("masking: {mask_rato: 0.5}", "there is no knob 'masking.mask_rato'; did you mean masking.mask_ratio"),
        ("data: 5", "data: input should be .* got '5'"),
        ("masking: {visible: {}}", "masking.visible: .*'kind'"),
        ("\x00", "is not YAML"),
    ],
)
def test_a_wrong_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"(?s)^--config {tmp_path / 'run.yaml'}.*{message}"):
        read_run(tmp_path / "run.yaml")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^--config {tmp_path} cannot be read: "):
        read_run(tmp_path)
    (tmp_path / "latin").write_bytes(b"name: \xe4\xff")
    with pytest.raises(ConfigError, match="latin cannot be read: "):
        read_run(tmp_path / "latin")


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="there is no recipe 'tats-bose'; did you mean tats-base"):
        recipe("tats-bose")


def test_total_steps_follow_epochs_or_steps() -> None:
    assert set_knobs("training.steps=9").total_steps(1000) == 9
    by_epochs = set_knobs("training.steps=null", "training.epochs=1.5", "training.global_batch=8")
    assert by_epochs.total_steps(20) == 4  # 30 clips in batches of 8, the last one begun
