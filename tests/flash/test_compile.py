"""Kernels are compiled once, kept where that is possible, and whoever waits is told; a small function stands in for them."""
import functools

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed: there is no backend cpu")

import numba

from minattn.flash import compile as compiling


def twice(a):
    a *= 2


FLOATS, INTS = (numba.types.void(numba.types.Array(kind, 1, "A")) for kind in (numba.types.float32, numba.types.int64))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """`place(name)`: the cache lies in this folder from here on."""

    def move(name):
        monkeypatch.setattr(compiling, "folder", lambda: str(tmp_path / name))
        monkeypatch.setattr(compiling, "writable", functools.cache(compiling.writable.__wrapped__))
        return tmp_path / name

    return move


def made(signature, dtype, capsys):
    """What is said while `twice` is compiled; it does what it should."""
    numbers = np.arange(3).astype(dtype)
    compiling.compiled(twice, signature)(numbers)
    np.testing.assert_array_equal(numbers, [0, 2, 4])
    return capsys.readouterr().err


def test_says_so_once_for_each_type_and_keeps_it(place, capsys):
    folder, before = place("cache"), numba.config.CACHE_DIR
    assert compiling.kept() == []
    said = made(FLOATS, np.float32, capsys)
    assert said.count("\n") == 1
    assert "compiling the twice kernel" in said
    assert f"kept in {folder}" in said
    assert "compiling the twice kernel" in made(INTS, np.int64, capsys)       # another type is another wait
    assert made(FLOATS, np.float32, capsys) == made(INTS, np.int64, capsys) == ""
    assert compiling.kept() == ["test_compile"]
    assert numba.config.CACHE_DIR == before


def test_a_folder_that_cannot_be_written(place, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    place("file/cache")
    assert "not kept" in made(FLOATS, np.float32, capsys)
    assert "not kept" in made(FLOATS, np.float32, capsys)


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_a_damaged_cache_is_made_again(place, capsys, suffix):
    folder = place("cache")
    made(FLOATS, np.float32, capsys)
    for path in folder.rglob(f"*.{suffix}"):
        path.write_bytes(path.read_bytes()[:20])
    assert "compiling" in made(FLOATS, np.float32, capsys)
    assert made(FLOATS, np.float32, capsys) == ""


def test_what_does_not_compile_says_why(place):
    def wrong(a):
        a.nothing_of_the_kind()

    place("cache")
    with pytest.raises(numba.core.errors.TypingError, match="nothing_of_the_kind"):
        compiling.compiled(wrong, FLOATS)
