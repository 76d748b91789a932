"""How live objects are watched without disturbing them: fingerprints, timeline, the doctor's own allocations aside."""
