"""`minattn bench`: how fast attention runs on this machine, next to PyTorch and to what the machine can do."""
import json
import os
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from ..core.errors import DependencyError, OptionError
from ..core.whole import write_whole


def add(commands):
    """Declare the command."""
    parser = commands.add_parser("bench", help="measure attention on this machine, next to PyTorch where it is installed",
                                 description="Measure time, memory and first calls of every way to compute attention; "
                                 "each in a process of its own, with as many threads. About four minutes; leave the "
                                 "machine alone meanwhile.")
    parser.add_argument("--quick", action="store_true", help="smaller and fewer cases, half a minute")
    parser.add_argument("--only", nargs="+", metavar="PART", help="compile, forward, backward, decode, window, score_mod, "
                        "sparse, sgemm, scaling or memory (default: all; with --quick all but compile)")
    parser.add_argument("--linear", action="store_true", help="the linear family instead of attention: its forms, slopes, "
                        "decoding, and where it passes full attention; a minute")
    parser.add_argument("--cuda", action="store_true", help="the kernels for a GPU instead, on the GPU of this machine, next to "
                        "PyTorch's backends; four minutes, or two with --quick")
    parser.add_argument("--report", type=Path, metavar="FILE", help="with --cuda: check every kernel first, let "
                        "compute-sanitizer look last, and write all of it to this Markdown file; ten minutes")
    parser.add_argument("--threads", type=int, help="for every way (default: one for each core)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to this file")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw time and memory against N: FILE.png makes "
                        "FILE_light.png and FILE_dark.png; needs scaling and memory")
    parser.set_defaults(run=run)


def run(options):
    """Measure, print the table, write the files."""
    from ..bench import report
    from ..bench.run import PARTS, run

    if options.cuda or options.report:
        return run_cuda(options)
    if options.linear and (options.only or options.figure):
        raise OptionError("--linear is a run of its own, without --only and --figure")
    only = options.only or PARTS
    if options.figure and not {"scaling", "memory"} <= set(only):
        raise OptionError("--figure draws scaling and memory: name both in --only, or leave --only out")
    check_files(options)
    result = run(threads=options.threads, quick=options.quick, only=options.only, linear=options.linear,
                 progress=progress(perf_counter()))
    print(report.text(result))
    files = {}
    if options.json:
        files[options.json] = json.dumps(result, indent=1, allow_nan=False).encode()
    if options.figure:
        files |= pictures(result, options.figure)
    write(files)
    return 0


def run_cuda(options):
    """The same on a GPU; 1 where a check, a tool or an answer is wrong, or fails. The files are written all the same."""
    from ..bench.gpu import report
    from ..bench.gpu.run import run, went_wrong

    if options.report and not options.cuda:
        raise OptionError("--report is for a GPU: minattn bench --cuda --report FILE")
    for name in ("linear", "only", "threads", "figure"):
        if not any(getattr(options, name) is nothing for nothing in (None, False)):        # 0 threads are something
            raise OptionError(f"--cuda is a run of its own, without --{name}")
    check_files(options)
    result = run(quick=options.quick, report=options.report is not None, progress=progress(perf_counter()))
    print(report.text(result))
    files = {}
    if options.json:
        files[options.json] = json.dumps(result, indent=1, allow_nan=False).encode()
    if options.report:
        files[options.report] = report.document(result).encode()
    write(files)
    return 1 if went_wrong(result) else 0


def check_files(options):
    """The files that are asked for, as paths that can be written."""
    for name in ("json", "figure", "report"):
        if getattr(options, name) is not None:
            setattr(options, name, writable(f"--{name}", Path(os.path.expanduser(getattr(options, name)))))
    if options.json and options.report and options.json.resolve() == options.report.resolve():
        raise OptionError(f"--json and --report are both {options.json}; one would replace the other")


def write(files):
    """Write {path: bytes}, and say where."""
    for path, data in files.items():
        try:
            write_whole(path, data)
        except OSError as error:
            raise OptionError(f"cannot write {path}: {error}") from error
        print(path)


def writable(name, path):
    """`path`, refused before anything is measured where no file can come to lie there."""
    if not os.path.isdir(path.absolute().parent):
        raise OptionError(f"{name} {path}: there is no folder {path.parent}")
    if os.path.exists(path) and not os.path.isfile(path):             # a folder, or a device, which would be replaced
        raise OptionError(f"{name} {path} is no file; name one")
    try:
        with tempfile.TemporaryFile(dir=path.absolute().parent):      # what is measured in ten minutes must not be lost then
            return path
    except OSError as error:
        raise OptionError(f"{name} {path}: nothing can be written there: {error}") from error


def progress(start):
    """A function that says what is measured next, on stderr, so that the table can go to a file."""
    return lambda text: print(f"{perf_counter() - start:5.0f} s  {text}", file=sys.stderr, flush=True)


def pictures(result, path):
    """{FILE_light.png: bytes, FILE_dark.png: bytes}."""
    import io

    try:
        import matplotlib
    except ImportError as error:
        raise DependencyError("--figure needs Matplotlib: pip install minattn") from error
    matplotlib.use("agg")
    from ..bench.figure import COLOURS, scaling

    files = {}
    for theme in COLOURS:
        file = io.BytesIO()
        scaling(result, theme).savefig(file, format="png", dpi=160)
        files[path.with_name(f"{path.stem}_{theme}.png")] = file.getvalue()
    return files
