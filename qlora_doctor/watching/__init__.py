"""Inside a user's own training: hooks that come and go, facts as they are learned, never in the way."""
