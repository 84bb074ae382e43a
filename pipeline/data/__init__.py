"""Annotations, frames, pixels and clips: everything between the user's files and arrays; takes values, never a config."""
