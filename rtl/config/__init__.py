"""The configuration: its keys, how it is read, and one typed tree of it.

schema.py        the sections: keys with types, defaults, ranges and comments
search_space.py  the section `search`, and the values that a search tries
tree.py          `Config`: all sections together, validated, changed, as a dict and back
loading.py       a YAML recipe and overrides become a `Config`
yaml12.py        YAML 1.2, in which `010` is ten and `1:30` is text
"""
