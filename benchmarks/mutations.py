"""Files changed by chance, as damage, other versions and hostile hands change them."""

import json
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

_DEEP = 100_000  # levels, more than any parser recurses
_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    1.5,
    -0.0,
    1e308,
    5e-324,
    math.inf,
    -math.inf,
    math.nan,
    2**31,
    2**53 + 1,
    2**63,
    -(2**64),
    10**400,
    "",
    "0",
    "sgdat",
    "../../x",
    "/dev/zero",
    "\0",
    "\ud800",
    "[/x]",
    "\u202e",
    "9" * 5000,
    [],
    {},
    [[]],
    {"": {}},
    [1, "a", None],
    list(range(1000)),
)
_KEYS = ("", "format", "model", "epoch", "__class__", "\0", "a" * 1000)


def document(chance: random.Random, text: str) -> bytes:
    """Returns a file of JSON, changed in its structure, its text or its encoding.

    Args:
      chance: the source of chance.
      text: what the file holds.
    """
    kind = chance.random()
    if kind < 0.7:
        value = json.loads(text)
        for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
            value = _changed(chance, value)
        return _written(chance, json.dumps(value))
    if kind < 0.8:
        return _written(chance, chance.choice(_TEXTS)(chance, text))
    return content(chance, text.encode())


def lines(chance: random.Random, text: str) -> bytes:
    """Returns a file of JSON lines: changed, torn, repeated, or in another order."""
    held = text.splitlines()
    kind = chance.randrange(6)
    if kind == 0:
        return text.encode()[: chance.randrange(len(text))]  # torn
    if kind == 1:
        held.insert(chance.randrange(len(held) + 1), chance.choice(held))
    elif kind == 2:
        chance.shuffle(held)
        del held[chance.randrange(len(held)) :]
    elif kind == 3:
        held.insert(chance.randrange(len(held) + 1), chance.choice(["", "{}", "[]"]))
    else:
        place = chance.randrange(len(held))
        changed = document(chance, held[place])
        before, after = held[:place], held[place + 1 :]
        return b"".join(
            part + b"\n"
            for part in (*map(str.encode, before), changed, *map(str.encode, after))
        )
    return ("\n".join(held) + chance.choice(["", "\n"])).encode()


def content(chance: random.Random, original: bytes) -> bytes:
    """Returns bytes with some changed, cut out, put in, repeated or cut off."""
    found = bytearray(original)
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        if not found:
            break
        start = chance.randrange(len(found))
        length = min(chance.choice([1, 1, 2, 4, 8, 64, 512]), len(found) - start)
        match chance.randrange(7):
            case 0:
                found[start] ^= 1 << chance.randrange(8)
            case 1:
                found[start : start + length] = chance.randbytes(length)
            case 2:
                del found[start : start + length]
            case 3:
                found[start:start] = chance.randbytes(length)
            case 4:
                found[start:start] = found[start : start + length]
            case 5:
                found[start : start + length] = length * chance.choice(
                    [b"\0", b"\xff", b"\x7f"]
                )
            case _:
                if chance.random() < 0.2:
                    del found[start:]
    return bytes(found)


def _changed(chance: random.Random, value: Any) -> Any:
    """Returns a value of JSON with one part, at any depth, that is another."""
    inner: Sequence[Any] = ()
    if isinstance(value, dict):
        inner = list(value)
    elif isinstance(value, list):
        inner = range(len(value))
    if not inner or chance.random() < 0.15:
        return chance.choice(_VALUES)
    key = chance.choice(inner)
    match chance.randrange(8):
        case 0:
            changed = value.copy()
            del changed[key]
            return changed
        case 1 if isinstance(value, dict):
            return value | {chance.choice(_KEYS): chance.choice(_VALUES)}
        case 1:
            return value * 2
        case 2 if isinstance(value, dict):
            return value | {key: value[chance.choice(inner)]}
        case 3:
            return [value]
    changed = value.copy()
    changed[key] = _changed(chance, value[key])
    return changed


def _written(chance: random.Random, text: str) -> bytes:
    if chance.random() < 0.9:
        return text.encode()
    encoding = chance.choice(["utf-16", "utf-8-sig", "utf-32", "cp500", "utf-7"])
    return text.encode(encoding, "replace")


def _deep(chance: random.Random, text: str) -> str:
    opened, closed = chance.choice([("[", "]"), ('{"a":', "}")])
    return _DEEP * opened + "1" + _DEEP * closed * chance.randrange(2)


_TEXTS: tuple[Callable[[random.Random, str], str], ...] = (
    _deep,
    lambda chance, text: "",
    lambda chance, text: "null",
    lambda chance, text: text + text,
    lambda chance, text: text.replace('"', "'"),
    lambda chance, text: text.replace("{", '{"epoch": 1, "epoch": 2, ', 1),
    lambda chance, text: text.replace(":", f": 1{5000 * chr(48)}, ", 1),
    lambda chance, text: chance.choice(["NaN", "Infinity", "-1e999", '"x"', "[1]"]),
)
