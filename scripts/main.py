"""The group `tpforge` and how any failure becomes one line on stderr and an exit status.

A command's module is imported when the command is run: `tpforge --help` loads click and nothing else.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TextIO

import click
from click.shell_completion import shell_complete

from engines.reference.process import spin_briefly
from scripts.cli.colours import coloured
from scripts.cli.completion import VARIABLE, add_completion
from scripts.cli.defaults import defaults_of, use_hub_token
from scripts.cli.output import Output, Told, for_people
from scripts.cli.signals import Signals, Terminated, raised
from scripts.cli.usage import nearest, usage_text
from scripts.commands.table import COMMANDS, STAGES, module_of
from tpforge import __version__
from tpforge.errors import EnvironmentUnusable, TpforgeError, UsageError
from tpforge.extras import extra_of, missing_extra
from tpforge.printable import is_text, printable

INTERRUPTED, BROKEN_PIPE = 130, 141


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order of the work, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        command = import_module(module_of(cmd_name)).command
        assert isinstance(command, click.Command)
        return add_completion(command) if ctx.resilient_parsing else command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command; one that is not there is refused with the nearest that is."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"No such command '{name}'{nearest(name, COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands of each stage, from the table: nothing is imported."""
        width = max(map(len, COMMANDS))
        for stage in STAGES:
            with formatter.section(stage.title):
                formatter.write_dl([(name.ljust(width), text) for name, text in stage.commands.items()])


