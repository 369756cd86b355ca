"""`python -m bench.peers`: install the peers and measure them, without ours."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from bench.peers.catalog import PEERS, install_all
from bench.session import NOTES, Session, parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for; 1 when nothing at all could be measured."""
    command = parser("python -m bench.peers", __doc__, "W1,W2,W3,W4,W5,W6,W7")
    command.add_argument("--peers", default=",".join(PEERS), help="which, separated by commas")
    command.add_argument("--json", type=Path, help="a file to write every single measurement to")
    asked = command.parse_args(arguments)
    unknown = set(asked.peers.split(",")) - set(PEERS)
    if unknown:
        command.error(f"--peers: {', '.join(sorted(unknown))}: peers are {', '.join(PEERS)}")
    session = Session(install_all([PEERS[name] for name in asked.peers.split(",")], asked.directory, NOTES.print))
    session.measure(asked.works, asked.runs, asked.scale, asked.directory)
    session.tell()
    if asked.json:
        session.write(asked.json)
    return 0 if any(result.figures for result in session.results) else 1


if __name__ == "__main__":
    sys.exit(main())
