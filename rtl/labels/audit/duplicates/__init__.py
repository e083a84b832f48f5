"""Near-duplicates: the same photo saved again, scaled, cropped a little, mirrored or brightened.

candidates.py   pairs of rows that are alike, by features and by small grey pictures
alignment.py    how well one picture of a pair explains the other once it is laid over it
groups.py       the pairs that pass, and the groups that they form
"""
