"""Reads the files of lib.storage as file_format.md explains them: plain Python, no package, nothing of lib."""

import hashlib
import io
import json
import struct
import sys
from bisect import bisect_right
from collections import defaultdict
from functools import partial
from itertools import accumulate
from math import exp, log, prod
from pathlib import Path

TYPES = {"float64": "d", "float32": "f", "float16": "e"}
TYPES |= {"int64": "q", "int32": "i", "int16": "h", "int8": "b", "uint8": "B", "bool": "?"}
FIXED, HUFFMAN, CONSTANT, RANGE, CONTEXT = range(5)
checksum = partial(hashlib.blake2b, digest_size=8)


def decode(content: bytes, architecture: list) -> dict:
    """Name -> values of the tensor; or its form, streams and tables, where weight() does not know the form."""
    if content[:5] != b"SLIM\x02":
        raise ValueError("it is no model file of this version")
    if checksum(content[:-8]).digest() != content[-8:]:
        raise ValueError("it is damaged: its checksum does not fit")
    file = io.BytesIO(content[5:-8])
    if file.read(8) != checksum(json.dumps(architecture).encode()).digest():
        raise ValueError("it holds another architecture")
    forms = ["plain", "on a grid", *[name(file) for _ in range(integer(file))]]
    return {key: tensor(file, forms, shape, kind.removeprefix("torch.")) for key, shape, kind in architecture}


def integer(file: io.BytesIO) -> int:
    byte = file.read(1)[0]
    return byte if byte < 128 else byte - 128 + 128 * integer(file)


def name(file: io.BytesIO) -> str:
    return file.read(file.read(1)[0]).decode("ascii")


def numbers(file: io.BytesIO, count: int, letter: str) -> list:
    layout = f"<{count}{letter}"  # "<" means little endian
    return list(struct.unpack(layout, file.read(struct.calcsize(layout))))


def tensor(file: io.BytesIO, forms: list[str], shape: list[int], kind: str) -> list | dict:
    form, count = forms[integer(file)], prod(shape)
    if form == "plain" and kind == "bfloat16":  # the upper half of a float32
        return [struct.unpack("<f", b"\0\0" + file.read(2))[0] for _ in range(count)]
    if form == "plain":
        return numbers(file, count, TYPES[kind])
    if form == "on a grid":
        step = 2.0 ** (integer(file) - 150)
        return [step * whole(symbol) for symbol in stream(file, shape)]
    streams = {name(file): stream(file, shape) for _ in range(integer(file))}
    tables = {name(file): numbers(file, integer(file), "f") for _ in range(integer(file))}
    return weight(form, streams, tables, count)


def weight(form: str, streams: dict, tables: dict, count: int) -> list | dict:
    if form == "GridWeight":
        return [single(tables["d"][0] * whole(symbol)) for symbol in streams["k"]]
    if form == "PrunedWeight":
        values = tables["value"]
    elif form in ("SharedWeight", "PrunedSharedWeight", "JointlySharedWeight"):
        shared = [0.0, *tables["centroid"]] if "gap" in streams else tables["centroid"]
        values = [shared[code] for code in streams["code"]]
    else:
        return {"form": form, "streams": streams, "tables": tables}
    if "gap" not in streams:
        return values
    dense = [0.0] * count
    for end, value in zip(accumulate(gap + 1 for gap in streams["gap"]), values, strict=True):
        dense[end - 1] = value
    return dense


def whole(symbol: int) -> int:
    """0, 1, 2, 3, 4, ... -> 0, 1, -1, 2, -2, ..."""
    return (symbol + 1) // 2 if symbol % 2 else -(symbol // 2)


def single(value: float) -> float:
    """The nearest float32."""
    return struct.unpack("f", struct.pack("f", value))[0]


def stream(file: io.BytesIO, shape: list[int] | None = None) -> list[int]:
    count, coder = integer(file), integer(file)
    if coder == CONSTANT:
        return [integer(file)] * count
    parameter = integer(file) if coder in (FIXED, CONTEXT) else stream(file)
    content = file.read(integer(file))
    if coder == CONTEXT:
        return context_code(content, count, shape[0] if len(shape) > 1 else 1, parameter)
    if coder == RANGE:
        return range_code(content, count, parameter)
    words = {f"{word:0{parameter}b}": word for word in range(2**parameter)} if coder == FIXED else canonical(parameter)
    symbols, read = [], ""
    for bit in "".join(f"{byte:08b}" for byte in content):
        read += bit
        if read in words:
            symbols.append(words[read])
            read = ""
    return symbols[:count]  # the zeros that fill the last byte may look like words


def canonical(lengths: list[int]) -> dict[str, int]:
    words, word, before = {}, 0, 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length):
        word <<= length - before
        words[f"{word:0{length}b}"] = symbol
        word, before = word + 1, length
    return words


