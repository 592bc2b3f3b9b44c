"""The command line: `minattn learn | see | fetch | bench | doctor`.

One command, one file: `add` declares its arguments, `run` does it and returns the exit code.

    0     done
    1     doctor found something missing, an exercise does not pass, or a kernel is wrong on this GPU
    2     a mistake in the input, or something that cannot be had: one line says what to do
    130   interrupted
    141   nobody reads on, as in `minattn doctor | head -1`
"""
import argparse
import os
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
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")             # a file name may hold letters that a terminal cannot show
    try:
        code = options.run(options)
        print(end="", flush=True)
        return code
    except MinattnError as error:
        print(f"minattn: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())    # or Python complains when it flushes at its end
        return 141
    except KeyboardInterrupt:
        return 130
