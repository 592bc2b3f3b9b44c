"""The command line as a whole: help, version, one line for an error, and the exit codes."""
import os
import subprocess
import sys

import pytest

import minattn
from minattn.cli import main
from minattn.core.errors import WeightsError


def test_alone_it_prints_its_commands(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    for command in ("learn", "see", "fetch", "bench", "doctor"):
        assert f"\n    {command} " in shown


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"minattn {minattn.__version__}\n"


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main(["sea"])
    assert end.value.code == 2
    assert "sea" in capsys.readouterr().err


def test_an_error_is_one_line_and_exit_2(monkeypatch, capsys):
    def fail(options):
        raise WeightsError("the file\nis gone")

    monkeypatch.setattr("minattn.cli.doctor.run", fail)
    assert main(["doctor"]) == 2
    assert capsys.readouterr() == ("", "minattn: the file is gone\n")


def test_a_defect_is_not_hidden(monkeypatch):
    """Only the project's own errors become one line: a ValueError from a defect keeps its traceback."""

    def fail(options):
        raise ValueError("a defect")

    monkeypatch.setattr("minattn.cli.doctor.run", fail)
    with pytest.raises(ValueError, match="a defect"):
        main(["doctor"])


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe without a reader is another error there")
def test_nobody_reads_on():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "minattn.cli", "doctor"], stdout=writer, stderr=subprocess.PIPE, text=True,
                          check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_letters_that_the_output_cannot_hold():
    code = ("import sys; from minattn.cli import doctor, main; doctor.run = lambda options: print('日.png'); "
            "sys.exit(main(['doctor']))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\u65e5.png\n", "")


def test_interrupt_is_quiet(monkeypatch, capsys):
    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("minattn.cli.doctor.run", interrupt)
    assert main(["doctor"]) == 130
    assert capsys.readouterr() == ("", "")


def test_it_runs_as_a_module_and_help_loads_no_plotting():
    code = ("import sys; sys.argv = ['minattn']; from minattn.cli import main; main(); "
            "heavy = {'matplotlib', 'numba', 'jupyterlab', 'tokenizers'} & set(sys.modules); sys.exit(len(heavy))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run([sys.executable, "-m", "minattn.cli", "fetch", "gpt5"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("minattn: ")
    assert done.stderr.count("\n") == 1
    assert "smollm2" in done.stderr
