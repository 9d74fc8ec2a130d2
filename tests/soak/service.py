"""The service under test. Owns its process, its data directory, its secrets and its log lines, and what the system says
of the process.

The clients present a token, stored secrets are sealed, and the admin side serves over TLS, so that all of these are
part of the soak.
"""

import asyncio
import json
import os
import pathlib
import secrets
import signal
import socket
import ssl
import subprocess
import tempfile

from http_connection import HttpConnection

BINARY = pathlib.Path(os.environ["HOOKSTREAM_BINARY"]).resolve()
LISTENERS = ("ingress", "grpc", "admin")
START_SECONDS_MAX = 30
END_SECONDS_MAX = 30
# The lifetime of the first certificate. Each has a day more than the one before, so that metrics tell them apart.
CERTIFICATE_DAYS = 30
# A line of the log may hold a whole error.
LINE_BYTES_MAX = 1024 * 1024
CLOCK_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def private(path, flags):
    """Opens a file for its owner alone."""
    return os.open(path, flags, 0o600)


class Service:
    """One `hookstream serve`; a restart keeps directory and ports."""

    def __init__(self, claims, output, retention_age_seconds, retention_bytes):
        self.claims = claims
        self.directory = tempfile.TemporaryDirectory(prefix="hookstream-soak-")
        self.files = pathlib.Path(self.directory.name)
        self.data = self.files / "data"
        self.token = secrets.token_hex(32)
        with open(self.files / "admin.token", "w", opener=private) as file:
            file.write(self.token)
        with open(self.files / "sealing.key", "w", opener=private) as file:
            subprocess.run([BINARY, "config", "generate-sealing-key"], stdout=file, check=True)
        self.certificates = 0
        self.make_certificate()
        self.arguments = [
            "serve",
            f"--data-dir={self.data}",
            f"--retention-age={retention_age_seconds}s",
            f"--retention-size={retention_bytes}B",
            f"--admin-token-file={self.files / 'admin.token'}",
            f"--sealing-key-file={self.files / 'sealing.key'}",
            f"--admin-tls-certificate-file={self.files / 'admin.crt'}",
            f"--admin-tls-key-file={self.files / 'admin.key'}",
            "--log-format=json",
        ]
        # A port that is bound here is given to nobody else between two runs; as it is not listened on, the service can.
        self.reserved, self.addresses = [], {}
        for name in LISTENERS:
            reserved = socket.socket()
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.bind(("127.0.0.1", 0))
            self.reserved.append(reserved)
            self.addresses[name] = f"127.0.0.1:{reserved.getsockname()[1]}"
        self.log = open(output / "service.log", "w")
        self.process = self.reader = self.admin = None
        # One request at a time is on the connection to the admin side, and none while it is replaced.
        self.admin_in_use = asyncio.Lock()

    def make_certificate(self):
        """Replaces the certificate of the admin side; returns how many days it lasts."""
        days = CERTIFICATE_DAYS + self.certificates
        self.certificates += 1
        # Beside the ones in use first: the service may look at any moment, and one is of no use with another's key.
        names = {"-keyout": self.files / "next.key", "-out": self.files / "next.crt"}
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-days", str(days), "-subj", "/CN=soak", "-addext", "subjectAltName=IP:127.0.0.1"]
        for option, file in names.items():
            command += [option, str(file)]
        subprocess.run(command, stderr=subprocess.DEVNULL, check=True)
        (self.files / "next.key").rename(self.files / "admin.key")
        (self.files / "next.crt").rename(self.files / "admin.crt")
        return days

    async def start(self):
        """Starts the process and waits until it is ready."""
        listen = [f"--{name}-listen={address}" for name, address in self.addresses.items()]
        self.process = await asyncio.create_subprocess_exec(
            BINARY,
            *self.arguments,
            *listen,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=LINE_BYTES_MAX,
        )
        ready = asyncio.Event()
        self.reader = asyncio.create_task(self._read_log(self.process.stdout, ready))
        async with asyncio.timeout(START_SECONDS_MAX):
            await ready.wait()
        self._connect_to_admin()

    async def _read_log(self, lines, ready):
        async for line in lines:
            text = line.decode(errors="replace")
            self.log.write(text)
            self.log.flush()
            try:
                entry = json.loads(text)
            except ValueError:
                self.claims.fail("every line of the service is a log line", text.strip())
                continue
            match entry.get("level"):
                case "ERROR":
                    self.claims.fail("the service logs no error", text.strip())
                case "WARN":
                    self.claims.count("warnings in the service's log")
            if entry.get("message") == "ready":
                ready.set()

    def _connect_to_admin(self):
        if self.admin is not None:
            self.admin.close()
        context = ssl.create_default_context(cafile=self.files / "admin.crt")
        self.admin = HttpConnection(self.addresses["admin"], context)

    async def reload(self):
        """Replaces the certificate and says so; returns how many days the new one lasts."""
        async with self.admin_in_use:
            days = self.make_certificate()
            self.process.send_signal(signal.SIGHUP)
            self._connect_to_admin()
        return days

    async def restart(self, with_signal):
        """Ends the process with a signal and starts another."""
        await self._end(with_signal)
        await self.start()

    async def _end(self, with_signal):
        self.process.send_signal(with_signal)
        async with asyncio.timeout(END_SECONDS_MAX):
            status = await self.process.wait()
            await self.reader
        expected = 0 if with_signal == signal.SIGTERM else -signal.SIGKILL
        self.claims.check(status == expected, "a drained service ends with status 0", f"status {status}")

    async def close(self):
        """Drains the process and removes its data."""
        try:
            if self.process is not None and self.process.returncode is None:
                await self._end(signal.SIGTERM)
        finally:
            if self.admin is not None:
                self.admin.close()
            if self.process is not None and self.process.returncode is None:
                self.process.kill()
            for reserved in self.reserved:
                reserved.close()
            self.log.close()
            self.directory.cleanup()

    async def metrics(self):
        """All series of /metrics and their values."""
        authorization = {"Authorization": f"Bearer {self.token}"}
        async with self.admin_in_use:
            status, body = await self.admin.request("GET", "/metrics", authorization)
        if status != 200:
            raise RuntimeError(f"/metrics is answered with {status}")
        lines = (line for line in body.decode().splitlines() if not line.startswith("#"))
        return {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines)}

    def memory_bytes(self):
        """Resident memory: all of it, and what is not of a file."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        resident, anonymous = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon"))
        return resident, anonymous

    def descriptors(self):
        """Open files and sockets."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def threads(self):
        """Threads."""
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def cpu_seconds(self):
        """Processor time since the process started."""
        stat = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text()
        # The name of the process may hold blanks; what follows its parenthesis does not.
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / CLOCK_TICKS_PER_SECOND

    def disk_bytes(self):
        """What the data directory takes."""
        total = 0
        for entry in os.scandir(self.data):
            try:
                total += entry.stat().st_blocks * 512
            except FileNotFoundError:
                continue
        return total
