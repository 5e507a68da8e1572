"""Talks to this server with the client that is published as `skeg` 0.2.0.

    python tests/compat/published_client.py [--server-command "python -m skeg"] [--env FOLDER]

Makes a virtual environment with that client, serves an empty directory and runs `published_session.py`, which uses all
that the client offers. Ends with 1 when anything is not as it has to be.
"""

from __future__ import annotations

import argparse
import sys

from environment import add_options, environment, run, serving

REQUIREMENTS = ["skeg==0.2.0"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Talk to this server with the published client.")
    add_options(parser, "compat-published")
    options = parser.parse_args()
    python = environment(options.env, REQUIREMENTS)
    with serving(options.server_command) as server:
        code = run(python, "published_session.py", str(server.ports["resp"]), str(server.ports["binary"]))
    sys.exit(code)


if __name__ == "__main__":
    main()
