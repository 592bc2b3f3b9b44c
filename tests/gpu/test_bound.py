"""The issue bound of hand-written machine code: which way is taken around a loop, and how often."""
import pytest

from minattn.core.errors import KernelError
from minattn.gpu.bound import HMMA_PRODUCTS, Bound, bound
from minattn.gpu.machine import lines, read


def sass(program):
    """Disassembled code of lines like "a:", "@P0 BRA a" or "4 FFMA R0, R1", the last four times."""
    text, place = [], 0
    for line in filter(None, map(str.strip, program.splitlines())):
        if line.endswith(":"):
            text.append(f".L_x_{ord(line[0])}:")
            continue
        count, _, code = line.partition(" ") if line[0].isdigit() else ("1", "", line)
        words = code.split()
        if any(word.startswith(("BRA", "CALL")) for word in words):
            words[-1] = f"`(.L_x_{ord(words[-1])})"
        for _ in range(int(count)):
            text.append(f"        /*{place:04x}*/       {' '.join(words)} ;")
            place += 16
    return "\n".join(text)


STRAIGHT = """
    3 MOV R1, R2
    t:
    2 LDS.128 R4, [R1]
    8 FFMA.FTZ R0, R4, R5, R0
    8 FFMA R0, R4, R5, R0
    @P0 BRA t
    EXIT
"""


def test_one_way_is_counted_from_head_to_branch():
    assert bound(sass(STRAIGHT), "FFMA", 8) == Bound(2 + 16 + 1, 4 * 8 * 32)


def test_tflops_of_a_pass_of_nothing_but_products_is_the_ceiling():
    """An FFMA of a warp is 64 flops; 132 x 4 schedulers of 1.98 GHz start one a cycle."""
    assert Bound(1, 64).tflops == pytest.approx(132 * 4 * 1.98e9 * 64 / 1e12)
    assert Bound(2, 64).tflops == Bound(1, 64).tflops / 2


def test_a_branch_goes_both_ways_and_the_shorter_one_counts():
    program = """
        t:
        @!P1 BRA a
        5 IADD3 R1, R1, R2
        a:
        4 FFMA R0, R4, R5, R0
        @P2 BRA b
        MOV R3, R4
        BRA c
        b:
        7 MOV R3, R4
        c:
        4 FFMA R0, R4, R5, R0
        @P0 BRA t
        EXIT
    """
    assert bound(sass(program), "FFMA", 4).instructions == 1 + 4 + 1 + 2 + 4 + 1


@pytest.mark.parametrize("jump", ["BRA.U !UP0, a", "BRA P3, a", "@P1 CALL.REL.NOINC a"])
def test_a_branch_may_have_its_condition_behind_it_and_a_call_may_be_one(jump):
    program = f"""
        t:
        {jump}
        5 IADD3 R1, R1, R2
        a:
        8 FFMA R0, R4, R5, R0
        @P0 BRA t
        EXIT
    """
    assert bound(sass(program), "FFMA", 4).instructions == 1 + 8 + 1


def test_a_way_without_the_products_does_not_count():
    """The empty tile jumps over all; the masked products are as many and cost more."""
    program = """
        t:
        @P1 BRA e
        @P2 BRA m
        8 FFMA R0, R4, R5, R0
        BRA e
        m:
        8 FSETP.GE P3, R4, RZ
        8 @P3 FFMA R0, R4, R5, R0
        e:
        @P0 BRA t
        EXIT
    """
    assert bound(sass(program), "FFMA", 4).instructions == 2 + 8 + 1 + 1


INNER = """
    t:
    2 IADD3 R1, R1, R2
    a:
    2 LDS.128 R4, [R1]
    8 FFMA R0, R4, R5, R0
    @P1 BRA a
    3 MUFU.EX2 R3, R4
    b:
    LDS.128 R4, [R1]
    4 FFMA R0, R4, R5, R0
    @P1 BRA b
    @P0 BRA t
    EXIT
"""


def test_inner_loops_are_gone_around_as_often_as_the_products_need():
    assert bound(sass(INNER), "FFMA", 32).instructions == 2 + 4 * 11 + 3 + 8 * 6 + 1


def test_a_loop_around_chunks_divides_the_trips_of_the_one_inside():
    program = INNER.replace("a:", "c:\n5 LDG.E R6, [R2]\na:").replace("3 MUFU", "@P4 BRA c\n3 MUFU")
    assert bound(sass(program), "FFMA", 32, outer=2).instructions == 2 + 2 * (5 + 2 * 11 + 1) + 3 + 8 * 6 + 1


def test_what_a_loop_around_the_loop_over_tiles_does_is_left_out():
    program = "o:\n9 IADD3 R7, R7, R8" + INNER.replace("EXIT", "@P5 BRA o\nEXIT")
    assert bound(sass(program), "FFMA", 32, around=1) == bound(sass(INNER), "FFMA", 32)
    program = program.replace("a:", "c:\n5 LDG.E R6, [R2]\na:").replace("3 MUFU", "@P4 BRA c\n3 MUFU")
    assert bound(sass(program), "FFMA", 32, outer=2, around=1).instructions == 2 + 2 * (5 + 2 * 11 + 1) + 3 + 8 * 6 + 1


def test_loops_tested_at_their_heads_make_their_trips_or_none_where_nothing_is_multiplied():
    program = """
        t:
        MOV R1, RZ
        n:
        @P1 BRA a
        6 LDG.E.U8 R1, [R2]
        BRA n
        a:
        @P2 BRA b
        4 FFMA R0, R4, R5, R0
        BRA a
        b:
        4 FFMA R0, R4, R5, R0
        @P0 BRA t
        EXIT
    """
    with pytest.raises(KernelError, match="2 x 16 FFMA"):
        bound(sass(program), "FFMA", 16)
    program = program.replace("b:\n        4 FFMA", "b:\n        16 FFMA")
    assert bound(sass(program), "FFMA", 16).instructions == 1 + 1 + 4 * 6 + 16 + 1


def test_cold_code_that_stands_behind_the_loop_belongs_to_it():
    program = """
        t:
        @P1 BRA c
        d:
        8 FFMA R0, R4, R5, R0
        @P0 BRA t
        EXIT
        c:
        4 MOV R1, R2
        BRA d
    """
    assert bound(sass(program), "FFMA", 4).instructions == 1 + 8 + 1
    hot = program.replace("@P1 BRA c", "BRA c")
    assert bound(sass(hot), "FFMA", 4).instructions == 1 + 5 + 8 + 1


def test_tensor_cores_count_a_warps_product():
    program = STRAIGHT.replace("FFMA.FTZ", "HMMA.16816.F32.BF16").replace("FFMA", "HMMA.16816.F32")
    assert bound(sass(program), "HMMA", 8) == Bound(19, 4 * 8 * HMMA_PRODUCTS)


def test_code_without_the_loop_is_an_error():
    with pytest.raises(KernelError, match="no loop of this code makes 2 x 9 FFMA"):
        bound(sass(STRAIGHT), "FFMA", 9)


def test_guards_targets_and_loops_are_read():
    code = lines(sass(STRAIGHT))
    assert [line.guarded for line in code[-2:]] == [True, False]
    assert code[-2].target == code[3].place
    opcodes, (loop,) = read(sass(STRAIGHT))
    assert (loop.count("FFMA"), loop.count("LDS"), loop.count("LDS.128"), loop.depth) == (16, 2, 2, 1)
    assert opcodes["MOV"] == 3
