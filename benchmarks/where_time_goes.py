"""Where does the time of a training step go?

The training program runs under JAX's profiler, and each instant of its steps is shared
equally among the operations that are under way. An operation is what its instruction in
the compiled program says: by the opcode, by the scope in which the library made it
(`sgdat_jax/training/step.py`), and by what it is a gradient of.

On a CPU, Eigen's threads do the work of most operations: their own events end when it
is handed over, and others mark when the program heard of its end. It may hear late, so
an operation is over as soon as another reads its result.

    python -m benchmarks.where_time_goes --width 0.25 --batch 64

On an accelerator a round is hundreds of steps, of which few fit into a profile:

    python -m benchmarks.where_time_goes --dtype bfloat16 --batch 1024 --rounds 1
"""

import argparse
import collections
import functools
import pathlib
import re
import tempfile
from typing import NamedTuple

import jax

from benchmarks import timing, train_step
from sgdat_jax import cpu, lookups
from sgdat_jax.data import sources
from sgdat_jax.lookups import native
from sgdat_jax.training import loop, steps

RESULTS = pathlib.Path(__file__).parent / "results" / "where_time_goes"
MODELS = (*train_step.MODELS, "DigitsNet")

AUGMENTATION = "augmentation and normalization of images"
BITS = "products of signs by bits, forward"
CONV_FORWARD = "convolutions, forward"
CONV_INPUTS = "convolutions, gradient to inputs"
CONV_KERNELS = "convolutions, gradient to kernels"
DENSE = "dense products, forward and backward"
FORWARD = "activations, normalization, pooling, forward"
BACKWARD = "activations, normalization, pooling, backward"
BINARY_OPTIMIZER = "optimizer of binary weights"
REAL_OPTIMIZER = "optimizer of the rest"
METRICS = "metrics, finite check, skipping of steps"
COPIES = "copies that XLA adds"
OTHER = "other"
GAPS = "start, end and gaps"
CATEGORIES = (
    AUGMENTATION,
    BITS,
    CONV_FORWARD,
    CONV_INPUTS,
    CONV_KERNELS,
    DENSE,
    FORWARD,
    BACKWARD,
    BINARY_OPTIMIZER,
    REAL_OPTIMIZER,
    METRICS,
    COPIES,
    OTHER,
    GAPS,
)

# In the order in which they are looked for.
SCOPES = (
    ("skip", METRICS),
    ("metrics", METRICS),
    ("augmentation", AUGMENTATION),
    ("binary_optimizer", BINARY_OPTIMIZER),
    ("real_optimizer", REAL_OPTIMIZER),
    ("optimizer", REAL_OPTIMIZER),
    ("bits", BITS),
)
_TURN = "turn of training steps"
_END = "end: "


class Instruction(NamedTuple):
    """A line of a compiled program."""

    line: str
    opcode: str
    op_name: str  # what JAX calls it: scopes and primitive; empty if XLA added it
    operands: tuple[str, ...]
    calls: str  # name of the computation that it fuses or calls, or empty
    computation: str  # name of the computation that it is in


class Event(NamedTuple):
    """An operation under way, in nanoseconds."""

    name: str
    start: float
    end: float


def category_of(op_name, line):
    """Returns the category of one instruction, or None if it does not tell.

    Args:
      op_name: what JAX calls it; may be empty.
      line: the instruction in the text of the compiled program.
    """
    for scope, category in SCOPES:
        if re.search(rf"\b{scope}\b", op_name):
            return category
    if native.KERNEL_GRADIENT in line:
        return CONV_KERNELS
    if native.INPUT_GRADIENT in line:
        return CONV_INPUTS
    # By name as well: XLA turns parts of products into fusions.
    if re.search(r" convolution\(|__cudnn\$conv", line) or op_name.endswith(
        "/conv_general_dilated"
    ):
        return _convolution(op_name, line)
    if re.search(r" dot\(|__cublas", line) or op_name.endswith("/dot_general"):
        return DENSE
    if "transpose(jvp(" in op_name:
        return BACKWARD
    if "jvp(" in op_name:
        return FORWARD
    if not op_name and " copy(" in line:
        return COPIES
    return None


def _convolution(op_name, line):
    if "convBackwardFilter" in line or "dim_labels=f" in line or _is_large(line):
        return CONV_KERNELS
    return CONV_INPUTS if "transpose(jvp(" in op_name else CONV_FORWARD


