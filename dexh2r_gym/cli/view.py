"""The command that shows recorded trials and the episodes of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm
from tyro.conf import Positional


@dataclass
class View:
    """Look at a replay or at a run's episodes in the browser (extra `view`), or write one as a video.

    `dexh2r view` shows the trials that come with the package, `dexh2r view s01/can/003 --replays PATH` a replay of a
    store, and `dexh2r view runs/scripted` the episodes of a run, those that failed first.

    Example: dexh2r view runs/scripted
    """

    what: Positional[str | None] = None
    """A run folder, or the id of a replay; by default the first replay."""
    id: Positional[str | None] = None
    """Of a run: the replay whose episode comes first; by default the first that failed."""
    replays: str | None = None
    """`mini`, or the path of a store; of a run by default the one it was made with."""
    out: Path | None = None
    """An .mp4 video or a .png contact sheet to write instead of opening the browser."""
    host: str = "127.0.0.1"
    """Address to serve on; 0.0.0.0 lets other machines look, and steer."""
    port: int = 8080

    def run(self) -> None:
        from dexh2r_gym.show import film, find_source, serve

        source, id = find_source(self.what, self.id, self.replays)
        if self.out:
            film(source.open(id), self.out, progress=lambda frames: tqdm(frames, unit="frame"))
            print(f"wrote {self.out}: {id}")
        else:
            serve(source, id, host=self.host, port=self.port)
