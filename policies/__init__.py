"""Agents for the handover environments: `policies.load(name, env)`, `policies.env_options(name)`."""

from policies.agent import Agent, agents, env_options, load

__all__ = ["Agent", "agents", "env_options", "load"]
