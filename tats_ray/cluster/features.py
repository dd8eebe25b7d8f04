"""Features on Ray: actors hold the encoder."""

from collections.abc import Callable

from tats_ray.cluster.part_pool import make_on_ray
from tats_ray.data.manifest import Manifest
from tats_ray.probing.config import ExtractionConfig
from tats_ray.probing.features import encode_part
from tats_ray.probing.frozen import WEIGHTS, FrozenEncoder
from tats_ray.probing.parts import Extraction


def extract_on_ray(
    frozen: FrozenEncoder,
    manifest: Manifest,
    extraction: Extraction,
    *,
    config: ExtractionConfig,
    advance: Callable[[int], object] = lambda videos: None,
) -> None:
    """Make the missing parts; each actor loads the encoder. :func:`make_on_ray` says what it raises."""
    make_on_ray(
        manifest,
        extraction,
        load=type(frozen).load,
        encode=encode_part,
        weights=WEIGHTS,
        config=config,
        advance=advance,
    )
