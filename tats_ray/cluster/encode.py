"""Codes on Ray: actors hold the tokenizer."""

from collections.abc import Callable

from tats_ray.cluster.part_pool import make_on_ray
from tats_ray.config.tokenizer_run import WEIGHTS
from tats_ray.data.manifest import Manifest
from tats_ray.encoding import Encoding, FrozenTokenizer, encode_part
from tats_ray.probing.config import ExtractionConfig


def encode_on_ray(
    frozen: FrozenTokenizer,
    manifest: Manifest,
    encoding: Encoding,
    *,
    config: ExtractionConfig,
    advance: Callable[[int], object] = lambda videos: None,
) -> None:
    """Make the missing parts; each actor loads the tokenizer. :func:`make_on_ray` says what it raises."""
    make_on_ray(
        manifest,
        encoding,
        load=type(frozen).load,
        encode=encode_part,
        weights=WEIGHTS,
        config=config,
        advance=advance,
    )
