def check():
    yield from ()
    raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.\nmore")
