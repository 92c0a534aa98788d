"""Which objects of the library the generators of grasps learn from, and which they never see.

Unseen are the validation and test objects of both presets of synthetic replays (`dexh2r_gym.replay.presets`, seed 0),
so that an agent with a generator inside is tested on objects new to all of it.
"""

from __future__ import annotations

from dexh2r_gym.objects import object_names

UNSEEN_TEST_OBJECTS = (
    "beer_mug",
    "carrot",
    "crisps_tube",
    "dumbbell",
    "frying_pan",
    "kitchen_knife",
    "table_tennis_bat",
    "thermos",
    "tv_remote",
    "wooden_spoon",
)
"""Table 4 is measured on these; nothing was chosen by looking at them."""
UNSEEN_VALIDATION_OBJECTS = (
    "beer_bottle",
    "book",
    "lint_roller",
    "milk_carton",
    "pasta_box",
    "reflex_camera",
    "shampoo_bottle",
)
"""Settings of the generators were chosen on these."""
TRAIN_OBJECTS = tuple(name for name in object_names() if name not in {*UNSEEN_TEST_OBJECTS, *UNSEEN_VALIDATION_OBJECTS})
