"""What Primary, gateway and agent say to each other. Pure Python: no Django, no I/O, no clock of its own."""
