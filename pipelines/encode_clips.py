"""Encode the clips of a manifest once, with a frozen tokenizer, for every run that predicts its codes.

    python pipelines/encode_clips.py --checkpoint RUN_OR_CHECKPOINT --out CODES data.manifest=videos.parquet

CODES becomes a folder of Parquet files with a row for each clip: its key, its codes and the importance of its tokens.
What was encoded before is left as it is, so that the same command goes on where it was stopped.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from tats_ray.config.command_line import ended, knobs_parser, parse
from tats_ray.config.overrides import ConfigError, parse_override
from tats_ray.copies import MirrorError, path_of
from tats_ray.data.codes import CodeCache
from tats_ray.data.manifest import Manifest, ManifestError
from tats_ray.data.part_files import PartError
from tats_ray.encoding import EncodingConfig, FrozenTokenizer, encode_here, plan
from tats_ray.probing.config import changed
from tats_ray.training.state import CheckpointError

ERRORS = (CheckpointError, ConfigError, ManifestError, MirrorError, PartError, ValueError)
"""Errors whose message is all that a user needs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parsed = parse(make_parser(), arguments)
    return ended(
        lambda: report(run(parsed)), errors=ERRORS, again="the same command goes on with the parts that are missing"
    )


def make_parser() -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = knobs_parser(
        __doc__ or "", EncodingConfig(), usage="--checkpoint RUN_OR_PATH --out DIR data.manifest=MANIFEST"
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="RUN_OR_PATH",
        help="folder or URI of a run of pipelines/train_tokenizer.py, or of one of its checkpoints",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder that the codes are written to")
    return parser


def run(parsed: argparse.Namespace) -> CodeCache:
    """Encode as the command line says; return what is there then."""
    config = changed(EncodingConfig(), [parse_override(text) for text in parsed.overrides])
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


if __name__ == "__main__":
    sys.exit(main())
