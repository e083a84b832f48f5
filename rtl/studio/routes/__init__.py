"""Requests of the pages, a file a page; each has `router(workspace)`."""
