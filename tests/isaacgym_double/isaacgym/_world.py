"""What the double does: worlds without collisions. Each function is the behaviour of the method of that name."""

import json
import os
import pathlib
import xml.etree.ElementTree

import numpy as np
import torch

from isaacgym import gymapi
from isaacgym.gymapi import Misuse

_DOF = np.dtype(
    [
        ("hasLimits", "?"),
        ("lower", "f4"),
        ("upper", "f4"),
        ("driveMode", "i4"),
        ("velocity", "f4"),
        ("effort", "f4"),
        ("stiffness", "f4"),
        ("damping", "f4"),
        ("friction", "f4"),
        ("armature", "f4"),
    ]
)


def _need(condition, message):
    if not condition:
        raise Misuse(message)


class _Sim:
    def __init__(self, params, device):
        self.params, self.device = params, device
        self.envs, self.actors = [], []
        self.prepared, self.running = False, False  # running: simulate was called, results are not fetched
        self.acquired = {}
        self.set = set()  # what has been set since the last call of simulate


class _Env:
    def __init__(self, sim):
        self.sim, self.actors = sim, []


class _Link:
    def __init__(self, name, parent, joint, shapes):
        self.name, self.parent, self.joint, self.shapes = name, parent, joint, shapes  # parent: index, -1 for the root


class _Asset:
    """Bodies depth first, children by the names of their joints, so not in the order of the file."""

    def __init__(self, folder, file, options):
        path = pathlib.Path(folder) / file
        _need(path.is_file(), f"no asset at {path}")
        root = xml.etree.ElementTree.parse(path).getroot()
        self.options = options
        links = {link.get("name"): link for link in root.findall("link")}
        joints = root.findall("joint")
        below = {}
        for joint in joints:
            below.setdefault(joint.find("parent").get("link"), []).append(joint)
        children = {joint.find("child").get("link") for joint in joints}
        tops = [name for name in links if name not in children]
        _need(len(tops) == 1, f"{file}: links without a parent: {tops}")
        self.links, self.dofs = [], []

        def add(name, parent, joint):
            link = links[name]
            mass = float(link.find("inertial/mass").get("value"))
            e = {k: float(v) for k, v in link.find("inertial/inertia").attrib.items()}
            inertia = np.array(
                [[e["ixx"], e["ixy"], e["ixz"]], [e["ixy"], e["iyy"], e["iyz"]], [e["ixz"], e["iyz"], e["izz"]]]
            )
            a, b, c = np.linalg.eigvalsh(inertia)
            _need(mass > 0 and a > 0 and a + b >= c * (1 - 1e-6), f"{file}: {name} is no body: {mass} kg, {a} {b} {c}")
            shapes = link.findall("collision")
            for shape in shapes:
                kind = shape.find("geometry")[0]
                _need(kind.tag in ("box", "sphere", "cylinder", "mesh"), f"{file}: no shape is called {kind.tag}")
                if kind.tag == "mesh":
                    _need((path.parent / kind.get("filename")).is_file(), f"{file}: no {kind.get('filename')}")
            index = len(self.links)
            self.links.append(_Link(name, parent, None if joint is None else _Joint(joint), len(shapes)))
            if joint is not None:
                self.dofs.append(index)
            for child in sorted(below.get(name, []), key=lambda j: j.get("name")):
                add(child.find("child").get("link"), index, child)

        add(tops[0], -1, None)


class _Joint:
    def __init__(self, joint):
        self.name = joint.get("name")
        _need(joint.get("type") in ("revolute", "prismatic"), f"{self.name}: {joint.get('type')}")
        self.turns = joint.get("type") == "revolute"
        origin, limit = joint.find("origin"), joint.find("limit")
        self.position = torch.tensor([float(x) for x in origin.get("xyz").split()])
        self.frame = _from_rpy([float(x) for x in origin.get("rpy").split()])
        self.axis = torch.tensor([float(x) for x in joint.find("axis").get("xyz").split()])
        _need(abs(float(self.axis.norm()) - 1) < 1e-5, f"{self.name}: its axis is no unit vector")
        self.limit = {k: float(v) for k, v in limit.attrib.items()}


class _Actor:
    def __init__(self, env, asset, pose, name, group, bits):
        self.env, self.asset, self.name, self.group = env, asset, name, group
        sim = env.sim
        self.index = len(sim.actors)
        last = sim.actors[-1] if sim.actors else None
        self.body = 0 if last is None else last.body + len(last.asset.links)
        self.dof = 0 if last is None else last.dof + len(last.asset.dofs)
        p, r = pose.p, pose.r
        self.start = [p.x, p.y, p.z, r.x, r.y, r.z, r.w] + [0.0] * 6
        self.shapes = []
        for _ in range(sum(link.shapes for link in asset.links)):
            shape = gymapi.RigidShapeProperties()
            shape.filter = bits
            self.shapes.append(shape)
        self.properties = _asset_properties(asset)


