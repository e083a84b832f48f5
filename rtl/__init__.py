"""rtl: labelled images in object storage in, a served classifier out."""

__version__ = "0.1.0"
