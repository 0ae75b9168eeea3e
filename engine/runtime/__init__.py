"""Shells around the domain: they carry out what the machines decide, in one process or on Ray, and keep the files."""
