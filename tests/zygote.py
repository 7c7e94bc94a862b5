"""Runs `apply` in processes that may be killed: a script that imports everything once and forks a child for each run.

It reads one JSON object a line and answers with one. A run is

    {"recipe": file, "model": folder, "data": folder, "out": folder,
     "processes": 1, "run": {"checkpoint_steps": 3}, "kill": ["os.rename", "01-finetune", 1]}

and the answer tells each child's exit code, -9 for a killed one, and what they wrote. With `kill`, the first
process that is about to do the n-th thing of that kind (a name of an audit event) to a path with that text in it ends
itself and the others of its run with SIGKILL.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import tempfile
import traceback
from pathlib import Path

import accelerate  # noqa: F401
import sklearn.metrics  # noqa: F401

from compresskit import report_builder
from compresskit.apply import apply
from compresskit.data import DataOptions
from compresskit.recipe import read_recipe
from compresskit.run import Run
from compresskit.speed import Times


def main() -> None:
    report_builder.time_rows = lambda *args, **how: Times((), ())
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


def run(what):
    port = free_port()
    with tempfile.TemporaryFile() as said:
        children = {}
        for rank in range(what.get("processes", 1)):
            children[fork(what, rank, port, said, group=next(iter(children), 0))] = rank
        codes = {}
        while children:
            child, status = os.wait()
            codes[children.pop(child)] = os.waitstatus_to_exitcode(status)
            if status:
                # As a launcher would, and lest the others wait for the dead.
                for other in children:
                    os.kill(other, signal.SIGKILL)
        said.seek(0)
        return {"codes": [codes[rank] for rank in sorted(codes)], "said": said.read().decode()}


def fork(what, rank, port, said, group):
    """A child in the group of processes that the first child of the run, for which `group` is 0, leads."""
    child = os.fork()
    # On both sides, as nobody knows which is the first to need it.
    os.setpgid(child, group)
    if child:
        return child
    for stream in (1, 2):
        os.dup2(said.fileno(), stream)
    code = 1
    try:
        work(what, rank, port)
        code = 0
    except BaseException:  # noqa: BLE001 - a child must not come back from here
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def work(what, rank, port):
    if what.get("processes", 1) > 1:
        # What torchrun and accelerate launch tell their processes.
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(what["processes"]))
    if "kill" in what:
        sys.addaudithook(killer(*what["kill"]))
    places = [what["model"], what["data"], DataOptions(), Path(what["out"])]
    apply(read_recipe(what["recipe"]), *places, Run(**what.get("run", {})))


def killer(kind, text, times):
    met = 0

    def hook(event, args):
        nonlocal met
        paths = [os.fsdecode(arg) for arg in args[:2] if isinstance(arg, (str, bytes, os.PathLike))]
        if event == kind and any(text in path for path in paths):
            met += 1
            if met == times:
                os.killpg(0, signal.SIGKILL)

    return hook


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


if __name__ == "__main__":
    main()
