"""The command surface that every script shares: ``[--recipe NAME] [--config FILE] [path=value ...]`` and its help."""

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tats_ray.config.files import read_run
from tats_ray.config.overrides import ConfigError, R, change, knobs, parse_override
from tats_ray.config.run import Run, TrainRun

_OVERRIDE = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*=")
Recipes = Mapping[str, Callable[[], Run]]


def make_parser(description: str, recipes: Recipes, *, default: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all scripts share; ``--help`` lists recipes and knobs."""
    parser = argparse.ArgumentParser(
        description=description, add_help=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-h", "--help", action=_FullHelp, recipes=recipes, default_recipe=default)
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--recipe", metavar="NAME", default=default, help=f"named run to start from (default: {default})"
    )
    start.add_argument("--config", metavar="FILE", type=Path, help="YAML of a run, instead of a recipe")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="knobs to change, by dotted path")
    return parser


def overrides_first(arguments: Sequence[str] | None) -> list[str]:
    """Return the arguments, by default the command line's, with ``path=value`` in front, where no list takes them."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return sorted(given, key=lambda text: _OVERRIDE.match(text) is None)


def resolve(arguments: argparse.Namespace, recipe: Callable[[str], R], kind: type[R] = TrainRun) -> R:
    """Return the run, of a kind, that the shared options describe.

    Raises:
        ConfigError: An unknown recipe or knob, an unreadable file, or a value that breaks a rule.
    """
    run = recipe(arguments.recipe) if arguments.config is None else read_run(arguments.config, kind)
    return change(run, [parse_override(text) for text in arguments.overrides])


class _FullHelp(argparse.Action):
    """Prints the options, then recipes and knobs."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, *, recipes: Recipes, default_recipe: str, **_: object
    ) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="show this and exit")
        self._recipes = recipes
        self._default = default_recipe

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.print_help()
        console = Console()
        console.print("\nrecipes:")
        for name, make in self._recipes.items():
            console.print(f"  {name:<14} {(make.__doc__ or '').strip().splitlines()[0]}", markup=False, highlight=False)
        table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
        for column in ("knob", "type", f"default of {self._default}", "meaning"):
            table.add_column(column, overflow="fold")
        for knob in knobs(self._recipes[self._default]()):
            default = "null" if knob.default is None else str(knob.default)
            table.add_row(*(_plain(text) for text in (knob.path, knob.type, default, " ".join(knob.meaning.split()))))
        console.print("\nknobs:")
        console.print(table)
        parser.exit()


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


__all__ = ["ConfigError", "make_parser", "overrides_first", "resolve"]
