"""Agents for the handover environments: `policies.load(name, env)`."""

from policies.agent import Agent, agents, load

__all__ = ["Agent", "agents", "load"]
