"""What a compiled program does, read from its text: bytes, products and collectives.

XLA prints an optimized program as HLO. For TPUs arrays bear the tiles that they fill up
to and the memory that they lie in, ``f32[64,10]{1,0:T(8,128)S(1)}``: 64 rows of 128, in
fast memory (VMEM) rather than the chip's main one (HBM).
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2"), 1),
    **dict.fromkeys(("s16", "u16", "bf16", "f16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64"), 8),
    **dict.fromkeys(("s4", "u4"), 0.5),
    **dict.fromkeys(("s2", "u2"), 0.25),
}
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
)
_ARRAY = re.compile(rf"\b({'|'.join(BYTES)})\[([\d,]*)\](?:\{{([^}}]*)\}})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (.*)$")
# These move nothing by themselves, or the end of what another has begun.
_FREE = re.compile(
    r"parameter|get-tuple-element|tuple|bitcast|constant|iota|after-all|opt-barrier"
    r"|partition-id|replica-id|while|conditional|call|async-update|.*-done"
)
_PLACEHOLDERS = re.compile(r"AllocateBuffer|ConcatBitcast|ShapeInvariant")


class Array(NamedTuple):
    """The type of an array."""

    dtype: str
    shape: tuple[int, ...]
    layout: str  # as printed: dimensions from the fastest on, tiles and memory

    @property
    def nbytes(self) -> float:
        """Bytes of its elements."""
        return math.prod(self.shape) * BYTES[self.dtype]

    @property
    def in_hbm(self) -> float:
        """Bytes that it takes up in main memory, its tiles filled."""
        return 0 if re.search(r"S\(\d+\)", self.layout) else self.tiled

    @property
    def tiled(self) -> float:
        """Bytes with its tiles filled."""
        order, _, tiles = self.layout.partition(":")
        size, tile = BYTES[self.dtype], re.search(r"T\(([\d,]+)\)", tiles)
        shape = list(self.shape)
        if bits := re.search(r"E\((\d+)\)", tiles):
            size = int(bits[1]) / 8
        if tile and order:
            sizes = reversed(numbers(tile[1]))
            for step, axis in zip(sizes, numbers(order), strict=False):
                shape[axis] = -(-shape[axis] // step) * step
        return math.prod(shape) * size


class Instruction(NamedTuple):
    """One instruction of a computation."""

    name: str
    arrays: tuple[Array, ...]  # what it returns
    opcode: str
    operands: tuple[str, ...]  # names of instructions
    attributes: str  # all that follows; of a parameter its number


class Program(NamedTuple):
    """A compiled program."""

    computations: dict[str, dict[str, Instruction]]
    entry: str


class Collective(NamedTuple):
    """What devices send to each other at once."""

    kind: str
    dtype: str
    nbytes: float  # of the whole array: what is reduced, or what all have in the end
    devices: int  # that take part together

    @property
    def sent(self) -> float:
        """Bytes that each device sends in a ring."""
        passes = 2 if self.kind == "all-reduce" else 1
        return passes * self.nbytes * (self.devices - 1) / self.devices


def parse(text: str) -> Program:
    """Parses the text of a compiled program."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, found = "", {}
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            found = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif instruction := _INSTRUCTION.match(line):
            parsed = _parse_instruction(*instruction.groups())
            if parsed:
                found[parsed.name] = parsed
    return Program(computations, entry)


def _parse_instruction(name: str, rest: str) -> Instruction | None:
    kind, rest = _until_closed(rest) if rest[0] == "(" else rest.split(" ", 1)
    call = re.match(r"\s*([\w-]+)(\(.*)$", rest)
    if not call:
        return None
    operands, attributes = _until_closed(call[2])
    if call[1] == "parameter":
        attributes = operands[1:-1]
    names = tuple(re.findall(r"%([\w.-]+)", operands))
    return Instruction(name, arrays_of(kind), call[1], names, attributes)


def _until_closed(text: str) -> tuple[str, str]:
    """Splits after the parenthesis that closes the one at the start."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[: place + 1], text[place + 1 :]
    return text, ""


def arrays_of(kind: str) -> tuple[Array, ...]:
    """Returns the arrays in a printed type."""
    found = _ARRAY.findall(kind)
    return tuple(Array(dtype, numbers(dims), layout) for dtype, dims, layout in found)


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


def executed(program: Program) -> Iterator[tuple[dict[str, Instruction], int]]:
    """Yields the computations that are no part of an instruction, and how often.

    These are the entry and the bodies of its loops, as often as they are known to run.
    """
    waiting = [(program.entry, 1)]
    while waiting:
        name, times = waiting.pop()
        found = program.computations[name]
        yield found, times
        for one in found.values():
            if one.opcode == "while":
                count = re.search(r'known_trip_count":\{"n":"(\d+)"', one.attributes)
                body = re.search(r"body=%?([\w.-]+)", one.attributes)
                assert body, one
                waiting.append((body[1], times * int(count[1] if count else 1)))
            elif one.opcode == "call":
                called = re.search(r"to_apply=%?([\w.-]+)", one.attributes)
                assert called, one
                waiting.append((called[1], times))


def hbm_bytes(program: Program) -> float:
    """Returns the bytes that a device reads from and writes to its main memory."""
    return sum(
        times * traffic(program, found, one)
        for found, times in executed(program)
        for one in found.values()
    )


def elements(one: Instruction) -> int:
    """Returns the numbers in the largest array of an instruction's result."""
    return max((math.prod(array.shape) for array in one.arrays), default=0)


