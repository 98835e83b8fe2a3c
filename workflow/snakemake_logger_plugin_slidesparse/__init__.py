"""A logger of Snakemake: what a terminal shows of a run. Snakemake's own lines are in its log, .snakemake/log.

A profile names it, `logger: slidesparse`. Snakemake finds it where it finds the library. A dry run, and a call with
--verbose, --printshellcmds or --debug-dag, print what Snakemake prints.
"""

import logging
import os
import sys
from contextlib import suppress
from pathlib import Path

from snakemake.logging import ColorizingTextHandler
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from slidesparse.files import printable, read_text
from slidesparse.points.progress import CLEAR

NOTHING = "Nothing to be done"
"""How the one line of a run begins in which nothing is to be done."""

SAID_OTHERWISE = (
    "RuleException:\nCalledProcessError",  # a job that failed, which is told in a line of our own
    "Assuming unrestricted shared filesystem usage",
    "Config file ",
    "Exiting because a job execution failed",
    "Cannot restore ",  # a backup of an output, of which we keep none
    "--keep-incomplete mode is set",
)
"""How lines begin that tell a user of this project nothing."""

LONGEST = 500
"""Characters of the longest sentence on a failure."""


class LogHandler(LogHandlerBase):
    """Prints errors, warnings, the number of jobs, and every failed job with the last line of its log."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = False
    has_formatter = False
    needs_rulegraph = False

    def __post_init__(self):
        asked = self.common_settings
        self._everything = asked.dryrun or asked.verbose or asked.printshellcmds or asked.debug_dag
        self._stream = sys.stdout if asked.stdout else sys.stderr
        self._handler = ColorizingTextHandler(asked.nocolor, self._stream)
        self._runs = False

    def setFormatter(self, formatter):
        self._handler.setFormatter(formatter)

    def emit(self, record):
        if self._everything:
            self._handler.emit(record)
            return
        event, text = getattr(record, "event", None), str(record.msg or "")
        if event == LogEvent.WORKFLOW_STARTED:
            self._runs = True
        elif event == LogEvent.RUN_INFO:
            self._say(_jobs(record.stats))
        elif event == LogEvent.PROGRESS and record.done == record.total:
            self._say(f"{_count(record.total)} done")
        elif event == LogEvent.JOB_ERROR:
            self._say(failure(record))
        elif event in (None, LogEvent.ERROR) and not text.startswith(SAID_OTHERWISE):
            least = logging.WARNING if self._runs and not text.startswith(NOTHING) else logging.INFO
            if record.levelno >= least:
                self._clear()
                self._handler.emit(record)

    def _say(self, text):
        self._clear()
        if text:
            print(text, file=self._stream, flush=True)

    def _clear(self):
        if self._runs and self._stream.isatty():
            self._stream.write(CLEAR)


def _jobs(stats):
    """The number of jobs, by rule, as one line."""
    counts = [f"{rule} {count}" for rule, count in stats.items() if rule not in ("total", "all")]
    return f"{_count(stats['total'])}: {', '.join(counts)}"


def _count(jobs):
    return f"{jobs} job{'s' * (jobs != 1)}"


def failure(record):
    """One line on a failed job: its first output, and the last line of its log; nothing for one that has its outputs.

    Snakemake calls all jobs of a group failed if one is.
    """
    outputs = [name.removesuffix(" (update)") for name in record.output]
    if record.indent and outputs and all(Path(name).exists() for name in outputs):
        return ""
    name = f"{record.rule_name} {outputs[0]}" if outputs else record.rule_name
    said = filter(None, [last_line(log) for log in record.log])
    sentence = next(said, None) or record.rule_msg or silence(record.log)
    log = f" ({printable(record.log[0])})" if record.log else ""
    return f"failed: {printable(name)}: {printable(sentence)[:LONGEST]}{log}"


def silence(logs):
    """What is said of a job whose logs say nothing."""
    for path in logs:
        with suppress(OSError):
            disk = os.statvfs(Path(path).parent)
            if not disk.f_bavail or (disk.f_files and not disk.f_favail):
                return "its log says nothing, because its disk has no room"
    return "its log says nothing"


def last_line(path):
    """The last line of a log with text in it, without the name of the program that wrote it; None if there is none."""
    try:
        lines = [line for line in read_text(path).splitlines() if line.strip()]
    except (OSError, ValueError):
        return None
    if not lines:
        return None
    program, _, sentence = lines[-1].partition(": ")
    return sentence if program.endswith(".py") else lines[-1]
