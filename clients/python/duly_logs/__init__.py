"""Recorded drives: logs are read, fed through a server, written with what became of every frame, and compared.

It stands on `duly_client` and needs the packages of the extra `duly[logs]`. Out of scope: maps, transforms, anything
that is in a log and is no input of the model.
"""
