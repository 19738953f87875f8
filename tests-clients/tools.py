"""`curl` and `dig` as functions, and patience."""

import json
import re
import subprocess
import time

# How long something may take that happens soon, such as a registration that travels from an agent to the catalog.
SOON_S = 30


class Reply:
    """What curl received: status, headers in lower case, body."""

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    def json(self):
        """The body as JSON."""
        return json.loads(self.body)


def curl(method, url, body=None):
    """One request by curl. A connection that fails is an error of the test."""
    command = ["curl", "--silent", "--show-error", "--max-time", "60", "--include", "--request", method]
    if body is not None:
        data = body if isinstance(body, str) else json.dumps(body)
        command += ["--header", "Expect:", "--data-binary", data]
    done = subprocess.run([*command, url], capture_output=True, timeout=90, check=False)
    if done.returncode != 0:
        raise AssertionError(f"curl {method} {url}: {done.stderr.decode(errors='replace').strip()}")
    head, _, body = done.stdout.decode().partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Reply(int(first.split()[1]), headers, body)


class Answer:
    """What dig received: the code, the flags, and the records of each section as (name, ttl, type, data)."""

    def __init__(self, text):
        status = re.search(r"status: (\w+)", text)
        flags = re.search(r"flags: ([^;]*);", text)
        if not status or not flags:
            raise AssertionError(f"dig has no answer:\n{text}")
        self.status = status.group(1)
        self.flags = flags.group(1).split()
        self.tcp = "(TCP)" in text
        self.sections = {}
        section = None
        for line in text.splitlines():
            title = re.match(r";; (\w+) SECTION:", line)
            if title:
                section = self.sections.setdefault(title.group(1).lower(), [])
            elif line.startswith(";") or not line.strip():
                continue
            elif section is not None:
                name, ttl, _, kind, data = line.split(None, 4)
                section.append((name, int(ttl), kind, data))

    def data(self, kind, section="answer"):
        """The data of all records of a type in a section, sorted."""
        return sorted(record[3] for record in self.sections.get(section, []) if record[2] == kind)


def dig(address, port, name, kind, *options):
    """One question by dig to a server."""
    command = ["dig", f"@{address}", "-p", str(port), name, kind, "+time=5", "+tries=3", *options]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    return Answer(done.stdout.decode(errors="replace"))


def soon(check):
    """Calls `check` until it raises no AssertionError; raises the last one after `SOON_S`. Returns what it returned."""
    deadline = time.monotonic() + SOON_S
    while True:
        try:
            return check()
        except (AssertionError, KeyError, IndexError, TypeError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
