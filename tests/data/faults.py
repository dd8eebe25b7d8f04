"""What a decoder may do to its process, for real; called in a guarded child by reference, like any function."""

import ctypes
import os
import resource
import sys
import time

from tats_ray.data.source import VideoSource


def pid(source: VideoSource) -> int:
    return os.getpid()


def crash(source: VideoSource) -> None:
    ctypes.string_at(0)  # reads address 0: SIGSEGV


def leave(source: VideoSource) -> None:
    os._exit(3)


def hang(source: VideoSource) -> None:
    with open(source.path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)


def swell(source: VideoSource) -> int:
    return len(bytearray(2**40))


def err(source: VideoSource) -> float:
    return 1 / 0


def shout(source: VideoSource) -> None:
    os.write(1, b"out of the child\n")
    os.write(2, b"out of the child\n")


def modules(source: VideoSource) -> set[str]:
    return {name.partition(".")[0] for name in sys.modules}


def memory_limit(source: VideoSource) -> int:
    return resource.getrlimit(resource.RLIMIT_AS)[0]
