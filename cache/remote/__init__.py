"""Reads runs from object storage: downloads their files when they are read, and keeps them on this machine."""
