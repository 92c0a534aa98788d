"""Trained weights on disk: NAME.safetensors beside NAME.json, which says what they are, how made, and what to expect.

The json holds `format`, `policy` (which model class), `config` (its sizes), `layout` (what it observes and answers),
`sha256` of the weights, and `card`: data, seed, command, hardware, expected scores. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dexh2r_gym.extras import import_extra

FOLDER = Path(__file__).parent / "checkpoints"
FORMAT = 1
MAX_BYTES = 1 << 30


def _policies() -> dict[str, tuple[type, type[nn.Module]]]:
    """The configuration and the model of each policy that checkpoints hold."""
    from policies.dp import DP, DPConfig
    from policies.dp3 import DP3, DP3Config
    from policies.flow import Flow, FlowConfig
    from policies.grasp_cvae import CVAEConfig, GraspCVAE
    from policies.grasp_diffusion import DiffusionConfig, GraspDiffusion
    from policies.motionnet import MotionNet, MotionNetConfig
    from policies.reacher import Reacher, ReacherConfig

    return {
        "grasp-cvae": (CVAEConfig, GraspCVAE),
        "grasp-diffusion": (DiffusionConfig, GraspDiffusion),
        "motionnet": (MotionNetConfig, MotionNet),
        "dp": (DPConfig, DP),
        "dp3": (DP3Config, DP3),
        "flow": (FlowConfig, Flow),
        "reacher": (ReacherConfig, Reacher),
    }


def make_model(policy: str, config: Mapping[str, Any] | None = None) -> Any:
    """A new model of a policy by name, with a configuration as a dict; ValueError lists what is valid."""
    known = _policies()
    if policy not in known:
        raise ValueError(f"unknown policy {policy!r}; this version knows {', '.join(known)}")
    config_class, model_class = known[policy]
    names = {f.name for f in fields(config_class)}
    if strange := sorted(set(config or {}) - names):
        raise ValueError(f"{policy} has no setting {', '.join(strange)}; it has {', '.join(sorted(names))}")
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in (config or {}).items()}  # json has no tuples
    return model_class(config_class(**values))


def paper_config(policy: str) -> dict[str, Any]:
    """The published sizes of an approach policy; ValueError for one that was not published."""
    module = import_module(f"policies.{policy}")
    if not hasattr(module, "PAPER"):
        raise ValueError(f"{policy} was not published, so it has no paper size; train it with size base")
    return asdict(module.PAPER)


def policy_of(model: nn.Module) -> str:
    """The name of a model's policy."""
    return next(name for name, (_, cls) in _policies().items() if isinstance(model, cls))


def save_checkpoint(model: Any, path: Path, card: Mapping[str, Any]) -> None:
    """Write PATH (.safetensors, float16) and its json, the weights first."""
    safetensors = import_extra("safetensors.torch", "policies")
    weights = {
        name: (value.detach().half() if value.is_floating_point() else value.detach()).contiguous()
        for name, value in model.state_dict().items()
    }
    data = safetensors.save(weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, data)
    about = {
        "format": FORMAT,
        "policy": policy_of(model),
        "config": asdict(model.config),
        "layout": layout_of(model),
        "sha256": hashlib.sha256(data).hexdigest(),
        "card": dict(card),
    }
    _write(path.with_suffix(".json"), (json.dumps(about, indent=2) + "\n").encode())


def read_card(path: Path) -> dict[str, Any]:
    """What the json beside a checkpoint says, checked.

    Raises:
        FileNotFoundError: no such checkpoint; the message lists those in its folder.
        ValueError: not a checkpoint of this version; both are named.
    """
    about = path.with_suffix(".json")
    if not path.is_file() or not about.is_file():
        names = ", ".join(sorted(p.stem for p in path.parent.glob("*.safetensors"))) or "none"
        raise FileNotFoundError(f"no checkpoint {path} with its {about.name}; in that folder: {names}")
    try:
        content = json.loads(about.read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}, this version reads format {FORMAT}")
        if not {"policy", "config", "sha256", "card"} <= set(content):
            raise ValueError("policy, config, sha256 or card missing")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{about}: not the description of a checkpoint: {error}") from error
    return content


def layout_of(model: Any) -> dict[str, Any]:
    """What a model observes and answers, as this version reads it."""
    if not hasattr(model, "needs"):
        return {}
    return {"observation": list(model.needs), "action": model.answers}


def load_checkpoint(path: Path, policy: str | None = None) -> Any:
    """The model of a checkpoint, ready to use.

    Raises:
        FileNotFoundError, ValueError: as `read_card`; also another policy than the one asked for, weights that are
            not the ones described, or that do not fit, another layout of observations or actions.
    """
    about = read_card(path)
    if policy is not None and about["policy"] != policy:
        raise ValueError(f"{path} is a checkpoint of {about['policy']}, {policy} was asked for")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, at most {MAX_BYTES} expected")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != about["sha256"]:
        raise ValueError(f"{path}: not the weights that {path.with_suffix('.json').name} describes (sha256 differs)")
    model = make_model(about["policy"], about["config"])
    if (layout := about.get("layout", {})) != layout_of(model):
        raise ValueError(f"{path} was trained with {layout}, {about['policy']} of this version has {layout_of(model)}")
    weights = import_extra("safetensors.torch", "policies").load(data)
    try:
        model.load_state_dict({n: v.float() if v.is_floating_point() else v for n, v in weights.items()})
    except RuntimeError as error:
        raise ValueError(f"{path}: weights do not fit {about['policy']}: {error}") from error
    return model.eval().requires_grad_(False)


def _write(path: Path, data: bytes) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_bytes(data)
    partial.replace(path)


def shipped() -> list[Path]:
    """The checkpoints that come with the package."""
    return sorted(FOLDER.glob("*.safetensors"))


def save_training(path: Path, state: Mapping[str, Any]) -> None:
    """All that training needs to go on, written whole or not at all."""
    partial = path.with_suffix(".partial")
    torch.save(dict(state), partial)
    partial.replace(path)


def load_training(path: Path) -> dict[str, Any]:
    """What `save_training` wrote; tensors and plain values only."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: not the state of a training: {error}; remove it to begin anew") from error
