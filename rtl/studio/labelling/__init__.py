"""Labels made on the page: kept one by one, asked for in an order, and learned from.

journal.py    the decisions, one small object each
scores.py     the score of each version's model
state.py      all of it for the open data set
queues.py     which photos to look at: suspect labels, and what to label next
opinion.py    the answer of a model for a photo, with its heatmap
retrain.py    a new version of the data set, and a model of it
curves.py     the learning curve, and what more labels would bring
"""
