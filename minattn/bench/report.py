"""The result of a run as text."""
import math

from .rivals import LABELS, OWN
from .scaling import slope

TITLES = {
    "forward": "Forward", "backward": "Forward and backward", "decode": "Decoding: one query, every key read once",
    "window": "Sliding window; PyTorch gets the same boolean mask", "score_mod": "A score modifier: ALiBi",
    "sparse": "Sparse, l = sqrt(N); GFLOP/s count the pairs of the pattern", "sgemm": "Against a matrix product, with one thread",
    "forms": "The linear family: its forms", "crossing": "Linear attention, beside full causal attention",
}
BUSY = 0.5                                                            # of a load per core, before the run began


def text(result):
    """Everything, as lines that fit a wide terminal."""
    parts = [head(result), compiling(result["compile"], result["rows"])]
    parts += [group(name, [row for row in result["rows"] if row["group"] == name], result["ceilings"]) for name in TITLES]
    parts += [means(result["rows"]), slopes(result["scaling"] + result["sparse"], "one head, D 64"),
              slopes(result["linear"], "D 64; prefill one head, decoding 8"), peaks(result["memory"])]
    return "\n\n".join(filter(None, parts))


def head(result):
    machine, ceilings = result["machine"], result["ceilings"]
    packages = ", ".join(f"{name} {version or 'not installed'}" for name, version in machine["packages"].items())
    lines = [
        f"minattn {result['minattn']}, {result['threads']} thread{'s' * (result['threads'] > 1)}, float32, B = 1; "
        f"{result['seconds']:.0f} s in all",
        f"{machine['processor']}, {machine['cores']} cores, {machine['architecture']} ({', '.join(machine['simd'])}), "
        f"{machine['system']}; Python {machine['python']}, {packages}",
        f"what it can do: sgemm {rate(ceilings['sgemm'], 'GFLOP/s')}, reading {rate(ceilings['read'], 'GB/s')}, "
        f"copying {rate(ceilings['copy'], 'GB/s')} (more memory than fits its caches)",
    ]
    if machine["load"] is not None and machine["load"] > BUSY * machine["cores"]:
        lines.append(f"Other programs were computing here before the run began (load {machine['load']:.1f}).")
    lines.append("Ratios: median [quartiles] of how many rounds; ~ other programs took the cores away: not to be relied on.")
    return "\n".join(lines)


def rate(ceiling, unit):
    if ceiling["rate"] is None:
        return "unknown"
    return f"{ceiling['rate'] / 1e9:.1f}{'' if ceiling['quiet'] else '~'} {unit}"


def compiling(steps, rows):
    """First calls: this kernel's, and FlexAttention's as it found its own cache."""
    if not steps:
        return ""
    lines = ["First call, in seconds, loading what it needs included", f"{'':<36}   no cache   from cache"]
    for step in steps:
        shown = f"{step['fresh']:11.2f}{step['cached']:13.2f}" if step["fresh"] and step["cached"] else f"   {step['why']}"
        lines.append(f"this kernel, {step['step']:<23}{shown}")
    for row in rows:
        entry = row["rivals"].get("flex", {})
        if entry.get("first"):
            lines.append(f"FlexAttention, {row['group']:<21}{entry['first']:11.2f}   (its own cache as it was)")
    return "\n".join(lines)


def group(name, rows, ceilings):
    """The rows of a group: a line for every rival, with the reason where there are no numbers."""
    if not rows:
        return ""
    unit = "GFLOP/s" if rows[0]["unit"] == "flops" else "GB/s"
    compared = {"sgemm", "read"} & set(rows[0]["goals"])              # in the same rounds, which says more than the ceiling
    most = None if compared else ceilings["sgemm"]["rate"]
    others = list(rows[0]["goals"])
    columns = "".join(f"   times {LABELS[other]:<22}" for other in others)
    lines = [TITLES[name], f"{'':<36}{'':<14}{'ms':>9}{unit:>9}{'' if compared else 'of sgemm':>9}  error {columns}".rstrip()]
    for row in rows:
        title = row["case"]
        for rival, entry in row["rivals"].items():
            lines.append(f"{title:<36}{LABELS[rival]:<14}{numbers(row, rival, entry, most)}".rstrip())
            title = ""
        if row["keys"] and row["keys"]["counted"]:
            closed, counted, scale = row["keys"].values()
            same = "as many as" if counted == closed else f"but {closed:,} by"
            lines.append(f"{'':<36}{counted:,} pairs attended, {counted / scale:.3f} N^1.5; {same} the closed form")
    return "\n".join(lines)


def numbers(row, rival, entry, most):
    if entry["state"] != "timed":
        return f"{'':>5}{entry['state']}: {entry['why']}"
    share = f"{entry['rate'] / most:9.2f}" if most else f"{'':>9}"
    error = f"{entry['error']:.0e}" if entry["error"] is not None else ""
    against = "".join(f"   {versus(row, rival, entry, other):<28}" for other in row["goals"])
    return f"{entry['seconds']['median'] * 1e3:>9.2f}{entry['rate'] / 1e9:>9.1f}{share}{error:>7} {against}"


def versus(row, rival, entry, other):
    """A ratio with its quartiles, and beside this kernel's what it should be."""
    ratio = entry["ratios"].get(other)
    if ratio is None:
        return ""
    goal = row["goals"][other]
    verdict = "" if goal is None or rival not in OWN else f" {'>=' if ratio['median'] >= goal else '<'} {goal:g}"
    return f"{shown(ratio)}{verdict}"


def shown(spread):
    """Median, quartiles, of how many, and ~ where they are not quiet."""
    return f"{spread['median']:.2f} [{spread['low']:.2f} {spread['high']:.2f}] {spread['n']}x{'' if spread['quiet'] else '~'}"


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def means(rows):
    """This kernel against PyTorch over the forward rows: full, causal, all."""
    found: dict[str, list[float]] = {}
    for row in rows:
        ratio = row["rivals"].get("cpu", {}).get("ratios", {}).get("torch")
        if row["group"] == "forward" and ratio:
            found.setdefault(row["case"].split()[0], []).append(ratio["median"])
    if not found:
        return ""
    found["all"] = [value for values in found.values() for value in values]
    listed = ", ".join(f"{kind} {geometric_mean(values):.2f}" for kind, values in found.items())
    return f"This kernel, times PyTorch, geometric mean of the forward rows: {listed}"


def slopes(series, told):
    if not series:
        return ""
    lines = [f"Time against N ({told}): t = c N^slope"]
    for one in series:
        if one["slope"] is None:
            said = one["why"]
        else:
            low, before, high = (one["points"][at] for at in (0, -2, -1))
            last = slope([before["N"], high["N"]], [before["median"], high["median"]])
            said = (f"slope {shown(one['slope'])}, from N {before['N']} on {last:.2f}, "
                    f"{low['median'] * 1e3:.3g} ms at N {low['N']} to {high['median'] * 1e3:.3g} ms at N {high['N']}")
        lines.append(f"{one['series']:<36}{LABELS[one['rival']]:<14}  {said}")
    return "\n".join(lines)


def peaks(memory):
    if not memory:
        return ""
    lines = ["Peak memory beyond inputs and results, causal, one head, D 64"]
    for one in memory:
        measured = [f"N {point['N']}: {point['bytes'] / 1e6:.1f} MB" for point in one["points"] if point["bytes"] is not None]
        reasons = {point["why"] for point in one["points"] if point["bytes"] is None}
        lines.append(f"{'':<36}{LABELS[one['rival']]:<14}  {'; '.join([*measured, *sorted(map(str, reasons))])}")
    return "\n".join(lines)
