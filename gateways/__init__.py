"""The Primary's fleet: enrolment, channel, heartbeats, health, routes, dispatch."""
