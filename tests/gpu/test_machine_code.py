"""Every kernel as machine code, without a GPU: registers, spills, shared memory, opcodes, issue bounds, and ladder.md."""
import math

import pytest

from minattn.core.errors import DependencyError
from minattn.gpu import listing, machine, table
from minattn.gpu.table import RUNGS, compiled, float64, issue_bound, launches_of

pytestmark = pytest.mark.slow

# what `compiled` takes: rung, D, architecture, kind of numbers, with softcap and bias; all of RUNGS for sm_90, as in ladder.md
BUILDS = [
    *[(name, D) for name, rung in RUNGS.items() for D in rung.dims],
    ("1 naive", 64, "sm_80", None, True),
    ("2 rows", 64, "sm_80", None, True),
    ("3 block", 64, "sm_80", None, True),
    ("4 registers", 128, "sm_80", None, True),
    ("5 tensor", 128, "sm_80", "f16", True),
    ("backward", 64, "sm_80", None, True),
    ("decode", 64, "sm_80", "bf16", True),
    ("recurrence", 64, "sm_80", None, True),
    ("4 registers", 64, "sm_75"),
    ("5 tensor", 64, "sm_120"),
]
MOST_BUILDS = 40                                                      # kernels: a build of naive has three
REGISTERS = {"4 registers": 128, "5 tensor": 192, ("backward", 32): 128, ("backward", 64): 128, "decode": 128,
             "decode, pages": 128, ("recurrence", 32): 128, ("recurrence", 64): 128}  # at most; 255 for the others  # fmt: skip
IN_REGISTERS = {"4 registers", "5 tensor", "backward", "delta", "decode", "decode, pages", "recurrence"}    # no spill, no local
BOUNDS = {("4 registers", 64): 40, ("4 registers", 128): 40, ("5 tensor", 64): 430, ("5 tensor", 128): 540,
          ("backward", 64): 40, ("backward", 128): 40}                # TFLOP/s, sm_90  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _many_at_once(request):
    """Whatever is asked for of BUILDS, compiled on every core before the first test asks."""
    wanted = [item.callspec.params["build"] for item in request.session.items
              if item.path == request.path and "build" in getattr(getattr(item, "callspec", None), "params", {})]  # fmt: skip
    try:
        machine.find("ptxas"), machine.find("nvdisasm")
    except DependencyError:
        return                                                        # _tools says so, test by test
    table.compile_all(dict.fromkeys(wanted))


@pytest.fixture(autouse=True)
def _tools(need, need_tool):
    need("numba_cuda")
    need_tool("ptxas")
    need_tool("nvdisasm")


def test_few_enough_to_compile_in_every_run():
    assert sum(len(launches_of(*build)) for build in BUILDS) <= MOST_BUILDS


@pytest.mark.parametrize("build", BUILDS, ids=str)
def test_budgets(build):
    name, on_sm_90 = build[0], len(build) == 2
    for launch, made in compiled(*build):
        assert made.opcodes["EXIT"], "no machine code was read"
        assert float64(made) == 0
        assert made.shared <= 48 * 1024
        assert made.registers <= (REGISTERS.get(build, REGISTERS.get(name, 255)) if on_sm_90 else 255)
        assert made.registers * math.prod(launch.block) * launch.resident <= 64 * 1024
        if name in IN_REGISTERS:
            local = {opcode: n for opcode, n in made.opcodes.items() if opcode.split(".")[0] in ("LDL", "STL")}
            assert (made.spills, made.stack, local) == (0, 0, {})


@pytest.mark.parametrize("D", [64, 128])
def test_kernel_4_multiplies_eight_times_for_each_load_of_16_bytes(D):
    ((_, made),) = compiled("4 registers", D)
    inner = [loop for loop in made.loops if loop.count("FFMA") >= 64 and not loop.count("FSETP")]
    assert len(inner) == 2                                            # scores, and values of a tile that hides nothing
    for loop in inner:
        assert loop.count("LDS") == loop.count("LDS.128")
        assert loop.count("FFMA") >= 8 * loop.count("LDS.128")
        assert loop.count("FFMA") >= 0.7 * loop.size                  # and what goes with it is little


