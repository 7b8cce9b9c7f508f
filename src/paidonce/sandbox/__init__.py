"""The gateways' offline twins behind one address: for the demo, for tests, and for work without a network."""

from paidonce.sandbox.app import SandboxApp, SandboxTransport, create_sandbox_app, sandbox_cores, sandbox_environment

__all__ = ["SandboxApp", "SandboxTransport", "create_sandbox_app", "sandbox_cores", "sandbox_environment"]
