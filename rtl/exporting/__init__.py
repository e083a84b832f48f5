"""A model for use outside rtl.

export.py  as one file for a runtime without rtl: ONNX or torch.export
card.py    its model card
"""
