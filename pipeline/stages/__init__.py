"""The stages, one file each; they meet on disk and import one another not at all, but for `boxes`."""
