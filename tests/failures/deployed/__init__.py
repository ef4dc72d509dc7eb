"""An app that only a test's deployment installs: numbered messages, their handlers, and points to die at."""
