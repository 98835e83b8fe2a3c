"""What a run prints while it goes on, and at its end; from files alone (points/status.py)."""

import atexit
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from slidesparse.errors import RecordError
from slidesparse.files import printable, read_json
from slidesparse.points.status import (
    SHOWN,
    WIDTH,
    duration,
    failures,
    plans,
    point_name,
    read,
    screen,
    tasks,
)
from slidesparse.program import stops

EVERY_S = {True: 1.0, False: 30.0}
"""Seconds between two looks of `follow`, on a terminal and elsewhere."""

TENTHS = 10
"""Lines on the points of a hardware key, at most, where `follow` does not print on a terminal."""

CLEAR = "\r\033[K"
"""Ends the line of progress that stands on a terminal."""

NO_REPORT = "No report was asked for; one of what is there: snakemake --cores 1 report"

ANSWER_LIMIT = 1 << 16
"""Bytes of the largest answer.json that is read."""


class Progress:
    """The display of one run: a process of its own while the run goes on, and what is printed at the end."""

    def __init__(self, results, keys, language):
        """keys: hardware keys that are planned. language: of the reports that are named at the end."""
        self._place, self._keys, self._language = os.path.abspath(results), list(keys), language
        self.follower = None
        """The process that prints the progress."""
        self.reported = None
        """The hardware keys whose reports were written after a failure; None without a failure."""

    @property
    def _results(self):
        """The folder of results as seen from here: Snakemake leaves its --directory before the end is printed."""
        return Path(os.path.relpath(self._place))

    def start(self, program, log):
        """Start `program` to print the progress (`follow`); when this process ends, print the end.

        It has a session of its own: a signal to this process's group would stop it too, and it is the one that ends
        what a killed run has left (program.end_with). log: the paths of Snakemake's own log.
        """
        for path in log:
            print(f"Snakemake's own lines: {os.path.relpath(path)}", file=sys.stderr)
        began = time.time_ns()
        with suppress(OSError):  # the clock of the disk
            began = (self._results / ".lock").stat().st_mtime_ns
        # as a job's program (program.SHELL), it ignores SIGINT while it starts
        command = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", "python3", program, "--results", self._results]
        command += ["--owner", str(os.getpid()), "--follow", *self._keys]
        follower = self.follower = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

        def end():
            follower.kill()
            follower.wait()
            if sys.stderr.isatty():
                sys.stderr.write(CLEAR)
            sys.stderr.writelines(f"{line}\n" for line in self._end(began))

        atexit.register(end)

    def without_jobs(self, asked):
        """Print the end of a call in which nothing was to be done. asked: whether reports are what was asked for."""
        reports = self._named(self._keys) if asked else []
        print(*(self._told(reports, self._states()) or [NO_REPORT]), sep="\n", file=sys.stderr)

    def _end(self, began):
        """The lines at the end of a run: the screens of what it worked on, its reports, and whether it was stopped."""
        states, reports = self._states(), self._reports(began)
        lines = [
            screen(self._results, key).rstrip("\n")
            for key, (stages, made) in states.items()
            if _touched(stages, made, self._results, began)
        ]
        lines += self._told(reports, states)
        if lines and not reports and self.reported is None:
            lines.append(NO_REPORT)
        if stops and states:
            every = [stage for stages, _ in states.values() for stage in stages.values()]
            planned, done = (sum(len(getattr(stage, name)) for stage in every) for name in ("planned", "done"))
            lines.append(
                f"Stopped by {stops[0]} with {planned - done} of {planned} points missing: call it again to go on"
            )
        return lines

    def _states(self):
        """{hardware key: (its stages, what points need)} of those whose files can be read."""
        states = {}
        for key, plan in _plans(self._results, self._keys).items():
            with suppress(RecordError, OSError):
                states[key] = read(self._results, key, plan), tasks(self._results, key, plan)
        return states

    def _told(self, reports, states):
        """Lines that name reports, each with its result and the number of failures."""
        lines = []
        for key, path in reports[:SHOWN]:
            failed = [f"{len(failures(*states[key]))} failed"] if key in states else []
            lines.append(" · ".join([f"Report: {printable(path)}", *answer(self._results, key), *failed]))
        return lines + ([f"and {len(reports) - SHOWN} more"] if len(reports) > SHOWN else [])

    def _reports(self, began):
        """[(hardware key or None for the comparison, path)] of the reports that this run wrote or found unchanged.

        The log of what writes them tells.
        """
        keys = [
            key
            for key in self._keys
            if key in (self.reported or ()) or _since(self._results / key / "report.log", began)
        ]
        if _since(self._results / "report.log", began):  # of the rule `report`, which writes all
            keys = [path.parent.name for path in sorted(self._results.glob(f"*/report.{self._language}.html"))]
        return self._named(keys)

    def _named(self, keys):
        """[(hardware key or None for the comparison, path)] of the reports of hardware keys that are there."""
        reports = [(key, self._results / key / f"report.{self._language}.html") for key in keys]
        if len(keys) > 1:
            reports.append((None, self._results / f"comparison.{self._language}.html"))
        return [(key, path) for key, path in reports if path.is_file()]


