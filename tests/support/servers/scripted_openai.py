"""An OpenAI-compatible HTTP server that answers by a script, or by an engine, in a process of its own.

By a script it writes the monotonic stamp of every token it sends. By an engine (`engine_answers`) it is the
stand-in for trtllm-serve. Run as ``python -m tests.support.servers.scripted_openai SCRIPT``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.reference.process import loading
from tests.support.servers.scripted import Running, running

_FLAW = "x-flaw"
_STREAMS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class HttpScript:
    """How every request is answered.

    `refuse_every` n answers every nth request with HTTP 400, `cut_every` n breaks the connection in the
    middle of every nth answer, `split` sends every event in two writes, `die_at_s` ends the process that
    long after the first completion was asked for. With `engine`, a folder, answers are its own, under the
    name `model`, and the fields above mean nothing; `answers_after` is how many generations fail first.
    """

    ttft_s: float = 0.05
    itl_s: float = 0.01
    refuse_every: int = 0
    cut_every: int = 0
    split: bool = False
    die_at_s: float = 0.0
    host: str = "127.0.0.1"
    port: int = 0
    log: str = ""
    engine: str = ""
    model: str = "m"
    answers_after: int = 0
    version: str = "9.9"


def scripted_openai(folder: Path, script: HttpScript | None = None) -> AbstractContextManager[Running]:
    return running(__name__, script or HttpScript(), folder=folder, host="http://127.0.0.1")


class _Server:
    def __init__(self, script: HttpScript) -> None:
        self.script, self.num_requests = script, 0
        self.engine: Any = None
        if script.engine:
            with loading():
                from tests.support.servers.engine_answers import EngineAnswers

            self.engine = EngineAnswers(Path(script.engine))

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests of one connection, until the client wants no more."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                fields = _fields(head)
                body = await reader.readexactly(int(fields.get("content-length", "0")))
                received = time.monotonic()
                keep = fields.get("connection", "keep-alive").lower() != "close"
                if not head.startswith(b"POST "):
                    self._tell(writer, head.split(b" ", 2)[1].decode())
                elif self.engine is not None:
                    keep = await self._generate(reader, writer, head, body) and keep
                else:
                    keep = await self._complete(writer, head, json.loads(body), received) and keep
                await writer.drain()
                if not keep:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _tell(self, writer: asyncio.StreamWriter, path: str) -> None:
        models = [{"id": self.script.model, "object": "model"}] if self.engine is not None else []
        if path == "/version":
            _whole(writer, 200, {"version": self.script.version})
        elif path == "/prometheus/metrics" and self.engine is not None:
            _whole(writer, 200, f"trtllm_num_requests_running {self.engine.num_running}\n")
        elif path == "/metrics" and self.engine is not None:
            _whole(writer, 404, {"detail": "Not Found"})
        else:
            _whole(writer, 200, {"object": "list", "data": models})

    async def _generate(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, body: bytes
    ) -> bool:
        """Answer by the engine; whether the connection may live on."""
        from tests.support.servers.engine_answers import Refused

        is_chat, flaw = b"/chat/" in head.split(b"\r\n")[0], _fields(head).get(_FLAW, "")
        self.num_requests += 1
        try:
            if self.num_requests <= self.script.answers_after:
                raise Refused({"object": "error", "message": "not loaded", "code": 500}, status=500)
            asked = self.engine.read(body, is_chat=is_chat)
            ids = self.engine.prompt_ids(asked, is_chat=is_chat, flaw=flaw)
            kind = (
                ("chat.completion" + ".chunk" * bool(asked.get("stream"))) if is_chat else "text_completion"
            )
            frame = {"id": f"x{self.num_requests}", "object": kind, "created": 0, "model": self.script.model}
            async with aclosing(self.engine.pieces(asked, ids, flaw=flaw)) as pieces:
                if asked.get("stream"):
                    return await self._stream(reader, writer, asked, frame, pieces, len(ids), flaw)
                found = [piece async for piece in pieces]
                text = "".join(piece.text for piece in found)
                choice = _choice(text, is_chat, finish=found[-1].finish, streamed=False)
                usage = _usage(len(ids), found[-1].num_tokens)
                _whole(writer, 200, {**frame, "choices": [choice], "usage": usage})
        except Refused as refused:
            _whole(writer, 500 if flaw == "fails with 500" else refused.status, refused.value)
        return True

    async def _stream(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        asked: dict[str, Any],
        frame: dict[str, Any],
        pieces: Any,
        num_prompt: int,
        flaw: str,
    ) -> bool:
        # The client sends nothing more: this ends when it goes away.
        gone = asyncio.create_task(reader.read(1))
        is_chat, num_tokens = "chunk" in frame["object"], 0
        begun, place, held = False, 0, []
        async for piece in pieces:
            if not begun:
                writer.write(_STREAMS)
                begun = True
            num_tokens = piece.num_tokens
            choice = _choice(piece.text, is_chat, finish=piece.finish, streamed=True)
            events = [{**frame, "choices": [choice]}]
            place += 1
            if flaw == "wrong order" and place == 2:
                held = events
                continue
            if flaw == "loses a chunk" and place == 2:
                continue
            events, held = [*events, *held], []
            for event in events:
                _chunk(writer, b"data: " + json.dumps(event).encode() + b"\n\n")
            await writer.drain()
            if gone.done() and flaw != "goes on alone":
                return False
        wants = (asked.get("stream_options") or {}).get("include_usage") or flaw == "usage unasked"
        if wants and flaw != "no usage":
            usage = {**frame, "choices": [], "usage": _usage(num_prompt, num_tokens)}
            _chunk(writer, b"data: " + json.dumps(usage).encode() + b"\n\n")
        if flaw != "no [DONE]":
            _chunk(writer, b"data: [DONE]\n\n")
        _chunk(writer, b"")
        gone.cancel()
        return False

    async def _complete(
        self, writer: asyncio.StreamWriter, head: bytes, asked: dict[str, Any], received: float
    ) -> bool:
        """Answer a completion; whether the connection may live on."""
        script, is_chat = self.script, b"/chat/" in head.split(b"\r\n")[0]
        self.num_requests += 1
        if script.die_at_s and self.num_requests == 1:
            asyncio.get_running_loop().call_later(script.die_at_s, os._exit, 1)
        if script.refuse_every and self.num_requests % script.refuse_every == 0:
            _whole(writer, 400, {"error": {"message": "not this one"}})
            return True
        num_tokens = int(asked.get("max_tokens") or asked.get("max_completion_tokens") or 16)
        usage = {"prompt_tokens": 3, "completion_tokens": num_tokens, "total_tokens": num_tokens + 3}
        texts = [f" w{token}" for token in range(num_tokens)]
        if not asked.get("stream"):
            await asyncio.sleep(script.ttft_s)
            choice = _choice("".join(texts), is_chat, finish="length", streamed=False)
            _whole(writer, 200, {"choices": [choice], "usage": usage})
            return True
        writer.write(_STREAMS)
        stamps: list[float] = []
        kind = "chat.completion.chunk" if is_chat else "text_completion"
        for token, text in enumerate(texts):
            await asyncio.sleep(max(0.0, received + script.ttft_s + token * script.itl_s - time.monotonic()))
            if script.cut_every and self.num_requests % script.cut_every == 0 and token == num_tokens // 2:
                return False
            finish = "length" if token == num_tokens - 1 else None
            stamps.append(time.monotonic())
            choice = _choice(text, is_chat, finish=finish, streamed=True)
            await self._event(writer, {"object": kind, "choices": [choice]})
        await self._event(writer, {"object": kind, "choices": [], "usage": usage})
        _chunk(writer, b"data: [DONE]\n\n")
        _chunk(writer, b"")
        with Path(script.log).open("a") as log:
            log.write(json.dumps(stamps) + "\n")
        return True

    async def _event(self, writer: asyncio.StreamWriter, value: dict[str, Any]) -> None:
        data = b"data: " + json.dumps({"id": "x", "created": 0, "model": "m", **value}).encode() + b"\n\n"
        if not self.script.split:
            _chunk(writer, data)
            return
        middle = len(data) // 2
        _chunk(writer, data[:middle])
        await writer.drain()
        await asyncio.sleep(0.004)
        _chunk(writer, data[middle:])


def _choice(text: str, is_chat: bool, *, finish: str | None, streamed: bool) -> dict[str, Any]:
    if not is_chat:
        return {"index": 0, "text": text, "finish_reason": finish}
    key = "delta" if streamed else "message"
    return {"index": 0, key: {"role": "assistant", "content": text}, "finish_reason": finish}


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _whole(writer: asyncio.StreamWriter, status: int, value: dict[str, Any] | str) -> None:
    body = value.encode() if isinstance(value, str) else json.dumps(value).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


def _fields(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def serve(script: HttpScript) -> None:
    server = await asyncio.start_server(_Server(script).answer, script.host, script.port, limit=1 << 24)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(HttpScript(**json.loads(sys.argv[1]))))
