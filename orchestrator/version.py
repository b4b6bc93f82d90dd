"""The version of this build, said once: packages, heartbeats and images read it from here."""

VERSION = "1.5.0"