@click.group(cls=LazyGroup, name="tpforge", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(
    __version__, "-v", "-V", "--version", prog_name="tpforge", message="%(prog)s %(version)s"
)
def cli() -> None:
    """Tensor-parallel LLM engines for TensorRT-LLM and Triton, with the proof.

    `tpforge help COMMAND` is the same as `tpforge COMMAND --help`.

    Exit status: 0 done, 1 a bug of ours, 2 usage, 3 this machine cannot, 4 the input is refused,
    5 nothing fits, 6 a verification failed, 7 a regression was found.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; its exit status. Nothing escapes but the status."""
    _open_closed_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug, as_json, told = "--debug" in given, "--json" in given, Told()
    _configure_libraries()
    notices = _Notices()
    logging.getLogger("tpforge").addHandler(notices)
    try:
        with raised() as signals:
            try:
                return _run(given, told)
            except (Exception, KeyboardInterrupt, Terminated) as error:
                signals.ignore_more()
                ended_by = _cause(error, signals)
                try:
                    return _report(ended_by, debug=debug, as_json=as_json and not told.is_recorded)
                except BrokenPipeError as gone:
                    return _report(gone, debug=False, as_json=False)
    finally:
        logging.getLogger("tpforge").removeHandler(notices)


def _cause(error: BaseException, signals: Signals) -> BaseException:
    """The signal that came, where it comes out as an error of nobody's: of an import that it broke off."""
    is_bug = _describe(error, debug=False)[1] == 1
    return signals.first if is_bug and signals.first is not None else error


def _open_closed_streams() -> None:
    """Lead a stream that the caller closed (``>&-``) to nowhere: None can be neither read nor written."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def _refuse_bytes(arguments: Sequence[str]) -> None:
    """Refuse arguments that no record could keep and no server be sent.

    Raises:
        UsageError: one is not text of the encoding of the system.
    """
    for argument in arguments:
        if not is_text(argument):
            raise UsageError(f"{argument}: is not UTF-8 text")


def _refuse_nowhere() -> None:
    """Refuse what no command could do without: paths are relative to a directory, and state lies in a home.

    Raises:
        EnvironmentUnusable: the current directory was removed, or the user has no home directory.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        raise EnvironmentUnusable("the current directory was removed; change to one that is there") from None
    try:
        Path.home()
    except RuntimeError:
        raise EnvironmentUnusable(
            f"user {os.geteuid()} has no home directory; set HOME to a folder of its own"
        ) from None


def _configure_libraries() -> None:
    """Set what libraries read from the environment once, when they are first imported."""
    if not sys.stderr.isatty():
        # The libraries' progress bars; ours are plain lines then.
        os.environ.setdefault("TQDM_DISABLE", "1")
    spin_briefly()


def _run(arguments: list[str], told: Told) -> int:
    """The exit status of a command that ends by itself, as --help does by Exit.

    Not by `cli.main`, which has its own mind about Ctrl-C and closed pipes.
    """
    _refuse_bytes(arguments)
    if asked := os.environ.get(VARIABLE):
        return shell_complete(cli, {}, "tpforge", VARIABLE, asked)
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    try:
        if not {"-h", "--help", "-v", "-V", "--version"} & set(arguments):
            _refuse_nowhere()
        defaults = {} if {"-h", "--help", "config"} & set(arguments) else _defaults(arguments)
        with cli.make_context("tpforge", arguments, obj=told, default_map=defaults) as context:
            cli.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    finally:
        sys.stdout.flush()
    return 0


def _defaults(arguments: list[str]) -> dict[str, dict[str, str]]:
    """What a person set once, for the command that is run; each value that is taken is said."""
    use_hub_token()
    found = defaults_of(arguments)
    for one in found:
        _say(f"note: --{one.option} {one.value} ({one.origin})")
    return {arguments[0]: {one.option: one.value for one in found}} if found else {}


def _report(error: BaseException, *, debug: bool, as_json: bool) -> int:
    """Say the failure on stderr, and as JSON for a command that has printed none; its exit status."""
    if isinstance(error, BrokenPipeError):
        # The reader went away (`| head`, `2>&1 | head`): nothing to say, and nothing may be flushed at exit.
        _forget(sys.stdout)
        try:
            sys.stderr.flush()
        except BrokenPipeError:
            _forget(sys.stderr)
        return BROKEN_PIPE
    if debug:
        print(printable("".join(traceback.format_exception(error))), end="", file=sys.stderr, flush=True)
    message, status = _describe(error, debug=debug)
    _say(message)
    if as_json:
        fields = {"error": type(error).__name__, "message": message, "exit_status": status}
        try:
            Output(as_json=True).record("error", fields)
        except OSError:
            # It was stdout itself that failed.
            _forget(sys.stdout)
    return status


def _forget(stream: TextIO) -> None:
    """Let nothing that could not be written be flushed at exit, which would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Notices(logging.Handler):
    """What the core logs, such as a file that it kept, as a line on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(record.getMessage())


def _say(message: str) -> None:
    """A line on stderr, over the line of progress on a terminal."""
    message = coloured(for_people(message), stream=sys.stderr)
    print(f"\r\x1b[K{message}" if sys.stderr.isatty() else message, file=sys.stderr, flush=True)


def _describe(error: BaseException, *, debug: bool) -> tuple[str, int]:
    match error:
        case TpforgeError():
            return f"error: {error}", error.exit_code
        case ModuleNotFoundError(name=str() as module) if (extra := extra_of(module)) is not None:
            return f"error: {missing_extra(extra, needed_by='this')}", EnvironmentUnusable.exit_code
        case click.exceptions.NoArgsIsHelpError():
            return error.format_message(), 2
        case click.UsageError():
            path = error.ctx.command_path if error.ctx else "tpforge"
            return f"error: {usage_text(error)}\nsee: {path} --help", 2
        case click.ClickException():
            return f"error: {error.format_message()}", 2
        case KeyboardInterrupt():
            return "interrupted", INTERRUPTED
        case Terminated():
            return "terminated", error.exit_code
        case OSError(errno=errno.ENOSPC):
            return f"error: {error.filename or 'disk'}: the disk is full; free space", 3
        case MemoryError():
            return "error: not enough memory for this; give it more, or something smaller to read", 3
        case RecursionError() if _is_of_a_parser(error):
            return "error: a file that was read nests so deep that it is no configuration", 4
        case OSError(filename=str() | Path() as path, strerror=str() as reason):
            return f"error: {path}: {reason[0].lower()}{reason[1:]}", 3
        case _:
            again = "" if debug else "; run again with --debug for the traceback"
            return f"internal error: {type(error).__name__}: {error}{again}", 1


def _is_of_a_parser(error: BaseException) -> bool:
    """Whether JSON, TOML or YAML was being read: then the depth is the file's, and no mistake of ours."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    parsers = {str(frame.f_globals.get("__name__")).partition(".")[0] for frame in frames}
    return not parsers.isdisjoint({"json", "tomllib", "yaml"})
