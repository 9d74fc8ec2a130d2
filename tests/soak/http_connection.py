"""HTTP/1.1 as deliveries and scrapes need it. Owns one connection, kept alive; knows nothing of what is sent."""

import asyncio

ANSWER_SECONDS_MAX = 20


class HttpConnection:
    """One connection, opened when it is needed."""

    def __init__(self, address, tls=None):
        self.host, _, self.port = address.rpartition(":")
        self.tls = tls
        self.reader = self.writer = None

    async def request(self, method, path, headers, body=b""):
        """Sends a request; returns the status and the body of the answer. Gives up the connection if that fails."""
        head = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}", f"Content-Length: {len(body)}"]
        head += [f"{name}: {value}" for name, value in headers.items()]
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                # The service closes what says nothing for a while.
                if self.writer is not None and self.reader.at_eof():
                    self.close()
                if self.writer is None:
                    self.reader, self.writer = await asyncio.open_connection(self.host, self.port, ssl=self.tls)
                self.writer.write("\r\n".join([*head, "", ""]).encode() + body)
                await self.writer.drain()
                return await self._answer()
        except BaseException:
            self.close()
            raise

    async def _answer(self):
        status_line, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection") == "close":
            self.close()
        return int(status_line.split()[1]), body

    def close(self):
        """Gives up the connection."""
        if self.writer is not None:
            self.writer.close()
            self.reader = self.writer = None
