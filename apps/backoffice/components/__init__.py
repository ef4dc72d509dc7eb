"""The shared pieces of the pages: pure Python that turns values into words, shapes and coordinates."""
