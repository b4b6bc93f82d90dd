"""The processes of one node on one port: parent, front, and behind a private socket the workers (docs/adr/0027).

Modules that the parent and the front import know no Django: `wire`, `limits`, `lanes`, `http`, `tls`, `front`, `parent`,
`lifeline`.
"""
