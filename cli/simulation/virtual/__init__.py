"""The product's own decisions under a simulated network in virtual time: no socket, no server, no sleep.

`events` is the clock, `network` what becomes of a message, `gateway` and `primary` carry out what the pure modules decide,
`judge` watches the invariants, `world` puts them together.
"""
