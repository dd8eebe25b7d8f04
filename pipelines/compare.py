"""Compare samplers: independent runs from the same start on the same clips, judged by probes on frozen features."""

import sys
from dataclasses import replace

from tats_ray.comparison.recipes import RECIPES, comparison, sampler
from tats_ray.config.command_line import ConfigError, make_parser
from tats_ray.config.overrides import change, parse_override
from tats_ray.driver import RUN_ERRORS, RunFailedError
from tats_ray.interruption import Terminated


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser(__doc__ or "", {name: lambda make=make: make().run for name, make in RECIPES.items()}, default="tiny")
    parser.add_argument("--samplers", nargs="+", metavar="NAME", help="instead of the recipe's")
    parser.add_argument("--ratios", nargs="+", type=float, metavar="RATIO", help="mask ratios, instead of the recipe's")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="instead of the recipe's")
    parsed = parser.parse_intermixed_args(arguments)
    try:
        wanted = comparison(parsed.recipe)
        given = {
            "arms": parsed.samplers and [sampler(name) for name in parsed.samplers],
            "ratios": parsed.ratios,
            "seeds": parsed.seeds,
        }
        wanted = replace(wanted, **{name: value for name, value in given.items() if value})
        wanted = replace(wanted, run=change(wanted.run, [parse_override(text) for text in parsed.overrides]))
        from tats_ray.cluster.compare import compare

        compare(wanted)
    except (ConfigError, RunFailedError, *RUN_ERRORS, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    except Terminated:
        print("terminated; the same command goes on", file=sys.stderr)
        return 143
    return 0


if __name__ == "__main__":
    sys.exit(main())
