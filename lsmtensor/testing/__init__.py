"""Shipped with the package: what a plug-in of ours or of others must pass."""
