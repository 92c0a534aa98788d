"""The names of `isaacgym.gymapi`, checked against `api.txt`."""

import enum
import pathlib

_NUMBERS = {"CC_NEVER": 0, "CC_LAST_SUBSTEP": 1, "CC_ALL_SUBSTEPS": 2}
_ATTRIBUTES, _METHODS, _ENUMS, _CONSTANTS = {}, {}, {}, []


class Misuse(AssertionError):
    """What the real Isaac Gym would not stand, or does not have."""


def _read():
    table = pathlib.Path(__file__).with_name("api.txt").read_text()
    name = ""
    for line in table.splitlines():
        words = line.split()
        if line.startswith("#") or not words:
            continue
        if words[0] == "class":
            name = words[1].rstrip(":")
            _ATTRIBUTES[name], _METHODS[name] = tuple(words[2:]), {}
        elif words[0] == "enum":
            _ENUMS[words[1].rstrip(":")] = words[2:]
        elif words[0] == "constants:":
            _CONSTANTS.extend(words[1:])
        elif line.startswith("  "):
            _METHODS[name].setdefault(words[0], []).append(words[1:])


_read()


class _Strict:
    """Has the attributes of the table and no others."""

    def __init__(self):
        for name in _ATTRIBUTES[type(self).__name__]:
            object.__setattr__(self, name, None)

    def __setattr__(self, name, value):
        if name not in _ATTRIBUTES[type(self).__name__] and not name.startswith("_"):
            raise Misuse(f"{type(self).__name__} has no attribute {name!r}")
        object.__setattr__(self, name, value)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise Misuse(f"{type(self).__name__} has no attribute {name!r}")


class Vec3(_Strict):
    def __init__(self, x=0.0, y=0.0, z=0.0):
        self.x, self.y, self.z = float(x), float(y), float(z)


class Quat(_Strict):
    def __init__(self, x=0.0, y=0.0, z=0.0, w=1.0):
        self.x, self.y, self.z, self.w = float(x), float(y), float(z), float(w)


class Transform(_Strict):
    def __init__(self, p=None, r=None):
        self.p, self.r = p or Vec3(), r or Quat()


class PhysXParams(_Strict):
    pass


class FlexParams(_Strict):
    pass


class SimParams(_Strict):
    def __init__(self):
        super().__init__()
        self.physx, self.flex, self.gravity = PhysXParams(), FlexParams(), Vec3(0.0, -9.8, 0.0)
        self.dt, self.substeps, self.use_gpu_pipeline = 1.0 / 60.0, 2, False


class AssetOptions(_Strict):
    def __init__(self):
        super().__init__()
        self.disable_gravity = self.fix_base_link = self.collapse_fixed_joints = False
        self.replace_cylinder_with_capsule = False


class RigidShapeProperties(_Strict):
    def __init__(self):
        super().__init__()
        self.friction, self.filter = 1.0, 0


class IndexRange(_Strict):
    def __init__(self, start=0, count=0):
        self.start, self.count = start, count


class Tensor(_Strict):
    @classmethod
    def _of(cls, tensor):
        out = cls()
        object.__setattr__(out, "_torch", tensor)
        return out


for _name, _members in _ENUMS.items():
    _kind = enum.IntEnum(_name, {m: _NUMBERS.get(m, i) for i, m in enumerate(_members)})
    globals()[_name] = _kind
    for _member in _kind:
        if _member.name in _CONSTANTS:
            globals()[_member.name] = _member


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise Misuse(f"isaacgym.gymapi has no {name!r}, or the double does not need it")


# methods whose parameters the list does not have (they take numpy arrays), as NVIDIA's own examples call them
_UNLISTED = {
    "get_asset_dof_properties": ["asset"],
    "get_actor_dof_properties": ["env", "actor"],
}


def _check(name, signatures, args, kwargs):
    """Whether positional and keyword arguments fit one of the signatures of a method."""
    if name in _UNLISTED:
        signatures = [_UNLISTED[name]]
    for parameters in signatures:
        names = [p.rstrip("?") for p in parameters]
        required = [n for n, p in zip(names, parameters, strict=True) if not p.endswith("?")]
        given = names[: len(args)] + list(kwargs)
        named = all(k in names and not k.startswith("arg") for k in kwargs)
        if len(args) <= len(names) and named and len(set(given)) == len(given) and set(required) <= set(given):
            return dict(zip(names, args, strict=False), **kwargs)
    raise Misuse(f"Gym.{name} takes {signatures}, got {len(args)} arguments and {sorted(kwargs)}")


class Gym(_Strict):
    """Every method of the table; those that the double has no behaviour for fail when they are called."""

    def __init__(self):
        pass


def _method(name, signatures):
    def call(self, *args, **kwargs):
        from isaacgym import _world

        arguments = _check(name, signatures, args, kwargs)
        behaviour = getattr(_world, name, None)
        if behaviour is None:
            raise Misuse(f"the double has no behaviour for Gym.{name}")
        return behaviour(*arguments.values())

    call.__name__ = name
    return call


for _name, _signatures in _METHODS["Gym"].items():
    if _name != "__init__":
        setattr(Gym, _name, _method(_name, _signatures))


def acquire_gym():
    """The one entry."""
    return Gym()
