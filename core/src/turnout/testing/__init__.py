"""For whoever tests a plugin. Nothing in here is imported by the rest of turnout."""
