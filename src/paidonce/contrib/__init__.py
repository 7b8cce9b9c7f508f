"""Integrations with the frameworks and libraries that a shop may be built on. Each is imported by its users alone."""
