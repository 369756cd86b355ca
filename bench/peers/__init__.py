"""Other durable engines, measured beside this one in the same run on the same machine.

A published figure says little: it was taken on another machine, on another day, by someone with a stake. So the
comparison installs each peer from its own package, at a pinned version, and lets it do the same works as ours, on the
same stores, turn by turn, so that a slow minute of the machine falls on all. Each peer runs as its users would run it:
its default durability, the settings it is fastest with, nothing patched. What cannot be installed or run becomes a
result that says why.
"""
