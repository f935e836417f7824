"""Live previews for the point-hint canvas: sessions of prepared photos and their HTTP routes."""
