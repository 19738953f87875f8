#!/usr/bin/env python3
"""How long a server, and a restarted server, takes to say what became of an agent.

    TRIBUNE_BIN=target/release/tribune bench/liveness/liveness.py [ROUNDS]

One server and one plain agent on loopback. Each round kills the agent (SIGKILL) and starts it again, freezes it (SIGSTOP) and
lets it go on, and restarts the server, during which nobody may become critical. Takes about ten seconds a round.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

BIN = os.environ.get("TRIBUNE_BIN", "target/release/tribune")
SERVER, AGENT = "127.70.1.1", "127.70.1.2"
LIMIT = 30.0


def start(folder, name, address, *flags):
    command = [BIN, "agent", f"-node={name}", f"-bind={address}", f"-client={address}", f"-data-dir={folder}/{name}", *flags]
    with open(f"{folder}/{name}.log", "a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def status():
    """What the server says of the agent's node; None if it cannot be asked."""
    try:
        with urllib.request.urlopen(f"http://{SERVER}:8500/v1/health/node/agent?stale", timeout=1) as reply:
            checks = {check["CheckID"]: check["Status"] for check in json.load(reply)}
            return checks.get("serfHealth")
    except OSError:
        return None


def wait_for(wanted):
    begun = time.monotonic()
    while status() != wanted:
        if time.monotonic() - begun > LIMIT:
            sys.exit(f"the agent did not become {wanted} within {LIMIT:.0f} s")
        time.sleep(0.005)
    return time.monotonic() - begun


def tell(what, seconds):
    ordered = sorted(seconds)
    print(f"{what:28} median {statistics.median(ordered):6.3f} s   longest {ordered[-1]:6.3f} s   ({len(ordered)} times)")


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    folder = tempfile.mkdtemp(prefix="tribune-liveness-")
    server_flags = ("-server", "-bootstrap-expect=1")
    server = start(folder, "server", SERVER, *server_flags)
    agent = start(folder, "agent", AGENT, f"-retry-join={SERVER}")
    killed, frozen, false_alarms = [], [], 0
    try:
        wait_for("passing")
        for _ in range(rounds):
            agent.kill()
            killed.append(wait_for("critical"))
            agent.wait()
            agent = start(folder, "agent", AGENT, f"-retry-join={SERVER}")
            wait_for("passing")
            agent.send_signal(signal.SIGSTOP)
            frozen.append(wait_for("critical"))
            agent.send_signal(signal.SIGCONT)
            wait_for("passing")
            server.kill()
            server.wait()
            server = start(folder, "server", SERVER, *server_flags)
            until = time.monotonic() + 4
            while time.monotonic() < until:
                false_alarms += status() == "critical"
                time.sleep(0.01)
    finally:
        for process in (agent, server):
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait()
        shutil.rmtree(folder)
    tell("killed agent is critical", killed)
    tell("frozen agent is critical", frozen)
    print(f"{'restarted server':28} {false_alarms} answers in which the agent was critical")
    sys.exit(1 if false_alarms else 0)


main()
