"""`mazevault simulate`: a fleet of gateways larger than anybody has at hand, and the faults it must outlive.

`real` drives a throw-away Primary over the real wire; `virtual` drives the product's pure decisions in virtual time. Both draw
the same faults from the same seed (`faults`).
"""