def _is_large(line):
    """Returns whether a convolution has a window larger than its result.

    So have the kernel gradients that XLA's CPU backend rewrites: they convolve inputs
    with gradients of nearly their size, to the size of a kernel.
    """
    parts = re.search(
        r" = \w+\[([\d,]+)\].* convolution\(.*{size=([\dx]+).*dim_labels=\w+->(\w+)",
        line,
    )
    if not parts:
        return False
    sizes, window, labels = parts.groups()
    axes = zip(labels, map(int, sizes.split(",")), strict=True)
    result = [size for label, size in sorted(axes) if label.isdigit()]
    return any(w > r for w, r in zip(map(int, window.split("x")), result, strict=True))


def parse(text):
    """Returns the instructions of a compiled program by name, from its text."""
    found, computation = {}, ""
    for line in text.splitlines():
        if opened := re.match(r"(?:ENTRY )?%(\S+) .*{$", line):
            computation = opened[1]
        elif parts := re.match(
            r"\s+(?:ROOT )?%(\S+) = .*?[\])}] ([a-z][\w-]*)\((.*?)\)(?:, |$)", line
        ):
            name, opcode, operands = parts.groups()
            op_name = re.search(r'metadata={op_name="(.*?)"', line)
            calls = re.search(r"calls=%([^\s,]+)", line)
            found[name] = Instruction(
                line=line.strip(),
                opcode=opcode,
                op_name=op_name[1] if op_name else "",
                operands=tuple(re.findall(r"%([^\s,)]+)", operands)),
                calls=calls[1] if calls else "",
                computation=computation,
            )
    return found


def categories(instructions):
    """Returns the category of each instruction by name.

    A fusion is what its root is. If its root only selects whether a step is skipped, it
    is what most of it is. What XLA added without a name, a transposition or the first
    part of a sum, is what its first reader is.
    """
    members = collections.defaultdict(list)
    for instruction in instructions.values():
        members[instruction.computation].append(instruction)
    readers = readers_of(instructions)

    @functools.cache
    def category(name):
        it = instructions[name]
        own = category_of(it.op_name, it.line)
        if it.opcode == "fusion" and re.search(r"\bskip\b", it.op_name):
            fused = [category_of(m.op_name, m.line) for m in members[it.calls]]
            rest = [c for c in fused if c not in (None, METRICS)]
            return collections.Counter(rest).most_common(1)[0][0] if rest else own
        if own is None and not it.op_name and readers[name]:
            return category(readers[name][0])
        return own or OTHER

    return {name: category(name) for name in instructions}


def readers_of(instructions):
    """Returns the names of the instructions that read each one's result, in order.

    They are of the same computation. What only renames a result does not count, but
    those that read it then.
    """
    direct = collections.defaultdict(list)
    for name, instruction in instructions.items():
        for operand in instruction.operands:
            direct[operand].append(name)

    def expand(name):
        renamed = instructions[name].opcode in ("bitcast", "get-tuple-element")
        return [r for d in direct[name] for r in expand(d)] if renamed else [name]

    return {name: [r for d in direct[name] for r in expand(d)] for name in instructions}


def share_out(events, start, end):
    """Shares a span of time among events.

    Args:
      events: of any order; they may overlap.
      start: of the span.
      end: of the span.

    Returns:
      The time of each event's name, and of None when there was no event; an instant
      with several counts for each of them alike. They add up to ``end - start``.
    """
    changes = [(start, None, 0), (end, None, 0)]
    for event in events:
        first, last = max(event.start, start), min(event.end, end)
        if first < last:
            changes += [(first, event.name, 1), (last, event.name, -1)]
    changes.sort(key=lambda change: change[0])
    shares, active, before = collections.Counter(), collections.Counter(), start
    for now, name, change in changes:
        for one in active or [None]:
            count = active[one] / active.total() if active else 1
            shares[one] += count * (now - before)
        before = now
        if change:
            active[name] += change
            active += collections.Counter()  # drops those that are over
    return dict(shares)


