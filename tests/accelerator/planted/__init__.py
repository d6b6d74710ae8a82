"""Parts of a check that go wrong, each in its own way; a child process runs them."""
