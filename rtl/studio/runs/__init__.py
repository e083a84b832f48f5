"""Runs: `overview` reads them, `form` has the keys of a search, `start` begins and resumes one."""