def until_read(operations, readers):
    """Returns events that last as long as the work that they began.

    Args:
      operations: of one turn: an event, and when the program heard that its work was
        over, or None.
      readers: names of the operations that read each one's result.
    """
    starts = collections.defaultdict(list)
    for event, _ in operations:
        starts[event.name].append(event.start)

    def last(event, heard):
        reads = (t for reader in readers[event.name] for t in starts[reader])
        return min([heard, *(t for t in reads if t >= event.end)])

    return [
        event
        if heard is None or heard < event.end
        else event._replace(end=last(event, heard))
        for event, heard in operations
    ]


def read_profile(folder, instructions):
    """Returns the turns of a profile, and its operations as `until_read` takes them."""
    files = pathlib.Path(folder).glob("**/*.xplane.pb")
    newest = max(files, key=lambda file: file.stat().st_mtime)
    profile = jax.profiler.ProfileData.from_file(str(newest))
    turns, operations, ends = [], {True: [], False: []}, {}
    for plane in profile.planes:
        for event in (event for line in plane.lines for event in line.events):
            if event.name == _TURN:
                turns.append((event.start_ns, event.end_ns))
                continue
            stats = dict(event.stats)
            if event.name.startswith(_END):
                ends[stats.get("_c")] = event.start_ns
            name = stats.get("hlo_op", event.name)
            if name in instructions:
                begun = Event(name, event.start_ns, event.end_ns)
                on_device = plane.name.startswith("/device:")
                operations[on_device].append((begun, stats.get("_p")))
    # Beside an accelerator the host's events are not the work itself.
    found = operations[True] or operations[False]
    return sorted(turns), [(event, ends.get(key)) for event, key in found]


def profiled(settings, data, rounds):
    """Returns the training program's instructions, times, turns and operations."""
    # A program that was compiled before its scopes had these names would not do.
    jax.config.update("jax_compilation_cache_include_metadata_in_key", True)
    task, state, *rest = train_step.program_arguments(settings, data)
    program = loop.programs().train_steps.lower(task, state, *rest).compile()
    instructions = parse(program.as_text())
    held = [state]

    def turn():
        held[0], record = program(held[0], *rest)
        return held[0], record

    plain = timing.take_turns([turn], rounds=rounds).wall
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(rounds):
                with jax.profiler.TraceAnnotation(_TURN):
                    jax.block_until_ready(turn())
        turns, operations = read_profile(folder, instructions)
    return instructions, plain, turns, operations


def measure(model, batch, options):
    """Returns the parts of one case's step."""
    is_small = model == "DigitsNet"
    data = sources.digits() if is_small else train_step.made_images(batch)
    settings = train_step.settings_of(model, batch, options)
    instructions, plain, turns, operations = profiled(settings, data, options.rounds)
    category, readers = categories(instructions), readers_of(instructions)
    spent = collections.Counter()
    for start, end in turns:
        inside = [one for one in operations if start <= one[0].start < end]
        events = until_read(inside, readers)
        for name, time in share_out(events, start, end).items():
            spent[category.get(name, GAPS)] += time
    count = len(turns) * steps.steps_per_call()
    unprofiled = timing.spread(plain / steps.steps_per_call())
    return {
        "model": model,
        "batch": batch,
        "rounds": len(turns),
        "steps": count,
        "seconds": spent.total() / 1e9 / count,
        "seconds_unprofiled": unprofiled._asdict(),
        "categories": {
            name: {
                "seconds": spent[name] / 1e9 / count,
                "share": spent[name] / spent.total(),
            }
            for name in CATEGORIES
        },
    }


def show(rows):
    def cell(row, name):
        part = row["categories"][name]
        return f"{1e3 * part['seconds']:.2f} ms {part['share']:6.1%}"

    cells = [
        {"part": name, **{row["model"]: cell(row, name) for row in rows}}
        for name in CATEGORIES
    ]
    whole = {row["model"]: f"{1e3 * row['seconds']:.1f} ms 100.0%" for row in rows}
    timing.show([*cells, {"part": "a whole step", **whole}], names=("part",))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS[:2])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args(arguments)
    cpu.keep_freed_memory()  # as the command does
    lookups.look_up_gradients()
    rows = [measure(model, options.batch, options) for model in options.models]
    show(rows)
    name = f"{jax.default_backend()}-{options.dtype}-width{options.width:g}.json"
    timing.write(options.out / name, {"rows": rows})


if __name__ == "__main__":
    main()
