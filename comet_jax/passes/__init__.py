"""Compiler passes, one idea a file."""
