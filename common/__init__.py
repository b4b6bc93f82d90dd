"""Small shared Django plumbing without domain words: errors, API base, audit, clock, locks."""
