"""The result of a run as Markdown, in tables that can be read in a terminal too, with the JSON of everything at its end."""
import json

from ..report import geometric_mean
from .rivals import LABELS

HALF_OF_BOUND = 0.5                                                   # what kernel 4 is to reach of its own issue bound
TITLES = {
    "float32": "Forward, float32", "bfloat16": "Forward, bfloat16", "float16": "Forward, float16",
    "backward": "Backward alone, float32", "decode": "Decoding: one query, every key and value read once, float32",
    "recurrence": "The gated delta rule, float32", "ladder": "The ladder: kernels 1 to 4 on one problem, float32",
}
PRODUCT = {"f32": "float32 product", "f16": "bfloat16 product", "bf16": "bfloat16 product"}
STATES = "right", "wrong", "failed", "absent"


def text(result):
    """The report without the JSON: what a terminal shows."""
    parts = [head(result), verdicts(result), tools(result["sanitizer"]), most(result)]
    parts += [group(title, [row for row in result["rows"] if row["group"] == name], result) for name, title in TITLES.items()]
    parts.append(every_check(result["checks"]))
    return "\n\n".join(filter(None, parts)) + "\n"


def document(result):
    """The whole report."""
    data = json.dumps(result, indent=1, allow_nan=False)
    return f"{text(result)}\n<details><summary>All numbers, as JSON</summary>\n\n```json\n{data}\n```\n\n</details>\n"


def head(result):
    device = result["device"]
    packages = ", ".join(f"{name} {version or 'not installed'}" for name, version in device["packages"].items())
    lines = [
        f"# minattn {result['minattn']} on {device['name']}", "",
        f"{device['name']} ({device['arch']}): {device['processors']} processors, at most {device['clock'] / 1e9:.2f} GHz, "
        f"{device['memory'] / 2**30:.0f} GiB, L2 {device['l2'] / 2**20:.0f} MiB; driver {device['driver'] or 'unknown'}.",
        f"{device['processor']}, {device['system']}. {packages}.",
        f"{result['seconds']:.0f} s in all{', --quick' if result['quick'] else ''}.",
    ]
    states = [f"{when}: " + ", ".join(f"{name} {value}" for name, value in smi.items())
              for when, smi in zip(("before", "after"), device["smi"], strict=False) if smi]  # fmt: skip
    return "\n".join([*lines, *([f"nvidia-smi, {'; '.join(states)}."] if states else [])])


def verdicts(result):
    """What the run settles, in a line each."""
    lines = []
    if result["checks"]:
        counts = [(state, sum(check["state"] == state for check in result["checks"])) for state in STATES]
        lines.append(f"Checks, {len(result['checks'])} in all: " + ", ".join(f"{n} {state}" for state, n in counts if n) + ".")
    if result["sanitizer"]:
        lines.append("compute-sanitizer: " + ", ".join(f"{one['tool']} {one['state']}" for one in result["sanitizer"]) + ".")
    shares = [(share_of_bound(row, "registers", result), row["case"]) for row in result["rows"] if row["kernel"] == "registers"]
    shares = [(share, case) for share, case in shares if share is not None]
    if shares:
        best, case = max(shares)
        verdict = "reached" if best >= HALF_OF_BOUND else "not reached"
        lines.append(f"Kernel 4 at {HALF_OF_BOUND} of its own issue bound or more: {verdict}, {best:.2f} at {case}; "
                     f"of all rows {min(shares)[0]:.2f} to {best:.2f}.")  # fmt: skip
    else:
        lines.append("Kernel 4 beside its issue bound: not known, no row has both.")
    for D in (64, 128):
        kernels = [row["rivals"].get("careful", row["rivals"]["tensor"]) for row in result["rows"]
                   if row["group"] == "bfloat16" and row["D"] == D]  # fmt: skip
        ratios = [kernel["ratios"]["flash"]["median"] for kernel in kernels if kernel["ratios"].get("flash")]
        said = f"{geometric_mean(ratios):.2f} times as fast (geometric mean of {len(ratios)} rows)" if ratios else "not known"
        lines.append(f"Kernel 5, and what follows it under a mask, beside PyTorch's flash backend, bfloat16, D {D}: {said}.")
    return "## What it settles\n\n" + "\n".join(f"- {line}" for line in lines)


def tools(sanitizer):
    if not sanitizer:
        return ""
    told = [[one["tool"], one["state"], one["why"]] for one in sanitizer]
    lines = ["## compute-sanitizer", "", table(["tool", "state", "why"], told)]
    for one in sanitizer:
        if one["said"]:
            lines += ["", f"{one['tool']} says:", "", *(f"    {line}" for line in one["said"])]
    return "\n".join(lines)


