"""The demonstration: the shop with the gateways' offline twins beside it, and the same once without a browser."""
