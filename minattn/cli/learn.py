"""`minattn learn`: the lessons in JupyterLab; their map, with what has passed; an answer checked, a lesson made fresh.

From a clone they open in place. An installed package carries a copy of them, which is laid into a folder of the
learner's own; what lies there already is never written over. The server listens on this machine alone and asks for
its token, whatever the user's own Jupyter settings say.
"""
import importlib.util
import json
import os
import secrets
import shlex
from pathlib import Path
from urllib.parse import quote

from ..core.errors import DependencyError, OptionError
from ..core.whole import write_whole
from ..practice import notebook, progress
from . import check, overview, reset

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED_FOLDER = "minattn-lessons"
BUILDERS_ONLY = (                                                     # a learner reads the notebooks, not their sources
    "[0-9][0-9]_*.py", "build.py", "forms.py", "glossary.py", "pages.py", "reading/*", "*.part", "*.pyc", "*.kept-*",
)


def add(commands):
    """Declare the command."""
    parser = commands.add_parser("learn", help="open the lessons in JupyterLab, or check and reset their exercises")
    parser.add_argument("--folder", type=Path, help="work on a copy of the lessons in this folder (default: in place "
                        f"in a clone, else ./{INSTALLED_FOLDER}); what lies there is kept")
    parser.add_argument("--no-browser", action="store_true", help="print the address and open no browser")
    parser.add_argument("--port", type=int, default=8888, help="first port to try (default: %(default)s)")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--map", action="store_true", help="print the map of the lessons and your progress, and stop")
    instead.add_argument("--check", metavar="LESSON", help="check the exercises of a lesson, such as 03, and stop; "
                         "exit code 0 only if all pass")
    instead.add_argument("--reset", metavar="LESSON", help="bring a lesson back as it was shipped, with your answers in it; "
                         "the notebook as it was is kept beside it")
    instead.add_argument("--forget", action="store_true", help="erase what is kept of your progress")
    parser.add_argument("--json", action="store_true", help="with --check: print JSON")
    parser.set_defaults(run=run)


def run(options):
    """Do what is asked instead, or print the map, lay out a copy where one is needed, and run JupyterLab until it stops."""
    if not 0 < options.port < 65536:
        raise OptionError(f"--port is {options.port}; a port is 1 to 65535")
    if options.json and options.check is None:
        raise OptionError("--json goes with --check: which lesson?")
    if options.forget:
        erased = progress.forget()
        print(f"Erased {erased}" if erased else "There was no progress to erase")
        return 0
    shipped, in_place = find_lessons()
    folder = options.folder if options.folder or in_place else Path(INSTALLED_FOLDER)
    place = shipped if folder is None else Path(os.path.expanduser(folder)).absolute()
    if options.check is not None:
        source, lay = overview.pick(shipped, options.check)[1], ["minattn", "learn"]
        lay += ["--folder", str(options.folder)] if options.folder else []
        return run_check(source, place, in_place, as_json=options.json, lay=shlex.join(lay))
    if options.reset is not None:
        _, source = overview.pick(shipped, options.reset)
        print(reset.report(place / source.name, *reset.reset(source, place / source.name, clone=in_place)))
        return 0
    print(overview.overview(shipped, names=options.map))
    if options.map:
        return 0
    print(f"\nLessons: {place}" if folder is None else f"\n{report(place, *lay_out(shipped, place))}", flush=True)
    serve(place, port=options.port, browser=not options.no_browser)
    return 0


def run_check(source, place, in_place, *, as_json, lay):
    """Print a verdict for each exercise of the lesson `source`, answered in the folder `place`; 0 if all pass, else 1.

    `lay` is the command that lays the lessons there, for whoever has none yet.
    """
    try:
        number, mine = overview.pick(place, source.name[:2])
    except OptionError as error:
        raise OptionError(f"{error}; to lay the lessons there and open them: {lay}") from error
    verdicts = check.check(notebook.parse(reset.as_shipped(source, in_place), source.name), mine)
    print(json.dumps({"lesson": number, "notebook": str(mine), "exercises": verdicts}, indent=1) if as_json
          else check.table(verdicts))
    return 0 if all(one["status"] == "pass" for one in verdicts) else 1


def find_lessons():
    """The folder that holds the lessons, and whether it is a clone's, to be used in place."""
    clone = PACKAGE.parent
    if (clone / "lessons").is_dir() and (clone / "pyproject.toml").is_file():
        return clone / "lessons", True
    if (PACKAGE / "_lessons").is_dir():
        return PACKAGE / "_lessons", False
    raise DependencyError("this installation carries no lessons: install minattn again")


def lay_out(shipped, folder):
    """Copy to `folder` what is not there yet; returns the names (added, kept): kept ones differ from those shipped."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise OptionError(f"--folder {folder} is a file; name a folder")
    added, kept = [], []
    for source in sorted(path for path in shipped.rglob("*") if path.is_file()):
        if any(source.match(pattern) for pattern in BUILDERS_ONLY):
            continue
        name = source.relative_to(shipped)
        target = folder / name
        try:
            if os.path.lexists(target):
                if not target.is_file() or target.read_bytes() != source.read_bytes():
                    kept.append(str(name))
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, source.read_bytes())
        except OSError as error:
            raise OptionError(f"the lessons cannot be laid into {folder}: {error}") from error
        added.append(str(name))
    return added, kept


def report(folder, added, kept):
    """What `lay_out` did, in words."""
    lines = [f"Lessons: {folder} ({len(added)} files added)"]
    if kept:
        lines.append("Kept as they are, because they differ from the ones shipped (your work, or an earlier version):")
        lines += [f"  {name}" for name in kept]
        lines.append("To get a fresh one, rename yours and run this again.")
    return "\n".join(lines)


def serve(folder, *, port, browser):
    """Run JupyterLab on `folder`, on the loopback interface and behind a token, until it is stopped.

    In a clone it can go up from the lessons to the modules that they link to.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise DependencyError(f"JupyterLab is not installed: pip install 'minattn[lessons]' (the lessons are in {folder})")
    # a setting of JupyterLab's own that no option reaches: it is not to ask about news over the first lesson
    paths = str(PACKAGE / "cli" / "jupyter"), os.environ.get("JUPYTER_CONFIG_PATH", "")
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, paths))
    from jupyterlab.labapp import LabApp

    root = PACKAGE.parent if folder == PACKAGE.parent / "lessons" else folder
    first = next(iter(overview.lessons(folder).values()), folder).relative_to(root).as_posix()
    arguments = [
        "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", f"--ServerApp.root_dir={root}",
        f"--ServerApp.open_browser={browser}", f"--LabApp.default_url=/lab/tree/{quote(first)}",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--ServerApp.allow_root=True")               # in a container there is often no other user
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")                              # kernels inherit it: small products wait for no core
    server = LabApp.initialize_server(argv=arguments)
    if not server.identity_provider.auth_enabled:                     # the user's settings switched it off
        server.identity_provider.token = secrets.token_hex(24)
        server.identity_provider.token_generated = True               # so that the address is printed with it
    server.start()
