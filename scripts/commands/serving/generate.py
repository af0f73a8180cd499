"""`tpforge generate`: one prompt, one answer."""

from __future__ import annotations

import sys
from typing import Any

import click

from scripts.cli.options.common import COUNT, DEBUG, JSON, SIZE
from scripts.cli.options.connection import connection_options, read_connection
from scripts.cli.output import Output
from tpforge.errors import UsageError
from tpforge.printable import is_text

_SAMPLING = ("temperature", "top_k", "top_p", "seed", "repetition_penalty")


@click.command("generate")
@click.argument("words", metavar="[ENGINE] [PROMPT]", nargs=-1)
@click.option("--chat", metavar="MESSAGE", help="A user's message, put through the chat template.")
@click.option("--system", metavar="TEXT", help="The system message that goes before --chat.")
@click.option("--url", metavar="HOST:PORT", help="The server's gRPC port.  [default: the one that runs]")
@click.option("--engine", help="As ENGINE; beside --url whose chat template to use.  [default: the server's]")
@click.option(
    "--model",
    type=click.Choice(["ensemble", "tensorrt_llm_bls"]),
    default="ensemble",
    show_default=True,
    help="The model of the repository to ask.",
)
@click.option("--stream", is_flag=True, help="Print the answer as it comes.")
@click.option("--max-tokens", type=SIZE, default=64, show_default=True, help="Tokens of the answer.")
@click.option("--temperature", type=float, help="Randomness.  [default: greedy]")
@click.option("--top-k", type=int, help="Choose among so many tokens.")
@click.option("--top-p", type=float, help="Choose among tokens of so much probability.")
@click.option("--seed", type=COUNT, help="Makes a random answer repeatable.")
@click.option("--repetition-penalty", type=float, help="Above 1 discourages repetition.")
@click.option("--stop", "stop_words", multiple=True, metavar="TEXT", help="End after this; may be repeated.")
@connection_options()
@JSON
@DEBUG
def command(
    words: tuple[str, ...],
    chat: str | None,
    system: str | None,
    url: str | None,
    engine: str | None,
    model: str,
    stream: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Ask a server one prompt or one chat message.

    PROMPT goes to the model as it is; - reads it, or the message of --chat, from stdin. A message given with
    --chat becomes the prompt that the model was trained on, by its own chat template. ENGINE says whose
    server is asked; without it, and without --url, the only one that runs.
    """
    from engines.chat import chat_prompt
    from scripts.flows import serve
    from triton_repo.client.client import Client
    from triton_repo.client.other_answers import recognized

    name, prompt = _read_words(words, chat)
    chat = _stdin_for(chat)
    if system is not None and chat is None:
        raise UsageError("--system goes with --chat only")
    output = Output(as_json=as_json)
    sampling = {name: value for name in _SAMPLING if (value := values.pop(name)) is not None}
    if stop_words := values.pop("stop_words"):
        sampling["stop_words"] = list(stop_words)
    sampling["max_tokens"] = values.pop("max_tokens")
    connection = read_connection(**values)
    grpc_url, _, places = serve.find_server(url, engine=name or engine)
    text = prompt
    if chat is not None:
        text = chat_prompt(serve.chat_template_folder(engine, places), chat, system=system)
    assert text is not None
    pieces = []
    with (
        recognized(grpc_url, tls=connection.tls),
        Client(
            grpc_url, deadline_s=connection.deadline_s, headers=connection.headers, tls=connection.tls
        ) as client,
    ):
        for chunk in client.chunks(text, model=model, stream=stream, **sampling):
            pieces.append(chunk)
            if stream:
                output.piece(chunk.text)
    answer = "".join(piece.text for piece in pieces)
    output.result("" if stream else answer)
    output.record(
        "answer",
        {
            "prompt": text,
            "text": answer,
            "chunks": [{"text": piece.text, "seconds": round(piece.seconds, 4)} for piece in pieces],
            "url": grpc_url,
            "model": model,
        },
    )


def _read_words(words: tuple[str, ...], chat: str | None) -> tuple[str | None, str | None]:
    """The engine and the prompt, as far as they are given.

    Raises:
        UsageError: the prompt is missing, or there is more than one.
    """
    if chat is not None:
        if len(words) > 1:
            raise UsageError("give either a PROMPT or --chat MESSAGE")
        return (words[0] if words else None), None
    if not words or len(words) > 2:
        raise UsageError("give either a PROMPT, after the ENGINE if there is one, or --chat MESSAGE")
    return (words[0] if len(words) == 2 else None), _stdin_for(words[-1])


def _stdin_for(text: str | None) -> str | None:
    """The text, or what is on stdin for -, without its last end of line.

    Raises:
        UsageError: stdin is not UTF-8 text.
    """
    if text != "-":
        return text
    try:
        found = sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UsageError(f"-: stdin is not UTF-8 text: {error}") from error
    if not is_text(found):
        raise UsageError("-: stdin is not UTF-8 text")
    return found.removesuffix("\n")
