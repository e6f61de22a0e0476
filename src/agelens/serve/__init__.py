"""The HTTP service: estimates over the network, batched across requests, within limits. Extra ``serve``."""
