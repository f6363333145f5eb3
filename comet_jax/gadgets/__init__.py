"""Gadgets: programs of protocols for one mathematical function each, written against the builder.

A gadget has no cryptography of its own: its security and its ideal are those of its steps. Scales here are real
numbers: a wire holds round(value * scale).
"""
