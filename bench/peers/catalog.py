"""Every peer, and installing them so that one that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Result
from bench.peers import bullmq_durable, dbos, openworkflow
from bench.peers.peer import Peer, PeerError, complaint

DIRECTORY = Path(__file__).parent.parent / ".peers"
"""Where the peers are installed and where their stores are made; kept out of version control."""

PEERS: Mapping[str, Peer] = {peer.NAME: peer for peer in (dbos, openworkflow, bullmq_durable)}
"""Every peer by its name."""


SKIPPED = "not measured for this peer"
"""Why a work that an engine does not do has no figures."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A peer that was installed, or the reason why it could not be."""

    peer: Peer
    directory: Path
    failure: str | None = None

    def run(self, work: str, runs: int) -> Result:
        """Measure one work once; an error where the peer is not installed or does not do that work."""
        failure = self.failure or (None if work in self.peer.RUNS else SKIPPED)
        if failure:
            return Result(self.peer.NAME, work, runs, error=failure)
        return self.peer.run(self.directory, work, runs)


def install_all(
    peers: Iterable[Peer], directory: Path, tell: Callable[[str], object] = lambda _: None
) -> list[Installed]:
    """Install each peer under `directory`, telling which one is at hand."""
    directory.mkdir(parents=True, exist_ok=True)
    installed = []
    for peer in peers:
        tell(f"installing {peer.NAME}")
        try:
            peer.install(directory)
        except (PeerError, OSError) as reason:
            installed.append(Installed(peer, directory, f"not installed: {complaint(str(reason))}"))
        else:
            installed.append(Installed(peer, directory))
    return installed
