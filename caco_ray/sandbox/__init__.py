"""Runs untrusted Python programs, sealed off, and reports what they did."""

from caco_ray.sandbox.box import Sandbox
from caco_ray.sandbox.limits import Limits
from caco_ray.sandbox.result import ExecutionResult

__all__ = ["ExecutionResult", "Limits", "Sandbox"]
