"""Measure a video for its row of the manifest: count its frames, time them, and prove that it decodes."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from tats_ray.data.decode import nominal_rate, open_video
from tats_ray.data.manifest import VideoRecord, truth_path
from tats_ray.data.source import DecodeError, VideoSource


@dataclass(frozen=True)
class Probe:
    """What a video is, as ``VideoRecord`` holds it."""

    num_frames: int
    fps: float
    duration: float
    width: int
    height: int
    times: Sequence[float] | None = None
    content: str | None = None


def probe(source: VideoSource) -> Probe:
    """Measure a video: count its frames, time them, and decode the first to prove that it decodes.

    Raises:
        DecodeError: The file cannot be opened, or gives no frame.
    """
    stamps, num_frames, first = [], 0, None
    with open_video(source) as (container, stream):
        rate, tick = nominal_rate(stream), stream.time_base
        for packet in container.demux(stream):
            if first is None:  # the packet that ends the stream is empty and makes the decoder give what it holds
                first = next(iter(packet.decode()), None)
            if packet.size and not packet.is_discard:  # an edit list discards packets: decoded, but never shown
                num_frames += 1
                stamps.append(packet.dts if packet.pts is None else packet.pts)
    if first is None:
        raise DecodeError(source.name, "no frame could be decoded")
    known = [stamp for stamp in stamps if stamp is not None]
    if tick is not None and len(known) > 1 and max(known) > min(known):
        rate = float((len(known) - 1) / ((max(known) - min(known)) * tick))
    return Probe(num_frames, rate, num_frames / rate, first.width, first.height)


def probe_record(source: VideoSource, *, label: int | None) -> VideoRecord:
    """Measure a video and make its row of the manifest.

    Raises:
        DecodeError: The file cannot be opened, or gives no frame.
    """
    truth = truth_path(source.path)
    return VideoRecord(
        id=hashlib.sha1(os.fsencode(source.name)).hexdigest()[:16],
        path=source.path,
        member=source.member,
        offset=source.offset,
        num_bytes=source.num_bytes,
        label=label,
        truth=str(truth) if source.member is None and truth.exists() else None,
        **vars(probe(source)),
    )
