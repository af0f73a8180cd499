"""The order in which TensorRT-LLM's loader takes INT4 weights, number by number, as an oracle for tests.

Typed from what upstream's preprocess_weights_for_mixed_gemm (quantization/functional.py, 1.2) says of each
step; loops over lists, and no code of tpforge.
"""

from __future__ import annotations

ROWS = [0, 1, 8, 9, 16, 17, 24, 25, 2, 3, 10, 11, 18, 19, 26, 27]
ROWS += [4, 5, 12, 13, 20, 21, 28, 29, 6, 7, 14, 15, 22, 23, 30, 31]
"""Every 32 rows (inputs) are put in this order."""
WORD = [0, 2, 4, 6, 1, 3, 5, 7]
"""Every eight integers of a word are put in this order."""


def laid_out(numbers: list[list[int]], *, sm: int) -> bytes:
    """The bytes for signed integers [in][out] of 4 bits."""
    num_rows, num_columns = len(numbers), len(numbers[0])
    rows = [numbers[row // 32 * 32 + ROWS[row % 32]] for row in range(num_rows)]
    columns = [[row[column] for row in rows] for column in range(num_columns)]
    if sm < 90:
        line = []
        for first in range(0, num_columns, 4):
            for tile in range(0, num_rows, 64):
                for column in range(first, first + 4):
                    line += columns[column][tile : tile + 64]
    else:
        line = [number for column in columns for number in column]
    held = []
    for word in range(0, len(line), 8):
        held += [line[word + place] + 8 for place in WORD]
    return bytes(held[at] + 16 * held[at + 1] for at in range(0, len(held), 2))