def _asset_properties(asset):
    out = np.zeros(len(asset.dofs), _DOF)
    for i, link in enumerate(asset.dofs):
        limit = asset.links[link].joint.limit
        out[i] = (True, limit["lower"], limit["upper"], 0, limit["velocity"], limit["effort"], 0, 0, 0, 0)
    return out


# setting up


def create_sim(compute_device=0, graphics_device=0, type=gymapi.SIM_FLEX, params=None):
    _need(isinstance(params, gymapi.SimParams), "create_sim needs SimParams")
    _need(type == gymapi.SIM_PHYSX, "the double is of PhysX")
    _need(params.up_axis == gymapi.UP_AXIS_Z, "z should be up")
    _need(params.use_gpu_pipeline == bool(params.physx.use_gpu), "GPU pipeline and GPU physics go together here")
    if params.use_gpu_pipeline and not torch.cuda.is_available():
        return None
    return _Sim(params, f"cuda:{compute_device}" if params.use_gpu_pipeline else "cpu")


def destroy_sim(sim):
    sim.acquired.clear()


def load_asset(sim, rootpath, filename, options=None):
    _need(isinstance(options, gymapi.AssetOptions), "load_asset needs AssetOptions")
    return _Asset(rootpath, filename, options)


def create_env(sim, lower, upper, per_row):
    _need(not sim.prepared, "create_env after prepare_sim")
    _need(all(isinstance(v, gymapi.Vec3) for v in (lower, upper)) and isinstance(per_row, int), "create_env")
    sim.envs.append(_Env(sim))
    return sim.envs[-1]


def create_actor(env, asset, pose, name="", group=-1, filter=-1, segmentationId=0):
    _need(not env.sim.prepared, "create_actor after prepare_sim")
    _need(isinstance(pose, gymapi.Transform) and isinstance(name, str), "create_actor needs a Transform and a name")
    actor = _Actor(env, asset, pose, name, group, filter)
    env.actors.append(actor)
    env.sim.actors.append(actor)
    return len(env.actors) - 1


def prepare_sim(sim):
    _need(not sim.prepared, "prepare_sim was called twice")
    sim.prepared = True
    dofs = sum(len(a.asset.dofs) for a in sim.actors)
    bodies = sum(len(a.asset.links) for a in sim.actors)
    sim.root = torch.tensor([a.start for a in sim.actors], device=sim.device)
    sim.dof, sim.target = torch.zeros(dofs, 2, device=sim.device), torch.zeros(dofs, device=sim.device)
    sim.body, sim.contact = torch.zeros(bodies, 13, device=sim.device), torch.zeros(bodies, 3, device=sim.device)
    properties = np.concatenate([a.properties for a in sim.actors])
    _need((properties["driveMode"] == gymapi.DOF_MODE_POS).all(), "a dof is not driven to positions")
    sim.lower, sim.upper = (torch.tensor(properties[k].copy(), device=sim.device) for k in ("lower", "upper"))
    rate = properties["stiffness"] / properties["damping"]
    sim.rate = torch.tensor(rate, dtype=torch.float32, device=sim.device)  # 1/s
    heavy = [a.asset.options.disable_gravity for a in sim.actors]
    sim.weighs = torch.tensor([0.0 if h else 1.0 for h in heavy], device=sim.device)[:, None]
    sim.jointed = [a for a in sim.actors if a.asset.dofs]
    sim.single = torch.tensor([a.index for a in sim.actors if not a.asset.dofs])
    sim.single_body = torch.tensor([a.body for a in sim.actors if not a.asset.dofs])
    forces = json.loads(os.environ.get("DEXH2R_DOUBLE_CONTACT", "{}"))
    for actor in sim.actors:
        for i, link in enumerate(actor.asset.links):
            force = (
                forces.pop(f"{actor.name}/{link.name}", None)
                if actor.env is sim.envs[-1]
                else forces.get(f"{actor.name}/{link.name}")
            )
            if force is not None:
                sim.contact[actor.body + i] = torch.tensor(force)
    _need(not forces, f"nothing is called {list(forces)}")
    _move_bodies(sim)
    return True


def get_actor_index(env, actor, domain):
    _need(domain == gymapi.DOMAIN_SIM, "the double knows indices in the simulation")
    return env.actors[actor].index


