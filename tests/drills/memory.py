"""Drill: the kernel kills a rank, and the model's process, because memory ran out, under eight streams.

It is the kernel's own kill, in a control group of the process alone; the machine has memory enough.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from tests.drills import no_memory
from tests.drills.figures import Figure
from tests.drills.parts import LIMIT_S, NUM_STREAMS, PARTS, Stream, answers
from triton_repo.serve.local import Server, status
from triton_repo.serve.processes import identify, num_memory_kills

CAUSE = "memory ran out"


def run(server: Server, *, parts: tuple[str, ...] = ("rank", "stub")) -> Iterator[Figure]:
    """Each part of a server in turn; a line without tries where no control group can be made."""
    for part in parts:
        bad = {"hung": 0, "not killed for memory": 0, "cause not told": 0}
        figure = Figure(f"out-of-memory kill of the {part}", "streams", bad=bad)
        try:
            with no_memory.without_memory() as put:
                _try(server, part, put=put, figure=figure)
        except OSError as error:
            figure.notes.append(f"not tried: {error}")
        yield figure


def _try(server: Server, part: str, *, put: no_memory.Put, figure: Figure) -> None:
    figure.num_tries = NUM_STREAMS
    streams = [Stream(server.grpc_url) for _ in range(NUM_STREAMS)]
    for stream in streams:
        stream.start()
    for stream in streams:
        assert stream.flowing.wait(LIMIT_S), stream.error
    process, before = identify(PARTS[part](server)), num_memory_kills()
    assert process is not None
    begun = time.monotonic()
    put(process.pid)
    for stream in streams:
        stream.join(max(0.1, begun + LIMIT_S - time.monotonic()))
        figure.count("hung", int(stream.is_alive()))
        if not stream.is_alive():
            figure.took("to the error", stream.ended_at - begun)
    figure.count("not killed for memory", int(num_memory_kills() == before))
    figure.count("hung", int(not answers(server, begun + LIMIT_S)))
    figure.took("to service", time.monotonic() - begun)
    said = status(server.state_dir).last_failure if part == "stub" else streams[0].error
    figure.count("cause not told", int(CAUSE not in (said or "")))
    figure.notes.append(f"it is told: {said}")
