"""The command line: `minattn learn | see | fetch | bench | doctor`.

One command, one file: `add` declares its arguments, `run` does it and returns the exit code.

    0     done
    1     doctor found something missing
    2     a mistake in the input, or something that cannot be had: one line says what to do
    130   interrupted
"""
import argparse
import sys

from .. import __version__
from ..core.errors import MinattnError
from . import bench, doctor, fetch, learn, see


def main(argv=None):
    """Run one command; `argv` without the program's name, None reads the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="minattn", description="Attention, to be read, seen and measured.")
    parser.add_argument("--version", action="version", version=f"minattn {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="command")
    for command in (learn, see, fetch, bench, doctor):
        command.add(commands)
    options = parser.parse_args(argv)
    if "run" not in options:
        parser.print_help()
        return 0
    try:
        return options.run(options)
    except MinattnError as error:
        print(f"minattn: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
