"""The command that says why an episode came out as it did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tqdm import tqdm
from tyro.conf import Positional


@dataclass
class Audit:
    """Say why an episode of a run came out as it did: the frame that decided it, and every contact with the giver.

    Prints the verdict and writes audit.md and contacts.png; with --clip also a short film around the deciding frame.
    Without an episode it lists those of the run with their verdicts.

    Example: dexh2r audit runs/scripted s02/banana/000 --clip
    """

    run_folder: Positional[Path]
    episode: Positional[str | None] = None
    """Id of the episode's replay."""
    out: Path | None = None
    """Folder to write to; by default audits/ and the episode's name in the run folder."""
    clip: bool = False
    """Also write clip.mp4, a second on each side of the deciding frame."""
    replays: str | None = None
    """`mini`, or the path of a store; by default the one that the run was made with."""

    def run(self) -> None:
        from dexh2r_gym.audit import audit
        from dexh2r_gym.run_folder import RunFolder

        if self.episode is None:
            folder = RunFolder(self.run_folder)
            for id in sorted(folder.recorded_ids()):
                record = folder.load_episode(id)
                words = (
                    id,
                    record["status"],
                    record["outcome"],
                    f"frame {record['decided_frame']}: {record['reason']}",
                )
                print(*words, sep="  ")
            return
        out = self.out or self.run_folder / "audits" / quote(self.episode, safe="")
        print(audit(
            self.run_folder, self.episode, out, replays=self.replays, clip=self.clip,
            progress=lambda frames: tqdm(frames, unit="frame"),
        ))  # fmt: skip
        print(f"wrote {out}")
