"""Readers of real logs: each turns a file into validated columns and a list of rejected rows."""
