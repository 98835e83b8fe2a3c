"""Handlers that the tests of the resident worker ask for; what they do stands in the request."""

import ctypes
import os
import signal
import subprocess
import sys
import threading

from slidesparse.errors import ConfigurationError, HardwareError
from slidesparse.worker import resident

served = []


def prepare_environment():
    os.environ["PREPARED"] = str(int(os.environ.get("PREPARED", "0")) + 1)


def close():
    print("closed", flush=True)


class NoSuchDevice(HardwareError):
    """An error that slidesparse.errors does not know."""


def echo(request):
    served.append(request)
    return {"pid": os.getpid(), "guard": os.getpgrp(), "served": len(served), "request": request}


def surroundings(request):
    return {"environment": dict(os.environ), "path": sys.path, "input": os.readlink("/proc/self/fd/0")}


def fail(request):
    if request["error"] == "replace":
        raise resident.Replace("another process is needed")
    raise {
        "configuration": ConfigurationError("say M instead of m"),
        "unknown": NoSuchDevice("device 7 is not there"),
        "unexpected": ValueError("first line\nsecond line"),
    }[request["error"]]


def not_a_number(request):
    return {"value": float("nan")}


def configured(request):
    """Like an engine: what was loaded first stays, so another configuration needs a new process."""
    if served and served[0]["configuration"] != request["configuration"]:
        raise resident.Replace("another configuration is loaded")
    return echo(request)


def gated(request):
    """With "then": start a child, write the pids of worker, guard and child into a pipe, answer when the gate opens."""
    if "then" not in request:
        return echo(request)
    with subprocess.Popen(["sleep", "1000"]) as child:
        with open(request["started"], "w", encoding="utf-8") as stream:
            stream.write(f"{os.getpid()} {os.getpgrp()} {child.pid}")
        if request["then"] == "hold the interpreter lock":
            ctypes.PyDLL(None).pause()
        elif request["then"] == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif request["then"] == "wait for ever":
            threading.Event().wait()
        with open(request["gate"], encoding="utf-8") as stream:
            stream.read()
        child.kill()
    return echo(request)
