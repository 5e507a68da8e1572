"""Talks to this server with clients of Redis.

    python tests/compat/redis_clients.py [--server-command "python -m skeg"] [--node] [--go] [--env FOLDER]

redis-py with its own parser and with hiredis, in RESP2 and RESP3; redis-cli and redis-benchmark when they are there;
node-redis and go-redis when asked for, which are downloaded. Ends with 1 when anything is not as it has to be.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from environment import HERE, add_options, environment, run, serving

NODE = "redis@5"
GO = "github.com/redis/go-redis/v9@latest"

# What redis-cli is asked, and what the first line of its answer has to hold.
CLI = [
    ("PING", "PONG"), ("SET cli 1", "OK"), ("INCR cli", "2"), ("GET cli", "2"), ("DEL cli", "1"), ("SELECT 0", "OK"),
    ("SELECT 1", "ERR DB index out of range"), ("GET", "ERR wrong number of arguments for 'GET'"),
    ("FOO", "ERR unknown command 'FOO'"), ("SKEG.WHOAMI", "tenant="), ("SKEG.VINDEX.CREATE x", "want name dim"),
]  # fmt: skip
BENCHED = "ping_inline,ping_mbulk,set,get,incr,mset"


def main() -> None:
    parser = argparse.ArgumentParser(description="Talk to this server with clients of Redis.")
    add_options(parser, "compat-redis")
    parser.add_argument("--node", action="store_true", help=f"also node-redis ({NODE})")
    parser.add_argument("--go", action="store_true", help=f"also go-redis ({GO})")
    options = parser.parse_args()
    parsers = ("pure", "hiredis")
    pythons = {
        parser: environment(options.env / parser, ["redis>=5", *(["hiredis"] if parser == "hiredis" else [])])
        for parser in parsers
    }
    with serving(options.server_command) as server:
        port = str(server.port)
        failed = [
            f"redis-py, {parser}, RESP{protocol}"
            for parser in parsers
            for protocol in ("2", "3")
            if run(pythons[parser], "redis_session.py", port, protocol, parser)
        ]
        if shutil.which("redis-cli"):
            failed += [f"redis-cli: {complaint}" for flag in ("-2", "-3") for complaint in redis_cli(port, flag)]
        if shutil.which("redis-benchmark"):
            failed += redis_benchmark(port, [], ["-P", "16"], ["-3"], ["-k", "0"])
        if options.node and node(options.env / "node", port):
            failed.append("node-redis")
        if options.go and go(options.env / "go", port):
            failed.append("go-redis")
    if shutil.which("redis-benchmark"):
        with serving(options.server_command, "secret") as server:
            # The password comes in one packet with what follows it.
            runs = [["-a", "secret", *more] for more in ([], ["-P", "16"], ["-3"], ["-d", "100000"])]
            failed += redis_benchmark(str(server.port), *runs)
    print("failed:", "; ".join(failed) if failed else "nothing")
    sys.exit(len(failed) > 0)


def redis_cli(port: str, flag: str) -> list[str]:
    """Complaints about what redis-cli prints."""
    complaints = []
    for line, part in CLI:
        words = ["redis-cli", flag, "-p", port, *line.split()]
        outcome = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        if part not in outcome.stdout:
            complaints.append(f"{flag} {line}: {outcome.stdout!r} {outcome.stderr!r}")
    # What it asks by itself when it reads commands from people: COMMAND DOCS, and HELLO.
    asked = subprocess.run(
        ["redis-cli", flag, "-p", port], input="PING\nSET a b\nGET a\nDEL a\nQUIT\n",
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    found = asked.stdout.split()
    if found[:4] != ["PONG", "OK", "b", "1"]:
        complaints.append(f"{flag}, from its input: {asked.stdout!r} {asked.stderr!r}")
    print(f"redis-cli {flag}: {len(CLI) + 1} checks, {len(complaints)} failures")
    return complaints


def redis_benchmark(port: str, *runs: list[str]) -> list[str]:
    """Complaints about runs of redis-benchmark; its figures are not looked at here."""
    complaints = []
    for more in runs:
        words = ["redis-benchmark", "-p", port, "-t", BENCHED, "-n", "2000", "-c", "20", "-r", "100", "--csv", *more]
        outcome = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
        rows = [line for line in outcome.stdout.splitlines() if line.startswith('"')]
        if outcome.returncode or len(rows) != 1 + len(BENCHED.split(",")) or "Error" in outcome.stdout:
            complaints.append(f"redis-benchmark {' '.join(more)}: {outcome.stdout[-300:]!r} {outcome.stderr[-300:]!r}")
    print(f"redis-benchmark: {len(runs)} runs, {len(complaints)} failures")
    return complaints


def node(folder: Path, port: str) -> int:
    """Run the session of node-redis; returns an exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "node_modules").exists():
        subprocess.run(["npm", "install", "--silent", "--prefix", str(folder), NODE], check=True)
    shutil.copy(HERE / "node_session.mjs", folder)
    return subprocess.run(["node", "node_session.mjs", port], cwd=folder, timeout=120, check=False).returncode


def go(folder: Path, port: str) -> int:
    """Run the session of go-redis; returns an exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "go_session.go.txt", folder / "main.go")
    if not (folder / "go.mod").exists():
        subprocess.run(["go", "mod", "init", "session"], cwd=folder, check=True)
        subprocess.run(["go", "get", GO], cwd=folder, check=True)
    return subprocess.run(["go", "run", ".", port], cwd=folder, timeout=600, check=False).returncode


if __name__ == "__main__":
    main()
