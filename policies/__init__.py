"""Agents for the handover environments: `policies.load(name, env)`, `policies.env_options(name)`."""

from policies.agent import Agent, FunctionAgent, agents, env_options, load

__all__ = ["Agent", "FunctionAgent", "agents", "env_options", "load"]
