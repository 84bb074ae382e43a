"""Annotations, frames, pixels and clips: everything between the user's files and arrays, given values, never a config."""
