"""The skin of each bone as one convex hull, for collision."""

from __future__ import annotations

import numpy as np
import trimesh

from dexh2r_gym.giver.hand import GiverHand
from dexh2r_gym.objects.geometry import reduce_hull
from dexh2r_gym.types import NUM_GIVER_JOINTS

MAX_HULL_VERTICES = 64
MAX_HULL_FACES = 2 * MAX_HULL_VERTICES - 4


def bone_hulls(hand: GiverHand) -> list[trimesh.Trimesh]:
    """16 hulls of the rest skin, each in the frame of its bone (metres), of at most `MAX_HULL_VERTICES`.

    A bone has every triangle with a vertex that it moves most, so that neighbours overlap by a triangle and leave no
    gap. Hollows of the palm are filled, and pose corrections left out. On a hand with the open hand's surface the skin
    is at most 0.5 mm outside of the hulls and half of it within 0.4 mm, up to 12 mm deep in the hollow of the palm.

    Raises ValueError where a bone moves too little skin for a solid.
    """
    bone = hand.weights.argmax(-1)
    hulls = []
    for b in range(NUM_GIVER_JOINTS):
        own = hand.faces[(bone[hand.faces] == b).any(-1)].unique()
        if len(own) < 4:
            raise ValueError(
                f"joint {b} of the giver's hand moves {len(own)} points of the skin, too few to collide with"
            )
        points = np.asarray(reduce_hull((hand.rest_vertices[own] - hand.rest_joints[b]).numpy(), MAX_HULL_VERTICES))
        hulls.append(trimesh.convex.convex_hull(points))
    return hulls