@pytest.mark.parametrize("D", [64, 128])
def test_the_backward_multiplies_eight_times_for_each_load_of_16_bytes(D):
    for launch, made in compiled("backward", D):
        inner = [loop for loop in made.loops if loop.count("FFMA") >= 64 and not loop.count("FSETP")]
        assert len(inner) == {"keys": 4, "queries": 3}[launch.kernel.__name__]        # its products, in tiles that hide nothing
        for loop in inner:
            assert loop.count("LDS") == loop.count("LDS.128")
            assert loop.count("FFMA") >= 8 * loop.count("LDS.128")
            assert loop.count("FFMA") >= 0.7 * loop.size


def test_the_recurrence_reads_16_bytes_at_a_time_where_it_multiplies():
    ((_, made),) = compiled("recurrence", 64)
    products = [loop for loop in made.loops if loop.count("FFMA") >= 64 and not loop.count("SHFL") and loop.depth > 1]
    assert products
    assert all(loop.count("LDS") == loop.count("LDS.128") for loop in products if loop.count("FFMA") >= 0.7 * loop.size)


@pytest.mark.parametrize(("name", "most"), [("decode", 45), ("decode, pages", 55)])
def test_decoding_reads_16_bytes_at_a_time_and_waits_for_memory(name, most):
    """A key and its value, 512 bytes: at most so many instructions of a warp, where memory gives time for 160."""
    (launch, made), *_ = compiled(name, 64)
    loads = {opcode: n for opcode, n in made.opcodes.items() if opcode.startswith("LDG") and ".128" in opcode}
    assert sum(loads.values()) >= 2 * 2 * 4                           # keys and values, four steps, with and without a mask
    assert issue_bound(name, 64, launch, made).instructions <= most * 8


@pytest.mark.parametrize("build", [build for build in BUILDS if build[0] == "5 tensor"], ids=str)
def test_kernel_5_feeds_tensor_cores_by_matrix_loads_and_asynchronous_copies(build):
    ((launch, made),), D, kind = compiled(*build), build[1], (*build, "", "")[3]
    block_q, block_k = RUNGS["5 tensor"].tiles[D]
    warps = launch.block[0] // 32
    wanted = 2 * block_q * block_k * D // (16 * 8 * 16) // warps      # both products of a tile, unrolled
    assert made.count("HMMA.16816.F32" + ("" if kind == "f16" else ".BF16")) == wanted
    assert made.count("LDSM") == wanted // 2                          # four matrices of B each, for two products
    assert made.count("LDGSTS") >= 2 * 2 * block_k * D // 8 // launch.block[0]    # keys and values, before the loop and in it


@pytest.mark.parametrize(("name", "D"), BOUNDS)
def test_issue_bounds(name, D):
    for launch, made in compiled(name, D):
        assert issue_bound(name, D, launch, made).tflops >= BOUNDS[name, D]


def test_ladder_md_is_what_the_compiler_says():
    """Every row with the compiler that made the file; with another one, whose numbers may differ, which rows there are."""
    kept, made = table.FILE.read_text(encoding="utf-8"), table.text()
    if kept.splitlines()[-1] == made.splitlines()[-1]:
        assert kept == made, "python -m minattn.gpu.table"
        return
    rows = [[line.split("|")[1:5] for line in text.splitlines() if line.startswith("|")] for text in (kept, made)]
    assert rows[0] == rows[1], "python -m minattn.gpu.table"
    assert kept.startswith(table.ABOVE)


def test_the_listing_is_what_the_compiler_makes():
    """Line by line with the compiler that made the file; with another one, as many products and loads of matrices."""
    kept, made = listing.FILE.read_text(encoding="utf-8"), listing.text()
    if f"// {table.tools()}\n" in kept:
        assert kept == made, "python -m minattn.gpu.listing"
        return
    for opcode in ("HMMA", "LDSM"):
        assert kept.count(f"{opcode}.") == made.count(f"{opcode}."), "python -m minattn.gpu.listing"


def test_a_missing_tool_is_named(monkeypatch):
    monkeypatch.setattr("cuda.pathfinder.find_nvidia_binary_utility", lambda tool: None)
    with pytest.raises(DependencyError, match=r"ptxas is not installed: pip install 'minattn\[cuda-check\]'"):
        table.machine(compiled("5 tensor", 64)[0][0])
