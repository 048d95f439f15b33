"""The `hpcbench` command: the list of commands and the exit status.

Modules that a command needs are imported when it runs.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence

from hpcbench import __version__
from hpcbench.cli import job_commands, result_commands
from hpcbench.errors import COMMAND_LOG, INTERRUPTED, HpcbenchError, log_to_stderr

logger = logging.getLogger(__name__)

# In the order of --help.
ADD = (
    job_commands.add_submit, job_commands.add_run, job_commands.add_status,
    result_commands.add_collect, result_commands.add_audit, result_commands.add_compare,
    job_commands.add_data, job_commands.add_cancel, job_commands.add_retry, job_commands.add_clean,
    job_commands.add_probe, result_commands.add_predict, job_commands.add_doctor,
)  # fmt: skip
BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell shows it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    if os.getpid() == 1:
        # The first process of a container: the kernel keeps from it what it has not asked for.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    parsed = _parser().parse_args(arguments)
    log_to_stderr(COMMAND_LOG, parsed.log_level)
    try:
        status: int = parsed.run_command(parsed)
        sys.stdout.flush()
    except HpcbenchError as error:
        logger.error("%s", error)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python would complain once more while it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        logger.error("%s", error)
        return HpcbenchError.exit_code
    return status


def run_command(name: str) -> int:
    """Run one command with the arguments of this process: the door of `python -m hpcbench.<command>`."""
    return main([name, *sys.argv[1:]])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hpcbench",
        description="Which distributed training strategy should I use on these nodes, by how much, and can I "
        "trust that?",
        epilog="Exit status: 0 fine; 1 it worked and something is bad; 2 wrong input; 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"hpcbench {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in ADD:
        add(commands)
    return parser
