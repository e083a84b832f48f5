"""Photos of the open data sets: their rows, thumbnails, filters, map of features, and faults.

index.py       id, split, label and confidence of each row, and where its image lies
thumbnails.py  small pictures, made once and kept in storage
photos.py      images of any row, small, large or as they came
filters.py     rows of a class, a split, a finding, a part of the map; in some order
faults.py      the audit, kept in storage
embedding.py   features on a plane
feature_map.py the map of a data set, kept in storage
work.py        audit, map and a version without near-duplicates as tasks
"""
