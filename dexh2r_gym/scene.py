"""Hand, object and giver as one MuJoCo model.

Compiled once per object and re-dressed for each giver that is an open hand; once per object and giver of MANO.
"""

from __future__ import annotations

import copy
from functools import lru_cache

import mujoco

from dexh2r_gym.arm.mjspec import add_arm
from dexh2r_gym.giver import GiverHand, add_giver, set_giver_geoms
from dexh2r_gym.hand import add_hand
from dexh2r_gym.objects import ObjectModel, add_object
from dexh2r_gym.types import NUM_GIVER_JOINTS

SUBSTEPS_PER_SECOND = 180
OBJECT_WELD_TIME = 0.02  # seconds, time constant of the weld that holds the object to its recorded pose
OBJECT_WELD_IMPEDANCE = 0.9995  # high: the robot may push, the giver keeps hold, within 10 degrees of the recording
_STRONGEST, _NET = 2, 3  # contact sensors: of the contact with the greatest force; of all of them together
_SHOWN = 2  # group of what is drawn, but the floor
_LOOKS = {"robot": (0.7, 0.45), "object": (0.35, 0.4), "skin": (0.12, 0.15)}  # specular, shininess


def scene_spec(obj: ObjectModel, giver: GiverHand, *, visuals: bool, arm: bool = False) -> mujoco.MjSpec:
    """The scene before compilation: ShadowHand, object on a soft weld to the mocap body `object_target`, giver.

    arm: with the arm that carries the hand, to look at; it is not joined to the hand.
    """
    spec = mujoco.MjSpec()
    spec.modelname = "handover"
    option = spec.option
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone = mujoco.mjtCone.mjCONE_PYRAMIDAL
    option.iterations = 20
    option.ls_iterations = 10
    option.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET  # a diverged world must say so, not start again
    if visuals:
        add_surroundings(spec)
    add_hand(spec, visuals=visuals)
    add_object(spec, obj, visuals=visuals)
    add_giver(spec, giver, visuals=visuals)
    if arm:
        add_arm(spec, visuals=visuals)
    if visuals:
        add_looks(spec)
    spec.worldbody.add_body(name="object_target", mocap=True)
    weld = spec.add_equality(name="object_held", type=mujoco.mjtEq.mjEQ_WELD, objtype=mujoco.mjtObj.mjOBJ_BODY)
    weld.name1, weld.name2 = "object_target", "object"
    weld.data[:11] = [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]  # anchor at the object's origin, no offset, torque scale 1
    weld.solref[:] = [OBJECT_WELD_TIME, 1.0]
    weld.solimp[:3] = [OBJECT_WELD_IMPEDANCE, OBJECT_WELD_IMPEDANCE, 0.001]
    for i in range(NUM_GIVER_JOINTS):
        _add_force_sensor(spec, f"giver_force_{i}", f"giver_{i}")
        spec.add_sensor(
            name=f"giver_speed_{i}",
            type=mujoco.mjtSensor.mjSENS_CONTACT,
            objtype=mujoco.mjtObj.mjOBJ_BODY,
            objname=f"giver_{i}",
            intprm=[1 << int(mujoco.mjtConDataField.mjCONDATA_LINVEL), _STRONGEST, 1],
        )
    _add_force_sensor(spec, "load", "object", other="rh_palm")
    return spec


def _add_force_sensor(spec: mujoco.MjSpec, name: str, body: str, other: str | None = None) -> None:
    """Net force, in the world, of all contacts of a body, or of those with another one and all that hangs on it."""
    spec.add_sensor(
        name=name,
        type=mujoco.mjtSensor.mjSENS_CONTACT,
        objtype=mujoco.mjtObj.mjOBJ_BODY,
        objname=body,
        **({} if other is None else {"reftype": mujoco.mjtObj.mjOBJ_XBODY, "refname": other}),
        intprm=[1 << int(mujoco.mjtConDataField.mjCONDATA_FORCE), _NET, 1],
    )


def add_surroundings(spec: mujoco.MjSpec) -> None:
    """Floor, sky and lights, for pictures."""
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 1920, 1920
    spec.visual.headlight.ambient[:] = 0.32
    spec.visual.headlight.diffuse[:] = 0.22
    spec.visual.headlight.specular[:] = 0.05
    spec.visual.quality.shadowsize = 2048
    spec.visual.map.shadowclip = 1.2
    spec.stat.extent, spec.stat.center = 1.0, [0.05, 0.0, 1.0]  # m; shadows and haze are sized by it, not by the floor
    spec.visual.map.haze = 0.25
    spec.visual.rgba.haze[:] = [0.86, 0.88, 0.90, 1.0]
    spec.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=[0.62, 0.72, 0.84],
        rgb2=[0.90, 0.92, 0.94],
        width=256,
        height=256,
    )
    tiles = spec.add_texture(
        name="tiles",
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        rgb1=[0.82, 0.82, 0.81],
        rgb2=[0.78, 0.78, 0.77],
        mark=mujoco.mjtMark.mjMARK_EDGE,
        markrgb=[0.72, 0.72, 0.71],
        width=256,
        height=256,
    )
    floor = spec.add_material(name="floor_look", texrepeat=[1, 1], texuniform=True, specular=0.0, shininess=0.0)
    floor.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = tiles.name
    spec.worldbody.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[0, 0, 0.05],  # without end
        material=floor.name,
        contype=0,
        conaffinity=0,
    )
    for position, towards, strength, shadow in (
        ((-0.8, -1.4, 2.8), (0.35, 0.55, -0.8), 0.50, True),
        ((1.2, 1.0, 2.2), (-0.6, -0.5, -0.7), 0.18, False),
    ):
        spec.worldbody.add_light(
            pos=position,
            dir=towards,
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
            diffuse=[strength] * 3,
            specular=[0.6 * strength] * 3,
            castshadow=shadow,
        )


def add_looks(spec: mujoco.MjSpec) -> None:
    """How much robot, object and skin shine; their colours are their own."""
    for name, (specular, shininess) in _LOOKS.items():
        spec.add_material(name=f"{name}_look", specular=specular, shininess=shininess)
    for geom in spec.geoms:
        if geom.group == _SHOWN:
            geom.material = "object_look" if geom.name.startswith("object") else "robot_look"
    for skin in spec.skins:
        skin.material = "skin_look"


@lru_cache(maxsize=128)
def _compiled(obj: ObjectModel, visuals: bool, arm: bool) -> mujoco.MjModel:
    return scene_spec(obj, GiverHand(), visuals=visuals, arm=arm).compile()


@lru_cache(maxsize=1024)
def scene_model(
    obj: ObjectModel,
    giver: GiverHand,
    *,
    timestep: float = 1.0 / SUBSTEPS_PER_SECOND,
    visuals: bool = False,
    arm: bool = False,
) -> mujoco.MjModel:
    """The model for this object and this giver.

    All that show open hands share one data layout, as `mujoco.batch` needs, and so do all that show hands of MANO.
    """
    if giver.convex:
        model = scene_spec(obj, giver, visuals=visuals, arm=arm).compile()
    else:
        model = copy.copy(_compiled(obj, visuals, arm))
        set_giver_geoms(model, giver)
    model.opt.timestep = timestep
    return model
