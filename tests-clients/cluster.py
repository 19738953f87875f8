"""A real cluster of three `tribune` servers for the tests: started, waited for, stopped by process id.

The servers listen on loopback addresses of their own (127.20.x.1 to 127.20.x.3) with Consul's usual ports.
Their data and logs are in a temporary folder, which is removed unless something went wrong.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

SERVERS = 3
HTTP_PORT = 8500
DNS_PORT = 8600

# Generous: machines are loaded, and a debug build is slow.
READY_TIMEOUT_S = 90
STOP_TIMEOUT_S = 20

# The join secret: 32 bytes in base64. The servers listen on loopback only.
SECRET = "dGVzdHMgYnkgY2xpZW50cyB3ZSBkaWQgbm90IHdyaXQ="


class Server:
    """One server: its name, its address, and its process while it runs."""

    def __init__(self, name, address):
        self.name = name
        self.address = address
        self.process = None


class Cluster:
    """Three servers of one datacenter."""

    def __init__(self, binary):
        self.binary = binary
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tribune-clients-"))
        # Two runs at once get different addresses, nearly always.
        subnet = os.getpid() % 250 + 1
        self.servers = [Server(f"s{n}", f"127.20.{subnet}.{n}") for n in range(1, SERVERS + 1)]

    def start(self):
        """Starts all servers and waits until the cluster accepts a write."""
        for server in self.servers:
            self.start_server(server)
        self.wait_ready()

    def start_server(self, server):
        """Starts one server on the data that it has."""
        joins = [f"-retry-join={other.address}" for other in self.servers if other is not server]
        command = [
            str(self.binary), "agent", "-server", "-bootstrap-expect=3", f"-encrypt={SECRET}",
            f"-node={server.name}", f"-bind={server.address}", f"-client={server.address}",
            f"-data-dir={self.folder / server.name}", *joins,
        ]
        with open(self.log(server), "ab") as log:
            # The pipe closes however this program ends, and the server ends with it.
            environment = {**os.environ, "TRIBUNE_ENDS_WITH_PARENT": "1"}
            server.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log)

    def wait_ready(self):
        """Waits until every server knows the leader and a write is accepted."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            for server in self.servers:
                status = server.process.poll()
                if status is not None:
                    raise RuntimeError(f"{server.name} ended by itself with {status}:\n{self.tail(server)}")
            if all(self.leader(server) for server in self.servers) and self.accepts_writes():
                return
            time.sleep(0.1)
        logs = "\n".join(self.tail(server) for server in self.servers)
        raise RuntimeError(f"no leader within {READY_TIMEOUT_S} s:\n{logs}")

    def leader(self, server):
        """The leader that this server knows as "address:8300", or "" while there is none."""
        try:
            with urllib.request.urlopen(f"http://{server.address}:{HTTP_PORT}/v1/status/leader", timeout=5) as reply:
                return json.load(reply)
        except (OSError, urllib.error.URLError, ValueError):
            return ""

    def accepts_writes(self):
        """Whether a write to the KV store succeeds."""
        url = f"http://{self.servers[0].address}:{HTTP_PORT}/v1/kv/ready"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data=b"1", method="PUT"), timeout=5) as reply:
                return reply.read().strip() == b"true"
        except (OSError, urllib.error.URLError):
            return False

    def kill(self, server):
        """SIGKILL, as a power cut of the process; its data stays."""
        server.process.kill()
        server.process.wait()
        server.process.stdin.close()

    def stop(self, keep):
        """Stops all servers; `keep` leaves the folder and says where it is."""
        running = [server for server in self.servers if server.process and server.process.poll() is None]
        for server in running:
            server.process.send_signal(signal.SIGTERM)
        for server in running:
            try:
                server.process.wait(STOP_TIMEOUT_S)
                server.process.stdin.close()
            except subprocess.TimeoutExpired:
                print(f"{server.name} did not stop within {STOP_TIMEOUT_S} s and was killed", file=sys.stderr)
                self.kill(server)
        if keep:
            print(f"the servers' data and logs are in {self.folder}", file=sys.stderr)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def log(self, server):
        """The path of a server's log."""
        return self.folder / f"{server.name}.log"

    def tail(self, server, lines=20):
        """The end of a server's log, under its name."""
        try:
            text = self.log(server).read_text(errors="replace")
        except OSError as error:
            text = str(error)
        return "\n".join([f"--- {server.name}", *text.splitlines()[-lines:]])
