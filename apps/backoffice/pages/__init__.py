"""One page each: ask the public queries, say it in words, render."""
