"""The command surface that scripts share: their options, ``path=value`` and its help, and how a command ends.

Scripts that start from a run take ``[--recipe NAME] [--config FILE] [path=value ...]``, others ``[path=value ...]``.
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from tats_ray.config.files import read_run
from tats_ray.config.overrides import ConfigError, R, change, knobs, parse_override
from tats_ray.config.run import Run, TrainRun
from tats_ray.copies import path_of
from tats_ray.interruption import Terminated, terminable
from tats_ray.tracking.store import without_credentials

_OVERRIDE = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*=")
Recipes = Mapping[str, Callable[[], Run]]


def make_parser(description: str, recipes: Recipes, *, default: str) -> argparse.ArgumentParser:
    """Return the parser of a script that starts from a recipe or a file; ``--help`` lists recipes and knobs."""
    parser = _parser(description, partial(_show_recipes, recipes, default))
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--recipe", metavar="NAME", default=default, help=f"named run to start from (default: {default})"
    )
    start.add_argument("--config", metavar="FILE", help="path or URI of a run's YAML, instead of a recipe")
    return parser


def knobs_parser(description: str, settings: BaseModel, *, usage: str) -> argparse.ArgumentParser:
    """Return the parser of a script that starts from these settings; ``--help`` lists them."""
    parser = _parser(description, partial(_show_knobs, settings, "default"))
    parser.usage = f"%(prog)s {usage} [path=value ...]"
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the arguments say, by default the command line's; ``path=value`` may stand behind an option's list.

    Right behind an option it is that option's value, such as a folder's name.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    behind_option = [False, *(text.startswith("--") for text in given)]
    overrides_first = sorted(
        zip(given, behind_option, strict=False), key=lambda pair: pair[1] or _OVERRIDE.match(pair[0]) is None
    )
    return parser.parse_intermixed_args([text for text, _ in overrides_first])


def resolve(arguments: argparse.Namespace, recipe: Callable[[str], R], kind: type[R] = TrainRun) -> R:
    """Return the run, of a kind, that the shared options describe.

    Raises:
        ConfigError: An unknown recipe or knob, an unreadable file, or a value that breaks a rule.
    """
    run = recipe(arguments.recipe) if arguments.config is None else read_run(path_of(arguments.config), kind)
    return change(run, [parse_override(text) for text in arguments.overrides])


def ended(work: Callable[[], int | None], *, errors: tuple[type[Exception], ...], again: str) -> int:
    """Do what a command does, and say how it ended where that was not well.

    Args:
        work: Returns the exit status; None is 0.
        errors: Those whose message is all that a user needs; any other is raised.
        again: What the same command does after this one was stopped.

    Returns:
        The exit status: that of the work, 1 at an error, 130 when interrupted, 143 when terminated.
    """
    try:
        with terminable():
            return work() or 0
    except errors as error:
        status, told = 1, f"error: {without_credentials(str(error))}"
    except KeyboardInterrupt:
        status, told = 130, f"interrupted; {again}"
    except Terminated:
        status, told = 143, f"terminated; {again}"
    sys.stderr.write(f"{told}\n")
    return status


def _parser(description: str, show: Callable[[Console], None]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, add_help=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-h", "--help", action=_FullHelp, show=show)
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="knobs to change, by dotted path")
    return parser


class _FullHelp(argparse.Action):
    """Prints the options, then what else there is to choose."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, *, show: Callable[[Console], None], **_: object
    ) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="show this and exit")
        self._show = show

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.print_help()
        self._show(Console())
        parser.exit()


def _show_recipes(recipes: Recipes, default: str, console: Console) -> None:
    console.print("\nrecipes:")
    for name, make in recipes.items():
        console.print(f"  {name:<14} {(make.__doc__ or '').strip().splitlines()[0]}", markup=False, highlight=False)
    _show_knobs(recipes[default](), f"default of {default}", console)


def _show_knobs(settings: BaseModel, heading: str, console: Console) -> None:
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for column in ("knob", "type", heading, "meaning"):
        table.add_column(column, overflow="fold")
    for knob in knobs(settings):
        default = "null" if knob.default is None else str(knob.default)
        table.add_row(*(_plain(text) for text in (knob.path, knob.type, default, " ".join(knob.meaning.split()))))
    console.print("\nknobs:")
    console.print(table)


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


__all__ = ["ConfigError", "ended", "knobs_parser", "make_parser", "parse", "resolve"]
