"""Encode the clips of a manifest once, with a frozen tokenizer, for every run that predicts its codes.

    python pipelines/encode_clips.py --checkpoint RUN_OR_CHECKPOINT --out CODES data.manifest=videos.parquet

CODES becomes a folder of Parquet files with a row for each clip: its key, its codes and the importance of its tokens.
What was encoded before is left as it is, so that the same command goes on where it was stopped.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tats_ray.config.overrides import ConfigError, knobs, parse_override
from tats_ray.data.code_rows import CodesError
from tats_ray.data.codes import CodeCache
from tats_ray.data.manifest import Manifest, ManifestError
from tats_ray.encoding import EncodingConfig, FrozenTokenizer, encode_here, plan
from tats_ray.interruption import Terminated, terminable
from tats_ray.mirror import MirrorError, path_of
from tats_ray.probing.config import changed
from tats_ray.training.state import CheckpointError

ERRORS = (CheckpointError, CodesError, ConfigError, ManifestError, MirrorError, ValueError)
"""Errors whose message is all that a user needs."""
OVERRIDE = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*=")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    overrides = [text for text in given if OVERRIDE.match(text)]
    parsed = make_parser().parse_args([text for text in given if not OVERRIDE.match(text)])
    try:
        with terminable():
            report(run(parsed, overrides))
    except ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with the parts that are missing", file=sys.stderr)
        return 130
    except Terminated:
        print("terminated; the same command goes on with the parts that are missing", file=sys.stderr)
        return 143
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=False
    )
    parser.add_argument("-h", "--help", action=_Help, nargs=0, help="show this, and every setting, and exit")
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="RUN_OR_PATH",
        help="folder or URI of a run of pipelines/train_tokenizer.py, or of one of its checkpoints",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder that the codes are written to")
    parser.usage = "%(prog)s --checkpoint RUN_OR_PATH --out DIR data.manifest=MANIFEST [path=value ...]"
    return parser


def run(parsed: argparse.Namespace, overrides: Sequence[str]) -> CodeCache:
    """Encode as the command line says; return what is there then."""
    config = changed(EncodingConfig(), [parse_override(text) for text in overrides])
    if config.data.manifest is None:
        raise ConfigError("data.manifest is not set; name a manifest of pipelines/index_videos.py")
    on_gpu = torch.cuda.is_available() and config.cluster.use_gpu is not False
    frozen = FrozenTokenizer.load(path_of(parsed.checkpoint), device=torch.device("cuda" if on_gpu else "cpu"))
    manifest = Manifest.read(config.data.manifest)
    encoding = plan(frozen, manifest, config, folder=parsed.out.expanduser().absolute())
    encoding.about.write(encoding.folder)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("codes", total=len(manifest))
        encoder(config)(frozen, manifest, encoding, advance=lambda videos: progress.advance(task, videos))
    return CodeCache.open(encoding.folder, clip=encoding.layout.clip, tokenizer=frozen.digest)


def encoder(config: EncodingConfig) -> Callable[..., None]:
    """Return what encodes: this process alone, or Ray, which is imported only then."""
    if config.cluster.num_workers == 0:
        return encode_here
    from tats_ray.cluster.encode import encode_on_ray

    return partial(encode_on_ray, config=config.cluster)


def report(cache: CodeCache) -> None:
    """Print what is there."""
    about, size = cache.about, sum(file.stat().st_size for file in cache.folder.glob("part_*.parquet"))
    lines = {
        "clips": f"{cache.num_clips:,} of {cache.num_videos:,} videos, {about.tokens:,} codes each",
        "without": f"{len(cache.lost):,} videos could not be decoded" if cache.lost else None,
        "tokenizer": about.tokenizer,
        "size": f"{size / 2**20:,.1f} MiB",
        "codes": cache.folder,
    }
    for name, line in lines.items():
        if line is not None:
            Console().print(f"{name:<12} {line}", soft_wrap=True, highlight=False, markup=False)


class _Help(argparse.Action):
    """Prints the options, then the settings."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.print_help()
        table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
        for column in ("setting", "type", "default", "meaning"):
            table.add_column(column, overflow="fold")
        for knob in knobs(EncodingConfig()):
            default = "null" if knob.default is None else str(knob.default)
            cells = (knob.path, knob.type, default, " ".join(knob.meaning.split()))
            table.add_row(*(cell.replace("[", "\\[") for cell in cells))
        print("\nsettings (path=value):")
        Console().print(table)
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
