"""The kept machine code of kernel 5: it can be read without a compiler, and says what ladder.md says."""
from minattn.gpu import listing
from minattn.gpu.bound import bound
from minattn.gpu.machine import lines, read
from minattn.gpu.table import FILE, HEADER, RUNGS


def row():
    """Kernel 5's line of ladder.md, by column."""
    for line in FILE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("| \n").split("|")]
        if cells[:2] == [listing.NAME, str(listing.D)]:
            return dict(zip(HEADER, cells, strict=True))
    raise AssertionError("ladder.md has no such line")


def test_a_pass_is_that_of_the_table():
    block_q, block_k = RUNGS[listing.NAME].tiles[listing.D]
    needed = block_q * block_k * listing.D // (16 * 8 * 16) // (int(row()["threads"]) // 32)
    found = bound(listing.FILE.read_text(encoding="utf-8"), "HMMA", needed)
    assert (str(found.instructions), f"{found.tflops:.0f}") == (row()["a pass"], row()["TFLOP/s at most"])


def test_opcodes_of_the_loop_are_those_of_the_kernel():
    opcodes, loops = read(listing.FILE.read_text(encoding="utf-8"))
    assert sum(n for opcode, n in opcodes.items() if opcode.startswith("HMMA")) == int(row()["HMMA"])
    assert opcodes["NOP"] == 0
    assert max(loop.depth for loop in loops) == 2                     # the search for a tile that is not empty, inside


def test_only_what_is_inside_of_the_loop_is_kept():
    text = ".L_x_1:\n  /*0010*/   MOV R1, R2 ;\n.L_x_2:\n  /*0020*/  @P0  BRA `(.L_x_2) ;  /* 0x1 */\n  /*0030*/ EXIT ;\n"
    assert listing.loop(text, 0x20, 0x20) == [".L_x_2:", "/*0020*/ @P0 BRA `(.L_x_2) ; /* 0x1 */"]
    (line,) = lines("\n".join(listing.loop(text, 0x20, 0x20)))
    assert (line.place, line.target, line.guarded) == (0x20, 0x20, True)
