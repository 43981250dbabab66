"""Recorded and generated fleets under a release: their file format, and what becomes of each device."""
