"""Annotations, frames, pixels and clips: all between the user's files and arrays, given values, never a config."""