def answer(results, key):
    """[the line of result that the report of a hardware key has], or an empty list."""
    try:
        line = read_json(Path(results, key, "report", "answer.json"), RecordError, ANSWER_LIMIT)["line"]
    except (RecordError, KeyError, TypeError):
        return []
    return [printable(line)] if isinstance(line, str) and line.strip() else []


def _plans(results, keys):
    try:
        known = plans(results)
    except RecordError:
        return {}
    return {key: plan for key, plan in known.items() if key in keys and not isinstance(plan, RecordError)}


def _since(path, began):
    """Whether a file was written since `began`."""
    try:
        return path.stat().st_mtime_ns >= began
    except OSError:
        return False


def _touched(stages, made, results, began):
    """Whether a run that began then has done, or failed to do, anything of a plan."""
    points = [path for stage in stages.values() for path in (stage.done | stage.failed | stage.flying)]
    return bool(made.failed or made.flying) or any(
        _since(path, began) or _since(path.with_suffix(".failed.json"), began) for path in points
    )


def line(stages, made):
    """The progress of a run in one line: a bar, the time left, what runs now, failures, the points of each stage."""
    done, planned = (sum(len(getattr(stage, name)) for stage in stages.values()) for name in ("done", "planned"))
    share = done * WIDTH // planned if planned else WIDTH
    parts = [f"[{'#' * share:.<{WIDTH}}] {done}/{planned}", *_left(stages)]
    running = [*made.flying, *(point_name(path) for stage in stages.values() for path in stage.flying)]
    parts += [f"now {name}" for name in running[:SHOWN]]
    failed = len(failures(stages, made))
    parts += [f"{failed} failed"] if failed else []
    return " | ".join([*parts, ", ".join(f"{name} {len(s.done)}/{len(s.planned)}" for name, s in stages.items())])


def _left(stages):
    left = [stage.left_s for stage in stages.values()]
    known = sum(seconds for seconds in left if seconds)
    if None in left:
        return [f"more than {duration(known)} left" if known else "time left unknown yet"]
    return [f"about {duration(known)} left"] if known else []


def follow(results, keys, stream=None):
    """Print `line` of each hardware key when it gets further, until this process ends with its --owner (program.run).

    A terminal has one line, which is renewed whenever it changes. Elsewhere a line is printed when another tenth of the
    points is there, and when a kind of work begins for the first time. Nothing is printed before anything happens.
    """
    stream = stream or sys.stderr
    on_terminal = stream.isatty()
    renewed, known, shown = on_terminal and len(keys) == 1, {}, {}
    while True:
        for key, plan in _plans(results, keys).items():
            try:
                stages, made = read(results, key, plan, exact=False), tasks(results, key, plan)
            except (RecordError, OSError):  # programs that need these files say so
                continue
            text, (tenths, *kinds) = line(stages, made), _news(stages, made)
            if key not in known:
                known[key], shown[key] = {tenths}, None if kinds else text
            if shown[key] != text if renewed else {tenths, *kinds} - known[key]:
                _print(f"{key}: {text}" if len(keys) > 1 else text, stream, renewed)
                shown[key] = text
            known[key] |= {tenths, *kinds}
        time.sleep(EVERY_S[on_terminal])


def _news(stages, made):
    """How many tenths of the points are there, and the kinds of work that go on."""
    done, planned = (sum(len(getattr(stage, name)) for stage in stages.values()) for name in ("done", "planned"))
    kinds = [name.split(" ")[0] for name in made.flying] + [name for name, stage in stages.items() if stage.flying]
    return [done * TENTHS // max(planned, 1), *kinds]


def _print(text, stream, renewed):
    if renewed:
        print(CLEAR + text[: shutil.get_terminal_size().columns - 1], end="", file=stream, flush=True)
    else:
        print(text, file=stream, flush=True)
