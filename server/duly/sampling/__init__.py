"""Keeps frames with their answers on disk, and the labels that clients send later: samples for people and for what
makes models better.

`sampler` decides which frames are kept, `link` hands them to a process of their own (`main`), which writes them, and
`store` reads them back. docs/sampling.md has what lies on the disk.
"""
