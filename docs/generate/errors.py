"""Compares what is written by hand about errors, docs/reference/errors.md and docs/troubleshooting.md, with the source."""

import re
from pathlib import Path

STATUSES = {
    "OK": "200",
    "BAD_REQUEST": "400",
    "UNAUTHORIZED": "401",
    "NOT_FOUND": "404",
    "METHOD_NOT_ALLOWED": "405",
    "REQUEST_TIMEOUT": "408",
    "PAYLOAD_TOO_LARGE": "413",
    "TOO_MANY_REQUESTS": "429",
    "SERVICE_UNAVAILABLE": "503",
}


def problems(root: Path, page: str) -> list[str]:
    answers = (root / "src/ingress/answer.rs").read_text()
    http = {(name, STATUSES[status], text) for name, status, text in re.findall(
        r'\(\s*"([a-z_]+)",\s*StatusCode::([A-Z_]+),\s*"([^"]*)",?\s*\)', answers)}
    documented_http = {(name, status, text) for status, text, name in re.findall(
        r"^\| (\d{3}) \| `([^`]*)` \| `([a-z_]+)` \|", page, re.M)}

    table = (root / "src/grpc/status.rs").read_text()
    grpc = {(code_name(code), reason) for code, reason in re.findall(
        r'\(\s*Code::([A-Za-z]+),\s*"([A-Z_]+)"', table)}
    grpc |= {("FAILED_PRECONDITION", reason) for reason in re.findall(r'not_possible\("([A-Z_]+)"\)', table)}
    documented_grpc = set(re.findall(r"^\| `([A-Z_]+)` \| `([A-Z_]+)` \|", page, re.M))

    return compare("HTTP answer", http, documented_http) + compare("gRPC status", grpc, documented_grpc)


def code_name(code: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", code).upper()


def compare(kind: str, source: set, documented: set) -> list[str]:
    assert source, f"no {kind} found in the source: docs/generate/errors.py no longer understands it"
    missing = [f"docs/reference/errors.md lacks the {kind} {one}" for one in sorted(source - documented)]
    return missing + [f"docs/reference/errors.md has a {kind} that the source has not: {one}"
                      for one in sorted(documented - source)]


def messages(root: Path, page: str) -> list[str]:
    """The messages of docs/troubleshooting.md that nothing in the source says."""
    source = " ".join(path.read_text() for path in sorted((root / "src").rglob("*.rs")))
    # A text that goes on in the next line, or is put together from two.
    source = re.sub(r"\\\n\s*", "", source)
    source = re.sub(r'"\s*\n\s*"', "", source)
    plain = re.sub(r"[`\\]", "", source)
    problems = []
    for message in re.findall(r"^\| `([^`]+)`", page, re.M):
        for part in re.split(r"…|: |Address already in use|Error code 4874", message):
            part = part.strip(" :.()")
            if len(part) > 3 and part not in plain and part != "REASON":
                problems.append(f"docs/troubleshooting.md quotes what the source does not say: {part}")
    return problems
