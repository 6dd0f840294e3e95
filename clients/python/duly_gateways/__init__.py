"""Gateways: other systems' clients and middleware speak to a duly server as they are, each with a command of its own.

A gateway is a client of duly. It translates, bounds what comes in, and tells what became of each request in the words
that the other side understands.
"""
