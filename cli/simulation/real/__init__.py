"""A fleet of light gateways in one process against a throw-away Primary: real TLS, real certificates, real sealed messages."""
