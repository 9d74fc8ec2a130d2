"""Programs that are started, told what to do, and watched. Owns their processes; knows nothing of what they are for."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time

SECONDS_MAX = 20


class Failure(Exception):
    """Something else happened than what has to."""


def expect(found, expected):
    """Fails unless both are equal."""
    if found != expected:
        raise Failure(f"found {found!r}, expected {expected!r}")


def expect_same(found, expected):
    """As expect, but shows the first difference only."""
    for at, (one, other) in enumerate(zip(found, expected)):
        if one != other:
            raise Failure(f"place {at}: found {one!r}, expected {other!r}")
    expect(len(found), len(expected))


def until(what, happened):
    """Waits for what has to happen."""
    deadline = time.monotonic() + SECONDS_MAX
    while not happened():
        if time.monotonic() > deadline:
            raise Failure(f"not within {SECONDS_MAX} s: {what}")
        time.sleep(0.02)


class Program:
    """A running program, and what it prints, line by line as it comes."""

    def __init__(self, command, environment, directory=None):
        self.process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        with self.process.stdout:
            for line in self.process.stdout:
                self.lines.put(line)
        self.lines.put(None)

    def next_line(self):
        """The next line it prints."""
        try:
            line = self.lines.get(timeout=SECONDS_MAX)
        except queue.Empty:
            raise Failure(f"it printed nothing for {SECONDS_MAX} s") from None
        if line is None:
            raise Failure(f"it ended with status {self.process.wait()}")
        return line.rstrip("\n")

    def close(self):
        """Ends it and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()


class Client(Program):
    """A client program, which follows orders.

    It prints which library it is made with (`{"library": "grpcio 1.2.3"}`), then reads orders from its standard input,
    one JSON object a line (`{"do": "get", "id": "evt_1"}`). It prints what it sees, one JSON object a line, and then
    `{"done": {…}}` or `{"error": {…}}`:

      create_endpoint name
          done: secret
      follow endpoint event_types until_entity [after_cursor]
          each frame by its name, and `reconnecting` with the error when the connection is lost; goes on from its
          cursor, up to the event about this entity; done: cursor
      list endpoint event_types page_size
          each page as `page`, oldest first
      get id
          done: event
      await_event endpoint entity_id timeout_ms [after_cursor]
          done: event
      create_subscription name endpoint retry_delay_ms
      work subscription count
          so often `attempt`: a success is done, a failure rejected, anything else retried once
      dead_letters subscription
          done: dead_letters

    Without `after_cursor`, follow and await_event start at what is new. An error is its code, and of its details
    reason, metadata and the names of the invalid fields. Enum values are numbers, 64-bit numbers are decimal strings.
    """

    def __init__(self, command, environment):
        super().__init__(command, environment)
        try:
            self.library = self.see("library")
        except Exception:
            self.close()
            raise

    def next(self):
        """The next thing it saw."""
        return json.loads(self.next_line())

    def tell(self, order, **arguments):
        """Gives it an order."""
        self.process.stdin.write(json.dumps({"do": order, **arguments}) + "\n")
        self.process.stdin.flush()

    def see(self, kind):
        """What it saw, which must be of this kind."""
        seen = self.next()
        if list(seen) != [kind]:
            raise Failure(f"found {seen}, expected {kind}")
        return seen[kind]

    def ask(self, order, **arguments):
        """What is done after an order that prints nothing else."""
        self.tell(order, **arguments)
        return self.see("done")

    def refused(self, order, **arguments):
        """Code, reason and invalid fields with which an order is refused, and the metadata."""
        self.tell(order, **arguments)
        error = self.see("error")
        return (error["code"], error["reason"], error["fields"]), error["metadata"]