def most(result):
    """Ceilings and issue bounds."""
    rows = [[name, rate(one["rate"], "copy" if name == "copy" else "flops") + ("" if one["quiet"] else "~"), one["why"] or ""]
            for name, one in result["ceilings"].items()]  # fmt: skip
    for one in result["bounds"]:
        passed = f"{one['instructions']} instructions for {one['flops']:,} FLOPs of a warp" if one["instructions"] else one["why"]
        rows.append([f"issue bound of {LABELS[one['kernel']]}, D {one['D']}, {one['kind']}", rate(one["rate"], "flops"), passed])
    return "## What this GPU does at most\n\n" + table(["", "rate", ""], rows)


def rate(value, unit):
    return "unknown" if value is None else f"{value / 1e12:.1f} TFLOP/s" if unit == "flops" else f"{value / 1e9:.0f} GB/s"


def group(title, rows, result):
    """The rows of a group: a line for every rival, with the reason where there are no numbers."""
    if not rows:
        return ""
    flops, timed = rows[0]["unit"] == "flops", {name for row in rows for name, entry in row["rivals"].items() if entry["seconds"]}
    held = next((name for name in ("flash", "efficient", "math", "naive") if name in timed), None)
    unit = ("TFLOP/s", "of bound", "of product") if flops else ("GB/s", "of bound", "of copy")
    header = ["case", "", "ms", "quartiles, rounds", *unit, "error", *([f"times {LABELS[held]}"] if held else [])]
    lines = []
    for row in rows:
        title_of_row = row["case"]
        for name, entry in row["rivals"].items():
            lines.append([title_of_row, LABELS[name], *cells(row, name, entry, held, flops, result)])
            title_of_row = ""
    parts = [f"## {title}", table(header, lines)]
    if any("~" in line[3] for line in lines):
        parts.append("~ The host was not ahead of the GPU: the time that it takes to ask for a call is in it.")
    return "\n\n".join(parts)


def cells(row, name, entry, held, flops, result):
    blank = [""] * (5 + (held is not None))
    if entry["state"] != "timed":
        return [f"{entry['state']}: {entry['why']}", *blank]
    spread, ceiling = entry["seconds"], result["ceilings"].get(PRODUCT[row["kind"]] if flops else "copy", {}).get("rate")
    share, ratio = share_of_bound(row, name, result), entry["ratios"].get(held)
    return [
        f"{spread['median'] * 1e3:.3f}",
        f"{spread['low'] * 1e3:.3f} {spread['high'] * 1e3:.3f}, {spread['n']}{'' if spread['quiet'] else ' ~'}",
        f"{entry['rate'] / 1e12:.1f}" if flops else f"{entry['rate'] / 1e9:.0f}",
        "" if share is None else f"{share:.2f}", f"{entry['rate'] / ceiling:.2f}" if ceiling else "",
        "" if entry["error"] is None else f"{entry['error']:.0e}",
        *([] if held is None else [f"{ratio['median']:.2f}" if ratio else ""]),
    ]  # fmt: skip


def share_of_bound(row, name, result):
    """How much of its kernel's issue bound a rival reaches; None where there is none."""
    entry = row["rivals"][name]
    bounds = [one["rate"] for one in result["bounds"] if (one["kernel"], one["D"], one["kind"]) == (name, row["D"], row["kind"])]
    return entry["rate"] / bounds[0] if bounds and bounds[0] and entry["rate"] else None


def every_check(checks):
    if not checks:
        return ""
    lines = []
    for one in checks:
        errors = [f"{what} {'inf' if error is None else f'{error:.1e}'} of {limit:.0e}" for what, error, limit in one["errors"]]
        lines.append([one["group"], one["name"], one["state"], "; ".join([*filter(None, [one["why"]]), *errors])])
    return "## Every check\n\nErrors, of what they may be; of 0, how many numbers differ.\n\n" + table(["", "", "", ""], lines)


def table(header, lines):
    """A Markdown table whose columns stand below each other."""
    lines = [[str(cell).replace("|", "/").replace("\n", " ") for cell in line] for line in lines]
    # a reason is longer than any number: it does not widen the column
    widths = [max(3, *(len(line[i]) for line in [header, *lines] if len(line[i]) <= 60)) for i in range(len(header))]
    shown = [header, ["-" * width for width in widths], *lines]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in shown]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)
