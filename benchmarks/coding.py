"""How fast the entropy coders are, counting each symbol as one byte, and how close to the entropy they come.

Times are medians on one thread; the coders take turns in one process. Run with ``make bench``. If dahuffman is
installed (the extra ``peers``), its Huffman coder, which is plain Python, is raced on the same symbols.
"""

import numpy as np

from lib import measure
from lib.coding import coders

SYMBOLS, RUNS = 1_000_000, 21

try:
    from dahuffman import HuffmanCodec
except ImportError:
    HuffmanCodec = None


def main() -> None:
    generator = np.random.default_rng(0)
    normal = generator.normal(size=SYMBOLS)
    streams = {
        "16 levels of a Gaussian": np.clip(np.round(2 * normal) + 8, 0, 15).astype(np.int64),
        "256 levels of a Gaussian": np.clip(np.round(40 * normal) + 128, 0, 255).astype(np.int64),
        "gaps at 10 % density": np.minimum(generator.geometric(0.1, SYMBOLS) - 1, 31),
        "one in ten is a one": (normal > 1.2816).astype(np.int64),
    }
    print(f"{'symbols':28}{'coder':12}{'encode MB/s':>12}{'decode MB/s':>12}{'over entropy':>14}")
    for name, symbols in streams.items():
        for coder, (speeds, excess) in raced(symbols).items():
            print(f"{name:28}{coder:12}{speeds[0]:12.1f}{speeds[1]:12.1f}{excess:13.3f}%")
    if HuffmanCodec is None:
        print("dahuffman is not installed: left out")


def raced(symbols: np.ndarray) -> dict[str, tuple[tuple[float, float], float]]:
    """Coder -> speeds of encoding and decoding in MB/s, and by how many percent its code exceeds the entropy."""
    counts = np.bincount(symbols)
    lengths, shares, n = coders.code_lengths(counts), coders.shares(counts), len(symbols)
    huffman, ranged = coders.huffman(symbols, lengths), coders.range_code(symbols, shares)
    assert np.array_equal(coders.unhuffman(huffman, n, lengths), symbols)
    assert np.array_equal(coders.unrange(ranged, n, shares), symbols)
    calls = {
        ("Huffman", 0): lambda: coders.huffman(symbols, lengths),
        ("Huffman", 1): lambda: coders.unhuffman(huffman, n, lengths),
        ("range", 0): lambda: coders.range_code(symbols, shares),
        ("range", 1): lambda: coders.unrange(ranged, n, shares),
    }
    few, size = symbols[:20_000], {"Huffman": len(huffman), "range": len(ranged)}
    if HuffmanCodec is not None:
        codec = HuffmanCodec.from_frequencies(dict(enumerate(counts.tolist())))
        text = codec.encode(few.tolist())
        calls |= {("dahuffman", 0): lambda: codec.encode(few.tolist()), ("dahuffman", 1): lambda: codec.decode(text)}
    times = {key: time.median for key, time in measure.latency_ms(calls, runs=RUNS).items()}
    found = {}
    for coder, least in ((c, coders.entropy_bits(counts) / 8) for c in size):
        speeds = tuple(n / 1000 / times[coder, way] for way in (0, 1))
        found[coder] = (speeds, 100 * (size[coder] / least - 1))
    if HuffmanCodec is not None:
        least = coders.entropy_bits(np.bincount(few)) / 8
        speeds = tuple(len(few) / 1000 / times["dahuffman", way] for way in (0, 1))
        found["dahuffman"] = (speeds, 100 * (len(text) / least - 1))
    return found


if __name__ == "__main__":
    main()