def get_actor_rigid_body_index(env, actor, body, domain):
    _need(domain == gymapi.DOMAIN_SIM, "the double knows indices in the simulation")
    _need(0 <= body < len(env.actors[actor].asset.links), "no such body")
    return env.actors[actor].body + body


def get_actor_dof_index(env, actor, dof, domain):
    _need(domain == gymapi.DOMAIN_SIM, "the double knows indices in the simulation")
    _need(0 <= dof < len(env.actors[actor].asset.dofs), "no such dof")
    return env.actors[actor].dof + dof


def get_actor_rigid_body_shape_indices(env, actor):
    out, start = [], 0
    for link in env.actors[actor].asset.links:
        out.append(gymapi.IndexRange(start, link.shapes))
        start += link.shapes
    return out


def get_actor_rigid_shape_properties(env, actor):
    return list(env.actors[actor].shapes)


def set_actor_rigid_shape_properties(env, actor, shapes):
    _need(len(shapes) == len(env.actors[actor].shapes), "as many shapes as the actor has")
    env.actors[actor].shapes = list(shapes)
    return True


def get_asset_rigid_body_names(asset):
    return [link.name for link in asset.links]


def get_asset_dof_names(asset):
    return [asset.links[i].joint.name for i in asset.dofs]


def get_asset_dof_properties(asset):
    return _asset_properties(asset)


def set_actor_dof_properties(env, actor, properties):
    actor = env.actors[actor]
    _need(properties.dtype == _DOF and properties.shape == (len(actor.asset.dofs),), "properties of each dof")
    _need((properties["stiffness"] > 0).all() and (properties["damping"] > 0).all(), "a drive without gains")
    actor.properties = properties.copy()
    return True


# tensors


def _acquire(sim, name):
    _need(sim.prepared, f"{name} was acquired before prepare_sim")
    if name not in sim.acquired:
        sim.acquired[name] = torch.full_like(getattr(sim, name), float("nan"))
    return gymapi.Tensor._of(sim.acquired[name])


def acquire_actor_root_state_tensor(sim):
    return _acquire(sim, "root")


def acquire_dof_state_tensor(sim):
    return _acquire(sim, "dof")


def acquire_rigid_body_state_tensor(sim):
    return _acquire(sim, "body")


def acquire_net_contact_force_tensor(sim):
    return _acquire(sim, "contact")


def _refresh(sim, name):
    _need(name in sim.acquired, f"{name} is refreshed but was never acquired")
    _need(not sim.running, "refreshed before fetch_results, on the CPU pipeline")
    sim.acquired[name].copy_(getattr(sim, name))
    return True


def refresh_actor_root_state_tensor(sim):
    return _refresh(sim, "root")


def refresh_dof_state_tensor(sim):
    return _refresh(sim, "dof")


def refresh_rigid_body_state_tensor(sim):
    return _refresh(sim, "body")


def refresh_net_contact_force_tensor(sim):
    return _refresh(sim, "contact")


def _values(sim, tensor, like):
    _need(isinstance(tensor, gymapi.Tensor), "a set_* call needs an unwrapped tensor")
    values = tensor._torch
    _need(values.dtype == torch.float32 and values.device == like.device, f"{values.dtype} on {values.device}")
    _need(values.numel() == like.numel(), f"a tensor of {tuple(like.shape)} is needed, got {tuple(values.shape)}")
    return values.view(like.shape)


def _indices(sim, tensor, count):
    _need(isinstance(tensor, gymapi.Tensor), "indices need to be an unwrapped tensor")
    index = tensor._torch
    _need(index.dtype == torch.int32 and index.device == sim.root.device, f"indices are {index.dtype}, not int32")
    _need(isinstance(count, int) and index.shape == (count,), f"{tuple(index.shape)} indices, {count} told")
    index = index.long()
    _need(len(index.unique()) == len(index), "an actor is named twice")
    _need(bool(((index >= 0) & (index < len(sim.actors))).all()), "no such actor")
    return index


def _once(sim, what):
    _need(sim.prepared and not sim.running, f"{what} set at the wrong time")
    _need(what not in sim.set, f"{what} set twice before simulate: the second alone would be heeded")
    sim.set.add(what)


def set_actor_root_state_tensor_indexed(sim, tensor, indices, count):
    _once(sim, "root states")
    index, values = _indices(sim, indices, count), _values(sim, tensor, sim.root)
    rows = values[index]
    _need(bool(torch.isfinite(rows).all()), "a root state that is not finite")
    _need(bool(((rows[:, 3:7].norm(dim=-1) - 1).abs() < 1e-3).all()), "a root state whose quaternion is no rotation")
    sim.root[index] = rows
    return True


