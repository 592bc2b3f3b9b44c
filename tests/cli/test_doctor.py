"""`minattn doctor`: each finding, and the exit code that follows from them."""
import platform
from importlib import metadata

import numpy as np
import pytest

from minattn.cli import doctor, main
from minattn.models import download


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine of which everything is known: an empty cache folder, no tools, and the packages in `has`."""
    has = {name: "1.2.3" for name in ("matplotlib", "tokenizers", "safetensors", "jupyterlab", "pip")}

    def version(name):
        if name not in has:
            raise metadata.PackageNotFoundError(name)
        return has[name]

    monkeypatch.setattr(doctor.metadata, "version", version)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setenv("MINATTN_CACHE", str(tmp_path))
    monkeypatch.setattr(download.importlib.util, "find_spec", lambda name: None)
    return has


def rows(capsys):
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[1]: line for line in lines[: lines.index("")]}


def test_the_running_versions_are_shown(bare, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert main(["doctor"]) == 0
    shown = rows(capsys)
    assert platform.python_version() in shown["Python"]
    assert np.__version__ in shown["NumPy"]
    assert "OMP_NUM_THREADS=3" in shown["threads"]
    assert "1.2.3" in shown["jupyterlab"]
    assert {name for name, line in shown.items() if line.startswith("absent")} == {"SmolLM2", "numba", "torch", "GPU", "MPI"}


def test_the_kernels_cache_is_spoken_of(bare, capsys, monkeypatch, tmp_path, need):
    need("numba")
    from minattn.flash import compile as compiling

    bare["numba"] = "4.5.6"
    monkeypatch.setattr(compiling, "folder", lambda: str(tmp_path / "cache"))
    monkeypatch.setattr(compiling, "writable", lambda: False)
    assert main(["doctor"]) == 0
    line = rows(capsys)["numba"]
    assert "no kernel compiled yet" in line
    assert "set NUMBA_CACHE_DIR" in line
    (tmp_path / "cache" / "sub").mkdir(parents=True)
    (tmp_path / "cache" / "sub" / "forward.forward-1.py311.nbi").write_bytes(b"")
    assert main(["doctor"]) == 0
    line = rows(capsys)["numba"]
    assert "4.5.6; compiled: forward (" in line
    assert str(tmp_path / "cache") in line


def test_what_the_lessons_need_and_lack_is_named_with_what_to_do(bare, capsys):
    del bare["jupyterlab"], bare["tokenizers"]
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "The lessons need: tokenizers, jupyterlab." in shown
    assert shown.count("pip install 'minattn[lessons]'") == 2


def test_weights_that_are_not_the_published_ones_are_found_out(bare, capsys, tmp_path):
    assert main(["doctor"]) == 0
    assert "minattn fetch smollm2" in rows(capsys)["SmolLM2"]
    (tmp_path / download.SOURCES["smollm2"].file).write_bytes(b"half a file")
    assert main(["doctor"]) == 1
    line = rows(capsys)["SmolLM2"]
    assert line.startswith("missing")
    assert "minattn fetch smollm2" in line


def test_whole_weights_are_ok(bare, capsys, tmp_path, monkeypatch):
    file = tmp_path / download.SOURCES["smollm2"].file
    file.write_bytes(b"whole")
    monkeypatch.setattr(download, "check", lambda path, name: None)
    assert main(["doctor"]) == 0
    assert str(file) in rows(capsys)["SmolLM2"]


def test_the_driver_is_asked_about_the_gpu(bare, capsys, tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA Test, 8192 MiB, 555.1'\n")
    tool.chmod(0o755)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: str(tool) if name == "nvidia-smi" else None)
    main(["doctor"])
    assert "NVIDIA Test, 8192 MiB, 555.1" in rows(capsys)["GPU"]
    tool.write_text("#!/bin/sh\nexit 9\n")
    main(["doctor"])
    assert "nvidia-smi fails" in rows(capsys)["GPU"]


@pytest.mark.parametrize(("launcher", "face", "shown"), [
    (None, None, "no mpiexec and mpi4py"),
    ("/opt/mpiexec", None, "no mpi4py"),
    (None, "4.0", "no mpiexec"),
    ("/opt/mpiexec", "4.0", "/opt/mpiexec, mpi4py 4.0"),
])
def test_mpi(bare, capsys, monkeypatch, launcher, face, shown):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: launcher if name == "mpiexec" else None)
    if face:
        bare["mpi4py"] = face
    main(["doctor"])
    assert shown in rows(capsys)["MPI"]