def is_free(one: Instruction) -> bool:
    """Returns whether an instruction moves nothing by itself."""
    return bool(
        _FREE.fullmatch(one.opcode)
        or (one.opcode == "custom-call" and _PLACEHOLDERS.search(one.attributes))
    )


def traffic(program: Program, found: dict[str, Instruction], one: Instruction) -> float:
    """Returns the bytes that an instruction reads from and writes to main memory.

    Args:
      program: all of it.
      found: the computation of the instruction.
      one: the instruction.
    """
    if is_free(one):
        return 0
    if one.opcode in ("copy-start", "slice-start"):  # to fast memory or from it
        moved = one.arrays[one.opcode == "slice-start"]
        return moved.tiled * sum(bool(array.in_hbm) for array in one.arrays[:2])
    called = re.search(r"calls=%?([\w.-]+)", one.attributes)
    inside = program.computations[called[1]] if called else {}
    written = sum(array.in_hbm for array in one.arrays)
    read = 0.0
    for number, name in enumerate(one.operands):
        operand = found.get(name)
        if operand is None or name in one.operands[:number]:
            continue
        whole = sum(array.in_hbm for array in operand.arrays)
        taken, kept = _taken(inside, number)
        if taken is not None and whole:
            read += min(whole, taken)
            written -= kept
        else:
            read += whole
    return read + max(written, 0)


def _taken(inside: dict[str, Instruction], number: int) -> tuple[float | None, float]:
    """Returns what a fusion takes of a parameter, and what of its result it keeps.

    Args:
      inside: the fused computation.
      number: of the parameter.

    Returns:
      Bytes of the slices that it reads, None if it reads all; and the bytes that it
      leaves as they are where it updates a slice in place.
    """
    parameter = next(
        (
            one.name
            for one in inside.values()
            if one.opcode == "parameter" and one.attributes == f"{number}"
        ),
        None,
    )
    if parameter is None:
        return None, 0
    taken = kept = 0.0
    for one in inside.values():
        if parameter not in one.operands:
            continue
        first = one.operands[0] == parameter
        if first and one.opcode in ("dynamic-slice", "gather", "slice"):
            taken += sum(array.tiled for array in one.arrays)
        elif first and one.opcode == "dynamic-update-slice":
            update = inside[one.operands[1]]
            changed = sum(array.tiled for array in update.arrays)
            kept += sum(array.tiled for array in one.arrays) - changed
        else:
            return None, 0
    return taken, kept


def collectives(program: Program) -> list[Collective]:
    """Returns what is sent between devices; of those in loops, what one turn sends."""
    found, known = [], set()
    for name, computation in program.computations.items():
        for one in computation.values():
            kind = one.opcode.removesuffix("-start")
            if kind not in COLLECTIVES:
                continue
            # Begun at once and ended later, one appears in several computations.
            channel = re.search(r"channel_id=(\d+)", one.attributes)
            results = _whole_results(one)
            key = channel and (channel[1], *(array[:2] for array in results))
            if key in known:
                continue
            known.add(key or object())
            devices = _group(one.attributes)
            # TPUs reduce and scatter by a fusion that slices the sum.
            if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"
            scale = devices if one.opcode.startswith("reduce-scatter") else 1
            for array in results:
                found.append(
                    Collective(kind, array.dtype, scale * array.nbytes, devices)
                )
    return found


def _whole_results(one: Instruction) -> Sequence[Array]:
    """Returns the results of a collective; what begins one returns operands, too."""
    if one.opcode in ("all-gather-start", "reduce-scatter-start"):
        return one.arrays[len(one.arrays) // 2 :]
    if one.opcode == "collective-permute-start":
        return one.arrays[1:2]
    return one.arrays


def _group(attributes: str) -> int:
    """Returns how many devices a collective is among."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return len(numbers(listed[1]))
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(counted[1])
    named = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", attributes)
    if not named:
        return 2  # each with another
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
    return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
