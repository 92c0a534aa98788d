"""Objects that are handed over: a packaged library, and any mesh a user brings."""

from dexh2r_gym.objects.library import load_object, object_names, read_object, write_object
from dexh2r_gym.objects.model import MAX_PARTS, ObjectBatch, ObjectModel
from dexh2r_gym.objects.spec import add_object

__all__ = [
    "MAX_PARTS",
    "ObjectBatch",
    "ObjectModel",
    "add_object",
    "load_object",
    "object_names",
    "read_object",
    "write_object",
]
