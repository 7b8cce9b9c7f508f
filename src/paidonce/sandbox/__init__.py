"""The gateways' offline twins behind one address: for the demo, for tests, and for work without a network."""

from paidonce.sandbox.app import SandboxApp, create_sandbox_app
from paidonce.sandbox.dials import Dials, Fault, Rule
from paidonce.sandbox.mounts import answer_below_mount, sandbox_cores, sandbox_environment
from paidonce.sandbox.transport import SandboxTransport
from paidonce.sandbox.webhooks import WebhookQueue, pending_webhooks

__all__ = [
    "Dials",
    "Fault",
    "Rule",
    "SandboxApp",
    "SandboxTransport",
    "WebhookQueue",
    "answer_below_mount",
    "create_sandbox_app",
    "pending_webhooks",
    "sandbox_cores",
    "sandbox_environment",
]
