"""Annotations of other data sets, made into the plain table and its class list."""
