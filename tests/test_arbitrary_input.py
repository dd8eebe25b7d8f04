"""Whatever a user gives, what is wrong is one of our own errors: drawn settings, lists of videos and manifests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tats_ray.config.files import read_run, to_yaml
from tats_ray.config.overrides import ConfigError, change, knobs, parse_override
from tats_ray.data.listing import list_sources
from tats_ray.data.manifest import SCHEMA, Manifest, ManifestError
from tats_ray.recipes import recipe

TINY = recipe("tiny")


def rounds(quick: int, many: int) -> pytest.MarkDecorator:
    """Ask for a few examples by default, and for 20,000 over all tests of this file in the slow ones."""
    return pytest.mark.parametrize("examples", [quick, pytest.param(many, marks=pytest.mark.slow)])


PATHS = st.sampled_from(sorted({knob.path for knob in knobs(TINY)}))
NUMBERS = st.one_of(st.integers(), st.floats()).map(str)
# fmt: off
WORDS = st.sampled_from([
    "true", "false", "null", "~", "yes", "inf", ".nan", "1e3", "012", "12:30", "[1, 2]", "[true]", "{a: 1}",
    "[{path: a}]", "tube", "random", "adamae", "tats", "hold", "fp32", "3d", "&a [*a]", "!!int 1", "'", '"', "- 1",
    "? x", "", "2024-01-01",
])
# fmt: on
YAML = st.text(alphabet="abc01.-+e:,[]{}&*!|>'\"%@#~? \n\t", max_size=20)
OVERRIDES = st.one_of(
    st.tuples(PATHS, st.one_of(NUMBERS, WORDS, YAML, st.text(max_size=10))).map("=".join),
    st.text(max_size=30),
)
LINES = st.one_of(
    st.text(alphabet="ab./,\t \"'#0123456789-é\ufeff", max_size=20),
    st.text(max_size=20),
    st.sampled_from(
        ["path,label", "label,path", "label", "a.mp4 1", "a.mp4,x", '"a', "a.mp4\x00 1", "/ 1", ".. 2", "a b c 1"]
    ),
)
LISTS = st.one_of(
    st.lists(LINES, max_size=5).map(lambda lines: "\n".join(lines).encode("utf-8", "replace")), st.binary()
)
TYPES = [pa.string(), pa.int64(), pa.int32(), pa.float64(), pa.bool_(), pa.list_(pa.float64()), pa.binary(), pa.null()]
VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): st.text(max_size=5),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.int32(): st.integers(-5, 5),
    pa.float64(): st.floats(),
    pa.bool_(): st.booleans(),
    pa.list_(pa.float64()): st.lists(st.floats(), max_size=3),
    pa.binary(): st.binary(max_size=5),
    pa.null(): st.none(),
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Draw a table that is nearly a manifest: now and then a column is of another type, missing or one too many."""
    rows = draw(st.integers(0, 3))
    columns, fields = [], []
    for field in SCHEMA:
        if draw(st.integers(0, 60)) == 0:
            continue
        kind = draw(st.sampled_from(TYPES)) if draw(st.integers(0, 30)) == 0 else field.type
        values = st.none() | VALUES[kind] if field.nullable or draw(st.integers(0, 30)) == 0 else VALUES[kind]
        columns.append(pa.array([draw(values) for _ in range(rows)], kind))
        fields.append(pa.field(field.name, kind))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def often(examples: int) -> Callable[..., Any]:
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def say(error: Exception, *, about: Path | str = "") -> None:
    """See that an error says something, and names its file."""
    assert str(error)
    assert str(about) in str(error)


@rounds(50, 3_000)
def test_any_override_is_a_run_or_our_error(examples: int, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"

    @often(examples)
    @given(st.lists(OVERRIDES, min_size=1, max_size=2))
    @example(["seed=" + "[" * 5000])
    def check(texts: list[str]) -> None:
        try:
            run = change(TINY, [parse_override(text) for text in texts])
        except ConfigError as error:
            say(error)
            return
        file.write_text(to_yaml(run))
        assert read_run(file) == run

    check()


@rounds(100, 5_000)
def test_any_file_of_settings_is_a_run_or_our_error(examples: int, tmp_path: Path) -> None:
    file = tmp_path / "any.yaml"

    @often(examples)
    @given(
        st.one_of(
            st.binary(),
            YAML.map(str.encode),
            st.lists(OVERRIDES).map(lambda all: "\n".join(all).replace("=", ": ").encode("utf-8", "replace")),
        )
    )
    def check(content: bytes) -> None:
        file.write_bytes(content)
        try:
            read_run(file)
        except ConfigError as error:
            say(error, about=file)

    check()


@pytest.mark.parametrize("suffix", ["", ".txt", ".csv", ".parquet"])
@rounds(100, 2_000)
def test_any_list_is_videos_or_our_error(examples: int, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"list{suffix}"

    @often(examples)
    @given(LISTS)
    def check(content: bytes) -> None:
        file.write_bytes(content)
        try:
            for source, label in list_sources(file):
                assert source.path
                assert label is None or isinstance(label, int)
        except ManifestError as error:
            say(error)

    check()


@rounds(100, 4_000)
def test_any_table_is_a_manifest_or_our_error(examples: int, tmp_path: Path) -> None:
    file = tmp_path / "any.parquet"

    @often(examples)
    @given(tables())
    def check(table: pa.Table) -> None:
        pq.write_table(table, file)
        try:
            manifest = Manifest.read(file)
        except ManifestError as error:
            say(error, about=file)
            return
        for index in range(len(manifest)):
            assert manifest.record(index).id == table["id"][index].as_py()
        assert len(manifest.hash) == 64

    check()