def range_code(content: bytes, count: int, table: list[int]) -> list[int]:
    octave = 4 if count < 2**16 else 32
    parts = [(octave + (t - 1) % octave) << (t - 1) // octave if t else 0 for t in table]
    total = sum(parts)
    sums = list(accumulate((single(part / total) for part in parts), lambda a, b: single(a + b), initial=0.0))
    scale = single((2**24 - len(table)) / sums[-1])
    begins = [int(single(below * scale)) + symbol for symbol, below in enumerate(sums[:-1])] + [2**24]
    words = iter([*struct.unpack(f"<{len(content) // 4}I", content), *[0] * (count + 2)])
    ahead, size, symbols = next(words) << 32 | next(words), 2**64 - 1, []
    for _ in range(count):
        unit = size >> 24
        symbol = bisect_right(begins, ahead // unit, hi=len(table)) - 1
        ahead -= unit * begins[symbol]
        size = unit * (begins[symbol + 1] - begins[symbol])
        if size < 2**32:
            ahead, size = ahead << 32 | next(words), size << 32
        symbols.append(symbol)
    return symbols


STRETCH = [round(256 * log((i + 0.5) / (4095.5 - i))) for i in range(4096)]
SQUASH = [min(max(round(65536 / (1 + exp(-x / 256))), 16), 65520) for x in range(-3072, 3073)]


class Answers:
    """Answers to questions with yes or no, one after the other. What is likely is learned from those before."""

    def __init__(self, content: bytes):
        self.content, self.low, self.high = iter(content), 0, 2**32 - 1
        self.code = sum(next(self.content, 0) << shift for shift in (24, 16, 8, 0))
        self.known = defaultdict(lambda: (2**21, 0))  # context -> chance of yes, and answers so far
        self.weights = defaultdict(lambda: [14000] * 5, {"row": [65536]})  # mixer -> weights of the contexts

    def next(self, mixer: object, *contexts: tuple) -> int:
        inputs, weights = [STRETCH[self.known[context][0] >> 10] for context in contexts], self.weights[mixer]
        mixed = sum(weight * x for weight, x in zip(weights, inputs, strict=False)) >> 16
        p = SQUASH[min(max(mixed, -3072), 3072) + 3072]
        middle = self.low + ((self.high - self.low) * p >> 16)
        yes = int(self.code <= middle)
        self.low, self.high = (self.low, middle) if yes else (middle + 1, self.high)
        while self.low >> 24 == self.high >> 24:
            self.low, self.high = (self.low << 8) % 2**32, (self.high << 8) % 2**32 + 255
            self.code = (self.code << 8) % 2**32 + next(self.content, 0)
        for i, (context, x) in enumerate(zip(contexts, inputs, strict=True)):
            weights[i] += (x * ((yes << 16) - p) * 4 + 2**17) >> 18
            chance, seen = self.known[context]
            chance += ((2**22 - 1) * yes - chance) * 2 // (2 * seen + 3)
            self.known[context] = chance, min(seen + 1, 500)
        return yes


def context_code(content: bytes, count: int, rows: int, width: int) -> list[int]:
    answers, columns, symbols, alive = Answers(content), count // rows, [], 0
    above = defaultdict(int)  # column -> how many weights of it were not zero so far
    lines = [-2, 2, -width, width, -2 * width, 2 * width, -width - 1, 1 - width, width - 1, width + 1]
    places = [-1, 0, 0, 1, *(lines if width > 1 else [])]
    for r in range(rows):
        row, kept = defaultdict(int), 0
        alive = answers.next("row", ("row", alive))
        for c in range(columns if alive else 0):
            x = c % width
            left, up, upleft = row[c - 1] * (x > 0), row[c - width] * (width > 1), row[c - width - 1] * (x > 0)
            upright, left2 = row[c - width + 1] * (x < width - 1), row[c - 2] * (x > 1)
            around = left, up, upleft, upright, left2, row[c - 2 * width] * (width > 1)
            shape, sign = [k != 0 for k in around], [(k > 0) - (k < 0) for k in around]
            near = 2 * shape[0] + 2 * shape[1] + shape[2] + shape[3]
            dense = (32 * sum(above[c + place] for place in places) // (r + 1)).bit_length()
            full, here = (256 * kept // (c + 1)).bit_length(), (64 * above[c] // (r + 1)).bit_length()
            zero = ("A", *shape), ("B", dense, full), ("C", dense, here), ("D", full, near), ("E", 64 * c // columns)
            if not answers.next(min(near, 3), *zero):
                continue
            plus = answers.next("sign", ("F", *sign[:2]), ("G", *sign[:4]), ("H", *sign[4:]))
            level, largest = 1, min(max(map(abs, around[:4])), 15)
            while answers.next(("more", m := min(level, 15)), ("I", m), ("J", m, largest)) and level < 256:
                level += 1
            row[c], above[c], kept = level if plus else -level, above[c] + 1, kept + 1
        symbols += [2 * row[c] - 1 if row[c] > 0 else -2 * row[c] for c in range(columns)]
    return symbols


if __name__ == "__main__":  # python stranger.py model.slim architecture.json
    print(json.dumps(decode(Path(sys.argv[1]).read_bytes(), json.loads(Path(sys.argv[2]).read_text()))))
