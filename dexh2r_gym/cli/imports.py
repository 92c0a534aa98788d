"""Commands that turn recordings of others into a replay store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, subcommand


@dataclass
class ImportDexH2R:
    """Import the DexH2R dataset as it is on disk: a folder with DexH2R_dataset/, object_model/ and dataset_split.json.

    What is left out, and why, is listed at the end. Killed and started again, it goes on.

    Example: dexh2r replays import dexh2r dataset dexh2r.zarr
    """

    path: Positional[Path]
    """The dataset's folder."""
    out: Positional[Path]
    """The store to write: a folder, or a single file that ends in .zarr.zip."""
    sensors: tuple[Literal["cloud", "depth", "image"], ...] = ("cloud",)
    """What is kept of the cameras: object clouds; depth and colour pictures make the store very large."""
    fps: float = 30.0
    """Frames a second of the recordings, which the dataset does not say."""
    origin: tuple[float, float, float] = (1.0, 0.0, 0.37)
    """This point of the dataset's world, metres, becomes the scene's origin; 0 0 0 keeps the recorded numbers."""
    num_goals: int = 40
    """Goal grasps searched for each object where the dataset has none (model_final_qpose_cvae.pt)."""
    strict: bool = False
    """Fail if anything has to be left out."""
    skip_damaged: bool = False
    """Leave out trials with damaged files; by default the first one ends the import."""
    workers: int | None = None
    """Processes; by default one a core."""
    seed: int = 0
    overwrite: bool = False
    """Replace a store that is at the path."""

    def run(self) -> None:
        from dexh2r_gym.replay.dexh2r import import_dexh2r

        summary = import_dexh2r(
            self.path,
            self.out,
            workers=self.workers,
            strict=self.strict,
            skip_damaged=self.skip_damaged,
            sensors=self.sensors,
            num_goals=self.num_goals,
            fps=self.fps,
            origin=self.origin,
            seed=self.seed,
            overwrite=self.overwrite,
        )
        print(summary)
        say_next(self.out)


@dataclass
class ImportDexH2RZarr:
    """Import a zarr file made by DexH2R's code for training DP or DP3. It has no giver: to imitate, not to evaluate.

    Example: dexh2r replays import dexh2r-zarr train.zarr train_windows.zarr --objects dataset/object_model
    """

    path: Positional[Path]
    """The zarr folder."""
    out: Positional[Path]
    """The store to write: a folder, or a single file that ends in .zarr.zip."""
    objects: Path | None = None
    """Folder of object meshes to match the clouds with; without it shapes are made from the clouds."""
    sensors: tuple[Literal["cloud", "depth", "image"], ...] = ("cloud",)
    """What is kept of the cameras."""
    origin: tuple[float, float, float] = (1.0, 0.0, 0.37)
    """This point of the dataset's world, metres, becomes the scene's origin; 0 0 0 keeps the recorded numbers."""
    overwrite: bool = False
    """Replace a store that is at the path."""

    def run(self) -> None:
        from dexh2r_gym.replay.dexh2r import import_dexh2r_zarr

        print(
            import_dexh2r_zarr(
                self.path,
                self.out,
                objects=self.objects,
                sensors=self.sensors,
                origin=self.origin,
                overwrite=self.overwrite,
            )
        )


@dataclass
class ImportDexYCB:
    """Import givers from DexYCB, or from HandoverSim's cache of it. Needs MANO's files in $DEXH2R_MANO.

    It has no robot: no demonstrations. After the recorded frames the giver holds the object out for a while.

    Example: dexh2r replays import dexycb dex-ycb-20210415 dexycb.zarr.zip --subjects 20200709-subject-01
    """

    path: Positional[Path]
    """The dataset's folder."""
    out: Positional[Path]
    """The store to write: a folder, or a single file that ends in .zarr.zip."""
    subjects: tuple[str, ...] | None = None
    """Names of subjects' folders; by default all."""
    sequences: tuple[str, ...] | None = None
    """Names of sequences; by default all."""
    wait: float = 2.0
    """Seconds that the giver holds still after the recording."""
    num_goals: int = 40
    """Goal grasps searched for each object."""
    workers: int | None = None
    """Processes; by default one a core."""
    seed: int = 0
    overwrite: bool = False
    """Replace a store that is at the path."""

    def run(self) -> None:
        from dexh2r_gym.replay import ReplayStore
        from dexh2r_gym.replay.dexycb import import_dexycb

        import_dexycb(
            self.path,
            self.out,
            subjects=self.subjects,
            sequences=self.sequences,
            wait=self.wait,
            num_goals=self.num_goals,
            workers=self.workers,
            seed=self.seed,
            overwrite=self.overwrite,
        )
        skipped = ReplayStore.open(self.out).attrs["provenance"]["skipped"]
        for sequence, reason in skipped.items():
            print(f"skipped {sequence}: {reason}")
        say_next(self.out)


@dataclass
class ImportKhanna:
    """Import one recorded human-to-human handover of Handovers@RPL (Khanna et al. 2023).

    A folder of 30 csv files at 120 Hz with baton_pose_saved.csv among them.

    Example: dexh2r replays import khanna handover_Sample baton.zarr.zip
    """

    path: Positional[Path]
    """Folder of the recording."""
    out: Positional[Path]
    """The store to write: a folder, or a single file that ends in .zarr.zip."""
    seed: int = 0
    overwrite: bool = False
    """Replace a store that is at the path."""

    def run(self) -> None:
        from dexh2r_gym.replay.khanna import import_khanna

        import_khanna(self.path, self.out, seed=self.seed, overwrite=self.overwrite)
        say_next(self.out)


@dataclass
class Import:
    """Turn recordings of others into a replay store."""

    command: (
        Annotated[ImportDexH2R, subcommand("dexh2r")]
        | Annotated[ImportDexH2RZarr, subcommand("dexh2r-zarr")]
        | Annotated[ImportDexYCB, subcommand("dexycb")]
        | Annotated[ImportKhanna, subcommand("khanna")]
    )

    def run(self) -> None:
        self.command.run()


def say_next(out: Path) -> None:
    """What can be done with a store that was written."""
    print(f"wrote {out}; next: dexh2r replays info {out}; dexh2r evaluate --replays {out}")
