"""`tpforge generate`: one prompt, one answer."""

from __future__ import annotations

from typing import Any

import click

from scripts.cli.options.common import COUNT, DEBUG, JSON, SIZE
from scripts.cli.options.connection import connection_options, read_connection
from scripts.cli.output import Output
from tpforge.errors import UsageError

_SAMPLING = ("temperature", "top_k", "top_p", "seed", "repetition_penalty")


@click.command("generate")
@click.argument("prompt", required=False)
@click.option("--chat", metavar="MESSAGE", help="A user's message, put through the chat template.")
@click.option("--system", metavar="TEXT", help="The system message that goes before --chat.")
@click.option("--url", metavar="HOST:PORT", help="The server's gRPC port.  [default: the one that runs]")
@click.option("--engine", help="Whose chat template to use.  [default: the server's]")
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
    prompt: str | None,
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

    PROMPT goes to the model as it is. A message given with --chat becomes the prompt that the model was
    trained on, by its own chat template.
    """
    from engines.chat import chat_prompt
    from scripts.flows import serve
    from triton_repo.client.client import Client

    if (prompt is None) == (chat is None):
        raise UsageError("give either a PROMPT or --chat MESSAGE")
    if system is not None and chat is None:
        raise UsageError("--system goes with --chat only")
    output = Output(as_json=as_json)
    sampling = {name: value for name in _SAMPLING if (value := values.pop(name)) is not None}
    if stop_words := values.pop("stop_words"):
        sampling["stop_words"] = list(stop_words)
    sampling["max_tokens"] = values.pop("max_tokens")
    connection = read_connection(**values)
    grpc_url, _, places = serve.find_server(url)
    text = prompt
    if chat is not None:
        text = chat_prompt(serve.chat_template_folder(engine, places), chat, system=system)
    assert text is not None
    pieces = []
    with Client(
        grpc_url, deadline_s=connection.deadline_s, headers=connection.headers, tls=connection.tls
    ) as client:
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
