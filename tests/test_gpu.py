"""Every kernel against the reference in float64: on the GPU of this machine, and the same questions on a simulated one.

`minattn bench --cuda --report FILE` asks them too, and measures; this is for whoever runs pytest on a machine with a GPU.
"""
import json
import math

import numpy as np
import pytest

from minattn.bench.gpu import run, sanitizer
from minattn.bench.gpu.answers import Answer, lacks
from minattn.bench.gpu.ask import asked
from minattn.bench.gpu.checks import GPU, SHORT, SIMULATED, checks
from minattn.bench.gpu.clock import Clock
from minattn.bench.gpu.problems import CASES
from minattn.core.errors import BackendError, DependencyError
from minattn.gpu.simulated import Simulated

QUICK = "instructions", "rows", "tensor bf16", "decode"               # groups whose first checks are asked in every run


def simulated():
    for group, some in checks(SIMULATED).items():
        for i, check in enumerate(some):
            quick = group == "instructions" or (i == 0 and group in QUICK)
            yield pytest.param(check, id=f"{group}: {check.name}", marks=() if quick else pytest.mark.slow)


@pytest.mark.gpu
@pytest.mark.parametrize("group", checks(GPU))
def test_on_this_gpu(group, need_gpu):
    gpu = need_gpu()
    if why := lacks(group, gpu):
        pytest.skip(why)
    found = [asked(check, gpu) for check in checks(GPU)[group]]
    assert [one for one in found if one["state"] != "right"] == []


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("tool", sanitizer.TOOLS)
def test_compute_sanitizer_finds_nothing(tool, need_gpu):
    need_gpu()
    found = sanitizer.examine(tool, 600)
    if found["state"] == "absent":
        pytest.skip(found["why"])
    assert found["state"] == "right", found


@pytest.mark.gpu
def test_a_turn_of_the_clock(need_gpu):
    """A call of some launches takes longer than one of them, and both are asked for ahead."""
    gpu = need_gpu()
    clock, array = Clock(gpu), gpu.zeros(2**24, np.float32)
    one, many = (clock.turn(lambda n=n: [gpu.clear(array) for _ in range(n)], cold=True) for n in (1, 20))
    assert one.quiet
    assert many.quiet
    assert 0 < one.seconds < many.seconds < 1


@pytest.mark.gpu
@pytest.mark.slow
def test_every_row_is_measured(need_gpu):
    """No speed is judged; every kernel is right before it is timed."""
    need_gpu()
    ceilings, rows = run.rows(True, print)
    assert ceilings["copy"]["rate"] > 0
    assert [row["rivals"][row["kernel"]] for row in rows if row["rivals"][row["kernel"]]["state"] != "timed"] == []


@pytest.mark.parametrize("check", list(simulated()))
def test_on_a_simulated_gpu(check):
    found = asked(check, Simulated())
    assert found["state"] == "right", found["why"]
    assert found["errors"]
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("group", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in ("backward", "recurrence"))])
def test_one_wrong_number_is_found(group):
    """Of each array that a check looks at, one number in the middle, off by a little more than it may be."""
    check = checks(SIMULATED)[group][0]

    class Spoilt(Simulated):
        spoil, seen = -1, 0

        def get(self, array):
            found, here = array.copy(), self.seen
            self.seen += 1
            if here == self.spoil:
                at = found.size // 2 + 1                   # not of a first row, which sees nothing
                found[at] = found[at] ^ 0x100 if found.dtype.kind == "u" else found[at] + np.float32(0.03)
            return found

    whole = Spoilt()
    assert asked(check, whole)["state"] == "right"
    assert whole.seen
    for i in range(whole.seen):
        place = Spoilt()
        place.spoil = i
        found = asked(check, place)
        assert found["state"] == "wrong", i
        assert "above" in found["why"]


def test_what_an_answer_counts_as_an_error():
    ones = np.ones(3)
    assert Answer("a", ones, ones, 1e-5).error == 0
    assert Answer("a", np.array([1, 2, 3.5]), np.array([1, 2, 4]), 1e-5).error == 0.125             # over the largest, 4
    assert Answer("a", np.array([0.1]), np.array([0.2]), 1e-5).error == pytest.approx(0.1)              # over 1 at least
    hidden = np.array([1, -np.inf])
    assert Answer("a", hidden, hidden, 1e-5).error == 0
    for wrong in ([1, 0], [1, np.inf], [1, np.nan], [np.nan, -np.inf], [-np.inf, -np.inf]):
        assert Answer("a", np.array(wrong), hidden, 1e-5).error == math.inf
    assert Answer("a", np.array([1, 2, 3], np.uint16), np.array([1, 3, 4], np.uint16), 0).error == 2
    assert Answer("a", np.array([np.nan]), np.array([np.nan]), 0).error == 1
    assert Answer("a", np.zeros((0, 4)), np.zeros((0, 4)), 0).error == 0


def test_what_goes_wrong_is_told_apart():
    check = checks(SIMULATED)["instructions"][0]

    def raising(error):
        def ask(place):
            raise error

        return asked(check._replace(ask=ask), Simulated())

    assert raising(BackendError("no such GPU"))["state"] == "absent"
    assert raising(DependencyError("no numba-cuda"))["why"] == "no numba-cuda"
    found = raising(RuntimeError("an illegal\nmemory access"))
    assert (found["state"], found["why"]) == ("failed", "RuntimeError: an illegal memory access")
    off = asked(check._replace(ask=lambda place: [Answer("out", np.ones(2), np.array([1, -np.inf]), 1e-5)]), Simulated())
    assert (off["state"], off["errors"]) == ("wrong", [["out", None, 1e-5]])
    assert "error inf" in off["why"]


def test_an_old_gpu_is_not_asked_for_tensor_cores():
    class Turing:
        class cuda:
            @staticmethod
            def get_current_device():
                return type("Device", (), {"compute_capability": (7, 5)})

    assert "8, 0" in lacks("tensor bf16", Turing)
    assert "7, 5" in lacks("instructions", Turing)
    assert lacks("registers", Turing) == lacks("tensor bf16", Simulated()) == ""


def test_every_kernel_is_asked_with_all_that_is_compiled_in():
    """Also under compute-sanitizer, which sees one problem of each."""
    for sizes in (GPU, SHORT, SIMULATED):
        found = checks(sizes)
        assert list(found) == ["instructions", "naive", "rows", "block", "registers", "tensor bf16", "tensor f16", "backward",
                               "decode", "recurrence", *(["front door"] if sizes is not SIMULATED else [])]  # fmt: skip
        for group, some in found.items():
            names = [check.name for check in some]
            assert len(set(names)) == len(names) > 1
            wanted = {"instructions": "mma bf16", "recurrence": "erase and decay", "front door": "float32, all options"}
            wanted = wanted.get(group, "softcap and bias of heads")
            assert any(name.startswith(wanted) for name in names)
    cases, dims = zip(*(check.name.rsplit(", D ", 1) for check in checks(GPU)["backward"][:-1]), strict=True)
    assert set(cases) == set(CASES)
    assert set(dims) == {"32", "64", "128"}
