"""The side of a server that works: it pushes runs to those who serve them over HTTP. It has no routes of its own."""
