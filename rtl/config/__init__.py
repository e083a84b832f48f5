"""The configuration: what can be set, how it is read, and one typed tree of it.

schema.py   the sections: keys, types, defaults, ranges, with a word on each
tree.py     `Config`: all sections together, checked, replaced, as a dict and back
loading.py  from a YAML recipe and `--set KEY=VALUE`
yaml12.py   YAML 1.2, in which `010` is ten and `1:30` is text
"""
