"""Your own recording becomes a trial: `python examples/own_recordings.py mug.obj recording.npz`.

mug.obj: mesh of the object, metres. recording.npz, 30 frames a second, metres, one frame of reference with z up:
`object` (T, 7), position and quaternion w x y z of the mesh's frame; `giver` (T, 61), MANO's translation, global
orientation, 15 joints (axis-angle, zero is the flat hand) and shape. It should end with the object held out.
"""

import numpy as np
import tyro
from tyro.conf import Positional

from dexh2r_gym.agents import find_agent
from dexh2r_gym.evaluate import evaluate
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.grasps import make_pool
from dexh2r_gym.objects import ObjectModel
from dexh2r_gym.replay import write_store
from dexh2r_gym.replay.recorded import hold_still, into_scene, recorded_object, recorded_trial


def main(
    mesh: Positional[str],
    recording: Positional[str],
    out: str = "own.zarr.zip",
    run: str = "runs/own_recordings",
) -> dict:
    """Make a store of one recording of your own, and let the scripted expert take the object in it.

    Args:
        mesh: of the object, metres.
        recording: npz of `object` (T, 7) and `giver` (T, 61), 30 frames a second; see the top of this file.
        out: the store that is written.
        run: folder of the evaluation.
    """
    data = np.load(recording)
    thing = ObjectModel.from_mesh(mesh, mass=0.3)  # kg
    goals = make_pool(thing, seed=0)  # where the robot can take it: a minute
    giver = GiverHand.from_mano(data["giver"], side="right", model="mano")  # "open": numbers of the open hand
    moved = into_scene(giver, data["object"], data["giver"])  # the offer to (0, 0, 1), the giver to +x
    object_pose, hand = (hold_still(rows, 60) for rows in moved)  # the giver waits for two seconds
    trial = recorded_trial(thing, goals, giver, object_pose, hand)
    objects = {thing.name: recorded_object(thing, goals)}
    write_store(out, [trial], objects, licence="yours", provenance={}, giver_model=giver.model, overwrite=True)
    return evaluate(find_agent("scripted"), out=run, replays=out)


if __name__ == "__main__":
    report = tyro.cli(main)
    print({name: round(float(value["value"]), 2) for name, value in report["overall"]["paper"].items()})
