"""Previews of the point-hint canvas: what it has open, and the addresses that it asks."""