def set_dof_state_tensor_indexed(sim, tensor, indices, count):
    _once(sim, "dof states")
    values = _values(sim, tensor, sim.dof)
    for i in _indices(sim, indices, count).tolist():
        actor = sim.actors[i]
        _need(len(actor.asset.dofs) > 0, f"{actor.name} has no dofs")
        rows = slice(actor.dof, actor.dof + len(actor.asset.dofs))
        _need(bool(torch.isfinite(values[rows]).all()), "a dof state that is not finite")
        sim.dof[rows] = values[rows]
    return True


def set_dof_position_target_tensor(sim, tensor):
    _once(sim, "position targets")
    values = _values(sim, tensor, sim.target)
    _need(bool(torch.isfinite(values).all()), "a target that is not finite")
    sim.target.copy_(values)
    return True


# time


def simulate(sim):
    _need(sim.prepared and not sim.running, "simulate before prepare_sim, or before the last results were fetched")
    dt, state = sim.params.dt, sim.root
    g = sim.params.gravity
    state[:, 7:10] += sim.weighs * torch.tensor([g.x, g.y, g.z], device=sim.device) * dt
    state[:, :3] += state[:, 7:10] * dt
    state[:, 3:7] = _multiply(_from_axis_angle(state[:, 10:] * dt), state[:, 3:7])
    h = dt / sim.params.substeps
    for _ in range(sim.params.substeps):  # massless, implicit: damping (x' - x) / h = stiffness (target - x')
        before = sim.dof[:, 0].clone()
        position = (before + h * sim.rate * sim.target) / (1.0 + h * sim.rate)
        position = torch.minimum(torch.maximum(position, sim.lower), sim.upper)
        sim.dof[:, 0], sim.dof[:, 1] = position, (position - before) / h
    _move_bodies(sim)
    for tensor in sim.acquired.values():
        tensor.fill_(float("nan"))  # until it is refreshed
    sim.set.clear()
    sim.running = sim.device == "cpu"


def fetch_results(sim, wait):
    _need(wait is True, "results are waited for")
    sim.running = False


def _move_bodies(sim):
    """Forward kinematics, all actors of an asset at once."""
    sim.body[sim.single_body] = sim.root[sim.single]
    for asset in {id(a.asset): a.asset for a in sim.jointed}.values():
        actors = [a for a in sim.jointed if a.asset is asset]
        states = [sim.root[[a.index for a in actors]]]
        for i, link in enumerate(asset.links[1:], 1):
            number = asset.dofs.index(i)
            q, v = sim.dof[[a.dof + number for a in actors]].unbind(-1)
            parent, joint = states[link.parent], link.joint
            place = parent[:, :3] + _rotate(parent[:, 3:7], joint.position)
            turn = _multiply(parent[:, 3:7], joint.frame.expand(len(actors), 4))
            axis = _rotate(turn, joint.axis)
            if joint.turns:
                turn = _multiply(turn, _from_axis_angle(joint.axis * q[:, None]))
            else:
                place = place + axis * q[:, None]
            spin = parent[:, 10:] + (axis * v[:, None] if joint.turns else 0.0)
            velocity = parent[:, 7:10] + torch.linalg.cross(parent[:, 10:], place - parent[:, :3])
            velocity = velocity + (0.0 if joint.turns else axis * v[:, None])
            states.append(torch.cat((place, turn, velocity, spin), dim=-1))
        for i, state in enumerate(states):
            sim.body[[a.body + i for a in actors]] = state


# rotations, x y z w


def _multiply(a, b):
    av, aw, bv, bw = a[..., :3], a[..., 3:], b[..., :3], b[..., 3:]
    return torch.cat(
        (aw * bv + bw * av + torch.linalg.cross(av, bv), aw * bw - (av * bv).sum(-1, keepdim=True)), dim=-1
    )


def _rotate(q, v):
    v = v.expand(len(q), 3)
    t = 2.0 * torch.linalg.cross(q[:, :3], v)
    return v + q[:, 3:] * t + torch.linalg.cross(q[:, :3], t)


def _from_axis_angle(v):
    angle = v.norm(dim=-1, keepdim=True)
    return torch.cat((v * torch.sinc(angle / (2 * torch.pi)) / 2, torch.cos(angle / 2)), dim=-1)


def _from_rpy(rpy):
    out = torch.tensor([0.0, 0.0, 0.0, 1.0])
    for i, angle in enumerate(rpy):
        axis = torch.zeros(3)
        axis[i] = angle
        out = _multiply(_from_axis_angle(axis), out)
    return out
